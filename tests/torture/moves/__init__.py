# SPDX-License-Identifier: Apache-2.0
"""The moves. To import it is to have them all."""

from tests.torture.moves import actions, clients, machines, servers

__all__ = ["actions", "clients", "machines", "servers"]
