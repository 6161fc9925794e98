# SPDX-License-Identifier: Apache-2.0
"""The endpoint `cos-agent`: what a collector on this machine is told, in this unit's databag.

Its one key, `config`, is a JSON object (interface cos_agent, version 0, in canonical/charmlibs):
what to scrape, rules of alerts for Prometheus, dashboards for Grafana as base64 of xz. Rules and
dashboards are taken from one unit of an application, so they say nothing of a unit.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ops
import yaml

ENDPOINT = "cos-agent"
RULES = Path(__file__).parent / "prometheus_alert_rules"
DASHBOARDS = Path(__file__).parent / "grafana_dashboards"
# Where in an expression it is to be said whose metrics are meant (cos-lib, rules.py).
TOPOLOGY = "%%juju_topology%%"


@dataclass(frozen=True)
class Topology:
    """Whose metrics they are."""

    model: str
    model_uuid: str
    application: str
    charm: str

    @property
    def matchers(self) -> str:
        """What selects them in PromQL."""
        labels = self.labels.items()
        return ", ".join(f'{key}="{value}"' for key, value in labels if key != "juju_charm")

    @property
    def labels(self) -> dict[str, str]:
        """What an alert says of them."""
        return {
            "juju_model": self.model,
            "juju_model_uuid": self.model_uuid,
            "juju_application": self.application,
            "juju_charm": self.charm,
        }

    @property
    def group_prefix(self) -> str:
        """Begins the names of groups of rules, which are those of one Prometheus."""
        words = f"{self.model}_{self.model_uuid[:8]}_{self.application}_"
        return "".join(it if it.isalnum() and it.isascii() else "_" for it in words)


class CosAgent:
    """The relation with the collector on this machine; there is one at most."""

    def __init__(self, charm: ops.CharmBase):
        self._unit = charm.unit
        self._model = charm.model
        self._topology = Topology(
            charm.model.name, charm.model.uuid, charm.app.name, charm.meta.name
        )

    @property
    def is_there(self) -> bool:
        """Whether there is a collector; not one that is leaving."""
        return bool(self._model.relations[ENDPOINT])

    def publish(self, target: str) -> None:
        """Tell the collector what to scrape, "127.0.0.1:80"; empty: nothing of this unit."""
        for relation in self._model.relations[ENDPOINT]:
            config = render(self._topology, target, _texts(RULES), _texts(DASHBOARDS))
            relation.data[self._unit].update({"config": config})


def _texts(directory: Path) -> list[str]:
    return [path.read_text() for path in sorted(directory.iterdir())]


def render(
    topology: Topology, target: str, rules: Iterable[str], dashboards: Iterable[str]
) -> str:
    """Write the key `config`; the same for the same, byte by byte.

    Args:
        topology: whose metrics they are.
        target: what to scrape; empty: nothing.
        rules: files of rules, as YAML.
        dashboards: as JSON.
    """
    groups = [group for text in rules for group in _groups(text, topology)]
    job = {
        "job_name": f"{topology.application}_exporter",
        "metrics_path": "/metrics",
        "static_configs": [{"targets": [target]}],
    }
    config = {
        "metrics_alert_rules": {"groups": groups},
        "log_alert_rules": {},
        "dashboards": [_packed(text) for text in dashboards],
        "metrics_scrape_jobs": [job] if target else [],
        "log_slots": [],
    }
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def _groups(text: str, topology: Topology) -> Iterator[dict[str, Any]]:
    """Read a file of rules, and make its rules those of one application."""
    filled = text.replace(TOPOLOGY, topology.matchers)
    for group in yaml.safe_load(filled)["groups"]:
        rules = [
            {**rule, "labels": {**topology.labels, **rule["labels"]}} for rule in group["rules"]
        ]
        yield {**group, "name": f"{topology.group_prefix}{group['name']}_rules", "rules": rules}


def _packed(dashboard: str) -> str:
    """Pack a dashboard; least effort takes 3 MiB, most would take 94 (xz(1))."""
    import lzma  # Here, as hooks without a collector have no use for it.

    plain = json.dumps(json.loads(dashboard), sort_keys=True, separators=(",", ":"))
    return base64.b64encode(lzma.compress(plain.encode(), preset=0)).decode()
