# SPDX-License-Identifier: Apache-2.0
"""What a collector is told: held against what the interface cos_agent, version 0, says of it."""

import base64
import hashlib
import json
import lzma
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import ops
import pytest
from fake_machine import FakeMachine
from ops import testing
from test_charm import SHARES, Context, client, state

import claim
import cos_agent
import monitoring
import values
from cos_agent import Topology

COLLECTOR = testing.Relation("cos-agent", id=9, remote_app_name="collector")
TOPOLOGY = Topology("model-1", "2e0f1c2a-5a3b-4c1d-8e2f-0123456789ab", "files", "nfs-server")
TARGET = "127.0.0.1:20490"
LOKI_RULE = {"alert", "expr", "for", "labels", "annotations"}


def _texts(directory: Path) -> list[str]:
    return [path.read_text() for path in sorted(directory.iterdir())]


def _rendered(target: str = TARGET, topology: Topology = TOPOLOGY) -> str:
    return cos_agent.render(
        topology, target, _texts(cos_agent.RULES), _texts(cos_agent.DASHBOARDS)
    )


def check(config: str) -> dict[str, Any]:
    """Hold a databag's `config` against the published description of the interface."""
    found = json.loads(config)
    needed = {
        "metrics_alert_rules": dict,
        "log_alert_rules": dict,
        "dashboards": list,
        "metrics_scrape_jobs": list,
        "log_slots": list,
    }
    optional = {"tracing_protocols", "subordinate"}
    assert needed.keys() <= found.keys() <= needed.keys() | optional
    for key, kind in needed.items():
        assert isinstance(found[key], kind)
    for rules in found["metrics_alert_rules"], found["log_alert_rules"]:
        assert rules.keys() <= {"groups"}
        for group in rules.get("groups", []):
            assert group.keys() == {"name", "rules"}
            for rule in group["rules"]:
                assert {"alert", "expr"} <= rule.keys() <= LOKI_RULE
                for texts in rule["labels"], rule["annotations"]:
                    assert all(isinstance(it, str) for pair in texts.items() for it in pair)
    for packed in found["dashboards"]:
        assert packed.startswith("/Td6WFoA")  # xz, as base64.
        assert json.loads(lzma.decompress(base64.b64decode(packed, validate=True)))["title"]
    for job in found["metrics_scrape_jobs"]:
        assert isinstance(job["job_name"], str)
        assert job["metrics_path"].startswith("/")
        for static in job["static_configs"]:
            assert static.keys() <= {"targets", "labels"}
            assert all(re.fullmatch(r"[^/]+:\d+", it) for it in static["targets"])
            # The collector's own: it would put others in their place.
            assert not any(it.startswith("juju_") for it in static.get("labels", {}))
    assert all(isinstance(it, str) and ":" in it for it in found["log_slots"])
    return found


def test_it_is_as_published():
    found = check(_rendered())
    assert found["metrics_scrape_jobs"] == [
        {
            "job_name": "files_exporter",
            "metrics_path": "/metrics",
            "static_configs": [{"targets": [TARGET]}],
        }
    ]
    assert (found["log_alert_rules"], found["log_slots"]) == ({}, [])


def test_it_is_the_same_for_the_same():
    assert _rendered() == _rendered()


def test_rules_are_of_one_application():
    """As cos-lib makes them: names of groups, labels, and a matcher in each selector."""
    groups = check(_rendered())["metrics_alert_rules"]["groups"]
    assert groups
    for group in groups:
        assert re.fullmatch(r"model_1_2e0f1c2a_files_[a-z_]+_rules", group["name"])
        # What cos-lib takes for a name that has all that already.
        assert re.fullmatch(r"^.*?_[0-9a-f]{8}_.*?rules$", group["name"])
        for rule in group["rules"]:
            assert rule["labels"].items() > TOPOLOGY.labels.items()
            assert "juju_unit" not in rule["labels"]
            selectors = re.findall(
                r"\b(?:nfs_(?:share|server)_\w+|node_nfsd_\w+|up)\b(.?)", rule["expr"]
            )
            assert selectors
            assert set(selectors) == {"{"}
            found = set(re.findall(r"\{([^}]*)\}", rule["expr"]))
            assert found == {
                'juju_model="model-1", juju_model_uuid="2e0f1c2a-5a3b-4c1d-8e2f-0123456789ab",'
                ' juju_application="files"'
            }


