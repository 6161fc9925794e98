# SPDX-License-Identifier: Apache-2.0
"""Machines, their disks, network and power; nothing here knows Juju."""
