# SPDX-License-Identifier: Apache-2.0
"""Machines and a unit agent that run packed charms for real on one computer.

This is for trying and testing. It is not Juju; production is Juju.
"""
