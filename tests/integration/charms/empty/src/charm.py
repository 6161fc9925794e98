#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A charm that is active, with ops, and does nothing else."""

import ops


class Empty(ops.CharmBase):
    """Is active."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        event.add_status(ops.ActiveStatus())


if __name__ == "__main__":
    ops.main(Empty)
