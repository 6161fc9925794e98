# SPDX-License-Identifier: Apache-2.0
"""The Terraform modules against the charms and against themselves: there is no terraform here."""

import functools
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHARMS = ROOT / "charms"
PAIR = ROOT / "terraform"
MODULES = sorted(CHARMS.glob("*/terraform"))

EVERYWHERE = {
    "app_name",
    "base",
    "channel",
    "config",
    "endpoint_bindings",
    "model_uuid",
    "revision",
}
WITH_MACHINES = {"constraints", "storage_directives", "units"}
# Of resource juju_application, providers 1.0 to 2.2.
ARGUMENTS = {
    "charm",
    "config",
    "constraints",
    "endpoint_bindings",
    "expose",
    "machines",
    "model_uuid",
    "name",
    "resources",
    "storage_directives",
    "trust",
    "units",
}


def plain(found: Any) -> Any:
    """What the parser found, without its quotation marks and remarks."""
    if isinstance(found, dict):
        return {plain(key): plain(it) for key, it in found.items() if not key.startswith("__")}
    if isinstance(found, list):
        return [plain(it) for it in found]
    return found.removeprefix('"').removesuffix('"') if isinstance(found, str) else found


@functools.cache
def parsed(module: Path, name: str) -> dict[str, Any]:
    with (module / f"{name}.tf").open() as file:
        return plain(hcl2.load(file))


def blocks(module: Path, name: str, kind: str) -> dict[str, Any]:
    return {name: it for block in parsed(module, name)[kind] for name, it in block.items()}


@pytest.fixture(params=MODULES, ids=lambda module: module.parent.name)
def module(request: pytest.FixtureRequest) -> Path:
    return request.param


def charm(module: Path) -> dict[str, Any]:
    return yaml.safe_load((module.parent / "charmcraft.yaml").read_text())


def resource(module: Path) -> dict[str, Any]:
    (block,) = parsed(module, "main")["resource"]
    (found,) = block["juju_application"].values()
    return found


def test_there_is_one_for_each_charm():
    assert [module.parent for module in MODULES] == sorted(
        path.parent for path in CHARMS.glob("*/charmcraft.yaml")
    )


def test_files(module: Path):
    files = {"README.md", "main.tf", "outputs.tf", "variables.tf", "versions.tf"}
    assert {path.name for path in module.iterdir()} == files


def test_variables(module: Path):
    variables = blocks(module, "variables", "variable")
    is_subordinate = charm(module).get("subordinate", False)
    assert set(variables) == EVERYWHERE | (set() if is_subordinate else WITH_MACHINES)
    assert [name for name, it in variables.items() if "default" not in it] == ["model_uuid"]
    assert variables["app_name"]["default"] == charm(module)["name"]
    ubuntu = {platform.rpartition(":")[0] for platform in charm(module)["platforms"]}
    assert variables["base"]["default"] in ubuntu
    for name, variable in variables.items():
        assert variable["description"], name
        assert re.fullmatch(r"string|number|\$\{(map\(string\)|set\(object.*)\}", variable["type"])
        assert variable.get("default", "") is not None or "nullable" not in variable, name


def test_variables_are_used_and_those_used_exist(module: Path):
    used = set(re.findall(r"\bvar\.(\w+)", (module / "main.tf").read_text()))
    assert used == set(blocks(module, "variables", "variable"))


def test_the_application(module: Path):
    application = resource(module)
    assert application.keys() <= ARGUMENTS
    assert application["charm"] == [
        {
            "name": charm(module)["name"],
            "channel": "${var.channel}",
            "revision": "${var.revision}",
            "base": "${var.base}",
        }
    ]


def test_outputs(module: Path):
    outputs = blocks(module, "outputs", "output")
    assert set(outputs) == {"app_name", "provides", "requires"}
    name = charm(module)["name"].replace("-", "_")
    assert outputs["app_name"]["value"] == f"${{juju_application.{name}.name}}"
    for role in ("provides", "requires"):
        endpoints = {it.replace("-", "_"): it for it in charm(module).get(role, {})}
        assert outputs[role]["value"] == endpoints


def test_the_provider(module: Path):
    (terraform,) = parsed(module, "versions")["terraform"]
    (providers,) = terraform["required_providers"]
    assert providers == {"juju": {"source": "juju/juju", "version": ">= 1.0.0"}}
    assert terraform["required_version"]


def test_the_page_has_every_variable_and_output(module: Path):
    page = (module / "README.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)` \|", page)
    outputs = blocks(module, "outputs", "output")
    assert rows == [*blocks(module, "variables", "variable"), *outputs]


def test_the_example_fits(module: Path):
    """What the page's example sets and reads exists, in this module and in the other."""
    (example,) = re.findall(r"(?ms)^```hcl\n(.*?)^```", (module / "README.md").read_text())
    (block,) = plain(hcl2.loads(example))["module"]
    (arguments,) = block.values()
    assert arguments.keys() - {"source"} <= set(blocks(module, "variables", "variable"))
    assert arguments["source"].endswith(f"//charms/{module.parent.name}/terraform")
    for name, role, endpoint in re.findall(r"module\.(\w+)\.(\w+)\.(\w+)", example):
        other = CHARMS / name.replace("_", "-") / "terraform"
        assert endpoint in blocks(other, "outputs", "output")[role]["value"]


def test_the_pair_uses_its_variables():
    used = set(re.findall(r"\bvar\.(\w+)", (PAIR / "main.tf").read_text()))
    assert used == set(blocks(PAIR, "variables", "variable"))


def test_the_pair_gives_the_charms_modules_what_they_take():
    modules = blocks(PAIR, "main", "module")
    assert len(modules) == len(MODULES)
    for name, arguments in modules.items():
        module = CHARMS / name.replace("_", "-") / "terraform"
        assert arguments["source"] == f"../{module.relative_to(ROOT)}"
        assert arguments.keys() - {"source"} <= set(blocks(module, "variables", "variable"))
    for name, role, endpoint in re.findall(
        r"module\.(\w+)\.(requires|provides)\.(\w+)", (PAIR / "main.tf").read_text()
    ):
        module = CHARMS / name.replace("_", "-") / "terraform"
        assert endpoint in blocks(module, "outputs", "output")[role]["value"]


def test_the_page_of_the_pair():
    page = (PAIR / "README.md").read_text()
    variables = blocks(PAIR, "variables", "variable")
    assert re.findall(r"(?m)^\| `(\w+)` \|", page) == [
        *variables,
        *blocks(PAIR, "outputs", "output"),
    ]
    (example,) = re.findall(r"(?ms)^```hcl\n(.*?)^```", page)
    ((arguments,),) = (block.values() for block in plain(hcl2.loads(example))["module"])
    required = {name for name, it in variables.items() if "default" not in it}
    assert required <= arguments.keys() - {"source"} <= set(variables)
