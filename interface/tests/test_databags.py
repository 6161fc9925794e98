# SPDX-License-Identifier: Apache-2.0
"""The schema and the library say the same of each databag; the pages have the same keys."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import ops
import pytest
from ops.testing import Context, Relation, State

from charms.storage_libs.v0 import nfs_interfaces
from charms.storage_libs.v0.nfs_interfaces import NFSProvides, NFSRequires

ROOT = Path(__file__).resolve().parent.parent.parent
V0 = ROOT / "interface/v0"
SCHEMA = json.loads((V0 / "schema.json").read_text())
CASES = json.loads((V0 / "databags.json").read_text())
ROW = re.compile(r"(?m)^\| (requires|provides) \| `(\w+)` \|")


class Charm(ops.CharmBase):
    """Stands on both sides: reads what the other one says."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.requirer = NFSRequires(self, "server")
        self.provider = NFSProvides(self, "client")


META = {
    "name": "both",
    "requires": {"server": {"interface": "nfs_share"}},
    "provides": {"client": {"interface": "nfs_share"}},
}


def is_by_library(side: str, databag: dict[str, str]) -> bool:
    # Juju has no empty values: they are no keys.
    data = {key: value for key, value in databag.items() if value}
    endpoint = "client" if side == "requirer" else "server"
    context = Context(Charm, meta=META)
    relation = Relation(endpoint, remote_app_data=data)
    with context(context.on.update_status(), State(relations={relation})) as manager:
        charm = manager.charm
        read = charm.provider.requests() if side == "requirer" else charm.requirer.shares()
        manager.run()
    # A server says in `error` that it refuses; what can't be read has another one.
    return all(it.error in ("", databag.get("error")) for it in read)


def is_by_schema(side: str, databag: dict[str, str]) -> bool:
    schema = {**SCHEMA, "$ref": f"#/$defs/{side}"}
    return jsonschema.Draft202012Validator(schema).is_valid(databag)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert {case["side"] for case in CASES} == SCHEMA["$defs"].keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['side']}: {case['why']}")
def test_a_databag(case: dict[str, Any]):
    side, databag = case["side"], case["databag"]
    assert is_by_schema(side, databag) is case["valid"]
    assert is_by_library(side, databag) is case["valid"]


@pytest.mark.parametrize("side", ["requirer", "provider"])
def test_each_key_has_both_kinds(side: str):
    """But for those whose every text is valid."""
    keys = {key for key, it in SCHEMA["$defs"][side]["properties"].items() if "pattern" in it}
    for valid in True, False:
        of_kind = [it for it in CASES if (it["side"], it["valid"]) == (side, valid)]
        assert keys <= {key for case in of_kind for key in case["databag"]}


@pytest.mark.parametrize(
    "page", [str(nfs_interfaces.__doc__), (ROOT / "docs/reference.md").read_text()]
)
def test_the_tables_have_the_keys_of_the_schema(page: str):
    sides = {"requires": "requirer", "provides": "provider"}
    found = {(sides[side], key) for side, key in ROW.findall(page)}
    defined = SCHEMA["$defs"].items()
    assert found == {(side, key) for side, it in defined for key in it["properties"]}
