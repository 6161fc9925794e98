#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calls what there is of ops, so that all it runs and reads passes through the hook commands."""

import ops


class ProbeCharm(ops.CharmBase):
    """Tells each relation what it has read, and gives all of it as an action's results."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        framework.observe(self.on["share"].relation_created, self._on_share)
        framework.observe(self.on["share"].relation_broken, self._on_broken)
        framework.observe(self.on.probe_action, self._on_probe)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)
        framework.observe(self.on.collect_app_status, self._on_collect_status)

    def _on_share(self, event: ops.RelationCreatedEvent):
        event.relation.data[self.unit]["size"] = str(self.config["size"])
        event.relation.data[self.unit]["gone"] = "soon"
        del event.relation.data[self.unit]["gone"]
        if self.unit.is_leader():
            event.relation.data[self.app]["leader"] = self.unit.name
        self.unit.set_ports(2049, ops.Port("udp", 111))
        self.unit.set_workload_version("1.0")

    def _on_broken(self, event: ops.RelationBrokenEvent):
        assert not event.relation.active

    def _on_probe(self, event: ops.ActionEvent):
        event.log("probing")
        network = self.model.get_binding("share").network
        storage = self.model.storages["data"][0]
        relation = self.model.get_relation("share")
        event.set_results(
            {
                "depth": event.params["depth"],
                "address": str(network.bind_address),
                "egress": str(network.egress_subnets[0]),
                "location": str(storage.location),
                "ports": " ".join(sorted(str(port.port) for port in self.unit.opened_ports())),
                "planned": self.app.planned_units(),
                "config": {"keys": " ".join(sorted(self.config))},
                "remote": {"app": relation.app.name, "size": self._sizes(relation)},
                "status": self.unit.status.name,
            }
        )

    def _sizes(self, relation: ops.Relation) -> str:
        return " ".join(f"{u.name}={relation.data[u].get('size')}" for u in relation.units)

    def _on_collect_status(self, event: ops.CollectStatusEvent):
        event.add_status(ops.ActiveStatus("probed"))


if __name__ == "__main__":
    ops.main(ProbeCharm)