def test_each_alert_says_what_to_do():
    groups = check(_rendered())["metrics_alert_rules"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["description"].endswith(".")
        assert not rule["annotations"]["summary"].endswith(".")
        if "share" in rule["alert"].lower():
            assert (
                "{{ $labels.share }} ({{ $labels.application }})" in rule["annotations"]["summary"]
            )


def test_dashboards_are_what_the_collector_makes_of_them():
    """Its identity and its tag are those that the published library would give it."""
    for path in cos_agent.DASHBOARDS.iterdir():
        dashboard = json.loads(path.read_text())
        words = f"nfs-server-src/grafana_dashboards/{path.name}"
        assert dashboard["uid"] == hashlib.shake_256(words.encode()).hexdigest(20)
        assert "charm: nfs-server" in dashboard["tags"]


def test_a_topology_with_words_of_its_own():
    topology = replace(TOPOLOGY, model="a.b", application="files-2")
    groups = check(_rendered(topology=topology))["metrics_alert_rules"]["groups"]
    assert groups[0]["name"].startswith("a_b_2e0f1c2a_files_2_")


def relation(out: testing.State) -> testing.Relation:
    """The integration as a hook left it."""
    found = out.get_relation(COLLECTOR.id)
    assert isinstance(found, testing.Relation)
    return found


def told(out: testing.State) -> dict[str, Any]:
    """What the collector is told."""
    return check(relation(out).local_unit_data["config"])


def with_collector(*relations: testing.Relation, leader: bool = True) -> testing.State:
    found = state(*relations, leader=leader)
    return replace(found, relations={*found.relations, COLLECTOR})


@pytest.mark.parametrize("leader", [True, False])
def test_each_unit_tells_its_collector(machine: FakeMachine, context: Context, leader: bool):
    out = context.run(context.on.relation_created(COLLECTOR), with_collector(leader=leader))
    (job,) = told(out)["metrics_scrape_jobs"]
    assert job["static_configs"] == [{"targets": [TARGET]}]
    assert machine.facts is not None
    assert machine.facts.shares == ()
    assert machine.facts.reserve_bytes > 0
    # The second time there is nothing to do.
    machine.changes.clear()
    again = context.run(context.on.config_changed(), out)
    assert machine.changes == []
    assert told(again) == told(out)


def test_the_exporter_knows_what_the_charm_knows(machine: FakeMachine, context: Context):
    c = client()
    out = context.run(context.on.relation_changed(c), with_collector(c))
    assert machine.facts
    (data,) = machine.facts.shares
    assert data == monitoring.ShareFacts(
        name="/data",
        where=str(values.share_directory("/data")),
        image=str(
            next(iter(out.storages)).get_filesystem(context) / f"{values.share_id('/data')}.img"
        ),
        applications="app1",
        is_sparse=False,
        is_requested=True,
    )
    assert machine.facts.allocated_bytes >= 10 * values.GIB
    # An image that is gone is a share that is not mounted.
    del machine.on_storage["/data"]
    context.run(context.on.config_changed(), out)
    assert machine.facts.shares == (replace(data, is_requested=False),)


def test_without_storage(machine: FakeMachine, context: Context):
    now = replace(with_collector(), storages=set())
    out = context.run(context.on.relation_created(COLLECTOR), now)
    assert machine.facts == monitoring.Facts()
    assert told(out)["metrics_scrape_jobs"]


def test_the_collector_goes(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_created(COLLECTOR), with_collector())
    out = context.run(context.on.relation_broken(relation(now)), now)
    assert machine.facts is None
    assert out.unit_status == ops.ActiveStatus()


def test_no_collector(machine: FakeMachine, context: Context):
    context.run(context.on.config_changed(), state())
    assert machine.facts is None
    assert "monitored" not in machine.changes


def test_a_unit_that_leaves(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_created(COLLECTOR), with_collector())
    machine.goal = {machine.unit: "dying"}
    context.run(context.on.storage_detaching(SHARES), now)
    assert machine.facts is None


def test_another_unit_has_the_machine(machine: FakeMachine, context: Context, tmp_path: Path):
    """Its exporter is not touched, and not taken for this unit's; the rules are the same."""
    other = claim.Claim("files/3", "another", str(tmp_path))
    claim.take(other)
    machine.facts = monitoring.Facts()
    out = context.run(context.on.relation_created(COLLECTOR), with_collector())
    found = told(out)
    assert found["metrics_scrape_jobs"] == []
    assert found["metrics_alert_rules"]["groups"]
    assert machine.facts == monitoring.Facts()
    assert machine.changes == []
    assert machine.noted_hooks == 0
    context.run(context.on.relation_broken(relation(out)), out)
    assert machine.facts == monitoring.Facts()


def test_the_port_is_anothers(machine: FakeMachine, context: Context):
    machine.is_port_free = False
    out = context.run(context.on.relation_created(COLLECTOR), with_collector())
    says = "Metrics are not served: port 20490 is taken: end who has it, ss -ltnp"
    assert out.unit_status == ops.BlockedStatus(says)
    assert told(out)["metrics_scrape_jobs"] == []
    machine.is_port_free = True
    out = context.run(context.on.update_status(), out)
    assert out.unit_status == ops.ActiveStatus()
    assert told(out)["metrics_scrape_jobs"]


def test_hooks_are_noted(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_created(COLLECTOR), with_collector())
    before = machine.noted_hooks
    context.run(context.on.update_status(), now)
    assert machine.noted_hooks == before + 1
