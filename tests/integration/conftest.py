# SPDX-License-Identifier: Apache-2.0
"""Where the suite runs, and the charms that it deploys.

The tests speak Juju's own command, through jubilant. ``--substrate`` decides whose: ``juju`` for
the controller that is current, 3.6 or 4; ``sandbox`` for the sandbox's.
"""

import json
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jubilant
import pytest

import prometheus
import revisions
from machines import GivenMachines, LxdMachines, SandboxMachines, sandbox_model
from revisions import INSTALLED, packed_charm, packed_from
from sandbox.machines.images import host_release
from story import APP, CLIENT, SERVER, Story

ROOT = Path(__file__).resolve().parent.parent.parent
CONSTRAINTS = {"virt-type": "virtual-machine", "mem": "2G", "root-disk": "16G"}
"""Of a new machine that can serve NFS; a container of LXD can't."""
# Juju's own pool of LXD is a directory, whose volumes have no size.
POOL = "disks"
POOL_ATTRIBUTES = ("driver=lvm", "lxd-pool=juju-disks", "size=60GiB")
# What `juju ssh` uses. Juju 4 lets nobody in by it until it is added.
JUJU_KEY = Path("~/.local/share/juju/ssh/juju_id_ed25519.pub")
CONTROLLERS_TIMEOUT_S = 60
PACK_TIMEOUT_S = 1200
REPORTED_LOG_LINES = 40
# They come first, so that where modules run side by side none is left to run alone.
LONGEST = ("test_history", "test_life", "test_units", "test_server_hand")
CHARMS = {
    SERVER: ROOT / "charms" / "nfs-server",
    CLIENT: ROOT / "charms" / "nfs-client",
    APP: ROOT / "tests" / "integration" / "charms" / "any-app",
}
Machines = SandboxMachines | LxdMachines | GivenMachines
OFFERED = pytest.StashKey[set[str]]()
FAILED = pytest.StashKey[set[str]]()
MODEL = pytest.StashKey[jubilant.Juju]()


def pytest_addoption(parser: pytest.Parser):
    group = parser.getgroup("substrate", "where the charms are deployed")
    group.addoption(
        "--substrate",
        choices=["juju", "sandbox"],
        help="default: juju where `juju` has a current controller, else the sandbox",
    )
    group.addoption(
        "--base",
        help="what the charms are packed for and deployed on: on Juju, Ubuntu 22.04, 24.04"
        " (default) or 26.04; in the sandbox, Debian 12 or 13 (default: as this computer)",
    )
    group.addoption(
        "--machines",
        metavar="ssh:ubuntu@HOST,…",
        help="place units on these machines, which each module's model is given (add-machine)",
    )
    group.addoption(
        "--juju",
        choices=["3.6", "4.0"],
        default="3.6",
        help="whose ways the sandbox follows (default: 3.6)",
    )
    group.addoption(
        "--server-absence",
        type=float,
        default=180.0,
        help="seconds that the server is absent at a client's boot (default: 180)",
    )


