# SPDX-License-Identifier: Apache-2.0
"""Juju's rules, with no I/O."""