def pytest_configure(config: pytest.Config):
    config.addinivalue_line("markers", "needs(*what): what the machines must offer; machines.py")
    config.addinivalue_line("markers", "slow: takes minutes; .ci/run runs it, ./dev test does not")
    config.addinivalue_line("markers", "bare: on machines that don't have nfs-common yet")
    config.addinivalue_line("markers", "incremental: when it fails, the rest of its module fails")
    version = _controller_version()
    config.option.substrate = config.getoption("--substrate") or ("juju" if version else "sandbox")
    # python-libjuju can't speak to Juju 4; in the sandbox stand_in.py has what is used of it.
    is_sandbox = config.option.substrate == "sandbox"
    if is_sandbox:
        config.pluginmanager.import_plugin("stand_in")
    config.option.base = config.option.base or (host_release() if is_sandbox else "24.04")
    config.stash[OFFERED] = {
        *_kind(config).offers,
        # In the sandbox nothing is left out: what is not there fails.
        *(["prometheus"] if is_sandbox or prometheus.find("promtool") else []),
        *(["libjuju"] if is_sandbox or version.startswith("3.") else []),
        *(["revisions"] if is_sandbox and revisions.are_there() else []),
    }
    config.stash[FAILED] = set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    for item in items:
        needs = {it for mark in item.iter_markers("needs") for it in mark.args}
        if lacking := needs - config.stash[OFFERED]:
            reason = f"these machines don't offer it: {', '.join(sorted(lacking))}"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup(item: pytest.Item):
    if str(item.path) in item.config.stash[FAILED]:
        pytest.fail("an earlier test, on which this one rests, failed", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the model looks like, and what its units said last."""
    report = yield
    if report.failed and item.get_closest_marker("incremental"):
        item.config.stash[FAILED].add(str(item.path))
    juju = item.config.stash.get(MODEL, None)
    if report.failed and juju is not None and call.when == "call":
        log = juju.debug_log(limit=REPORTED_LOG_LINES)
        report.sections.append((f"model {juju.model}", f"{juju.cli('status')}\n{log}"))
    return report


def _controller_version() -> str:
    """Return the version of the current controller of `juju`; empty where there is none."""
    juju = shutil.which("juju")
    if juju is None:
        return ""
    listed = subprocess.run(
        [juju, "controllers", "--format=json"],
        capture_output=True,
        check=True,
        timeout=CONTROLLERS_TIMEOUT_S,
    )
    found = json.loads(listed.stdout)
    controllers = found.get("controllers") or {}
    return controllers.get(found.get("current-controller"), {}).get("agent-version", "")


def _kind(config: pytest.Config) -> type[Machines]:
    if config.getoption("--substrate") == "sandbox":
        return SandboxMachines
    return GivenMachines if config.getoption("--machines") else LxdMachines


# The charms


def pytest_report_header(config: pytest.Config) -> str:
    return f"substrate: {config.getoption('--substrate')}, {_kind(config).__name__}"


@pytest.fixture(scope="session")
def pack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Path]:
    """Return what finds or packs the charm of a directory: or that of CHARM_PATH_<NAME>."""

    def packed(directory: Path) -> Path:
        variable = f"CHARM_PATH_{directory.name.upper().replace('-', '_')}"
        if given := os.environ.get(variable):
            return Path(given).resolve(strict=True)
        if request.config.getoption("--substrate") == "sandbox":
            base: str = request.config.option.base
            # tox has temporary directories below .cache.
            is_ours = directory.is_relative_to(ROOT) and ".cache" not in directory.parts
            return packed_charm(directory.name, base) if is_ours else packed_from(directory, base)
        output = tmp_path_factory.mktemp(directory.name)
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        where = f"ubuntu@{request.config.getoption('--base')}:{architecture}"
        command = ["charmcraft", "pack", f"--platform={where}", f"--output={output}"]
        subprocess.run(command, cwd=directory, check=True, timeout=PACK_TIMEOUT_S)
        (charm,) = output.glob("*.charm")
        return charm

    return packed


@pytest.fixture(scope="session")
def charms(pack: Callable[[Path], Path]) -> Mapping[str, Path]:
    """Both charms, and a principal that does nothing, by the names of their applications."""
    return {name: pack(directory) for name, directory in CHARMS.items()}


@pytest.fixture(scope="session")
def library_03_charm(pack: Callable[[Path], Path]) -> Path:
    """A principal charm that speaks as version 0.3 of the library did, on either side."""
    return pack(ROOT / "tests" / "integration" / "charms" / "library-03")


@pytest.fixture(scope="session")
def collector_charm(pack: Callable[[Path], Path]) -> Path:
    """A subordinate charm that requires `cos_agent`."""
    return pack(ROOT / "tests" / "integration" / "charms" / "collector")


# The model


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Generator[tuple[jubilant.Juju, Machines], None, None]:
    """Give each module of tests a model of its own."""
    config = request.config
    name = f"{request.module.__name__.replace('_', '-')}-{secrets.token_hex(2)}"
    if config.getoption("--substrate") == "sandbox":
        context = sandbox_model(
            name,
            _say(config),
            base=config.option.base,
            juju=config.option.juju,
            installed=() if request.node.get_closest_marker("bare") else INSTALLED,
            keep=config.option.keep_models,
        )
    else:
        context = _juju_model(config, name)
    with context as (juju, machines):
        # Juju keeps INFO and above unless it is told otherwise; concierge lets no hook be retried.
        juju.model_config(
            {"logging-config": "<root>=INFO;unit=DEBUG", "automatically-retry-hooks": "true"}
        )
        config.stash[MODEL] = juju
        yield juju, machines
        del config.stash[MODEL]


@contextmanager
def _juju_model(
    config: pytest.Config, name: str
) -> Generator[tuple[jubilant.Juju, Machines], None, None]:
    juju = jubilant.Juju()
    juju.add_model(name, config.getoption("--cloud"), controller=config.getoption("--controller"))
    if _controller_version().startswith("4"):
        juju.add_ssh_key(JUJU_KEY.expanduser().read_text().strip())
    machines = GivenMachines(juju) if config.getoption("--machines") else LxdMachines(juju)
    if isinstance(machines, LxdMachines):
        juju.cli("create-storage-pool", POOL, "lxd", *POOL_ATTRIBUTES)
    yield juju, machines
    machines.close()
    if not config.option.keep_models:
        juju.destroy_model(juju.model or name, destroy_storage=True, force=True)


@pytest.fixture(scope="module")
def story(
    request: pytest.FixtureRequest,
    model: tuple[jubilant.Juju, Machines],
    charms: Mapping[str, Path],
) -> Story:
    juju, machines = model
    given: str | None = request.config.getoption("--machines")
    for target in given.split(",") if given else ():
        juju.add_machine(target)
    free = sorted(juju.status().machines, key=int)

    def place(count: int) -> Mapping[str, Any]:
        if isinstance(machines, LxdMachines):
            return {"constraints": CONSTRAINTS}
        if isinstance(machines, SandboxMachines):
            return {}
        assert len(free) >= count, f"{count} machines are needed, {free} are left"
        return {"to": [free.pop(0) for _ in range(count)]}

    pool = POOL if isinstance(machines, LxdMachines) else ""
    return Story(juju, machines, charms, place, pool)


def _say(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that shows the progress of the base image, which takes a while once."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return (lambda _: None) if reporter is None else reporter.write_line
