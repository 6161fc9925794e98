# SPDX-License-Identifier: Apache-2.0
"""The package is the library: it builds, installs and type-checks."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = ROOT / "lib/charms/storage_libs/v0/nfs_interfaces.py"
TIMEOUT_S = 300

# What a charm author writes, and pyright must know the types of.
USE = """
import ops
from nfs_share import Endpoint, NFSProvides, NFSRequires, Share, ShareChangedEvent, Size


class Charm(ops.CharmBase):
    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.above = NFSRequires(self, "above")
        self.below = NFSProvides(self, "below")
        framework.observe(self.above.on.share_changed, self._on_share_changed)

    def _on_share_changed(self, event: ShareChangedEvent) -> None:
        shares: tuple[Share, ...] = self.above.shares()
        endpoints: list[Endpoint | None] = [share.endpoint for share in shares]
        sizes: list[Size] = [request.size for request in self.below.requests()]
        print(event.relation.id, endpoints, sizes)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", directory)
    run(sys.executable, "-m", "pip", *build, ROOT / "interface", cwd=directory)
    (path,) = directory.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has the package, and ops from this one."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=True)
    python = directory / "bin/python"
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "ops.pth").write_text(sysconfig.get_path("purelib"))
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=directory)
    return python


def test_the_wheel_has_the_library_and_what_describes_it(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        own = {name for name in archive.namelist() if name.startswith("nfs_share/")}
        assert archive.read("nfs_share/__init__.py") == LIBRARY.read_bytes()
    described = {f"nfs_share/v0/{path.name}" for path in ROOT.glob("interface/v0/*")}
    assert own == {"nfs_share/__init__.py", "nfs_share/py.typed", *described}


def test_the_version_is_the_librarys():
    text = LIBRARY.read_text()
    project = tomllib.loads((ROOT / "interface/pyproject.toml").read_text())["project"]
    api, patch = re.findall(r"(?m)^LIB(?:API|PATCH) = (\d+)$", text)
    assert project["version"] == f"{api}.{patch}"
    changes = (ROOT / "interface/CHANGELOG.md").read_text()
    assert re.findall(r"(?m)^## (.+)$", changes)[0] == project["version"]


def test_it_installs(installed: Path, tmp_path: Path):
    script = (
        "import importlib.resources, json, nfs_share;"
        "text = (importlib.resources.files('nfs_share') / 'v0/databags.json').read_text();"
        "print(nfs_share.__file__, len(json.loads(text)), nfs_share.NFSRequires.__module__)"
    )
    path, count, module = run(installed, "-c", script, cwd=tmp_path).split()
    assert path.startswith(str(installed.parent.parent))
    assert int(count) > 20
    assert module == "nfs_share"


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_it_type_checks(installed: Path, tmp_path: Path, version: str):
    (tmp_path / "charm.py").write_text(USE)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    pyright = (sys.executable, "-m", "pyright", "--pythonpath", installed)
    said = run(*pyright, "--pythonversion", version, "charm.py", cwd=tmp_path)
    assert "0 errors, 0 warnings" in said
    # It finds faults: what is not a size is none.
    (tmp_path / "charm.py").write_text(USE.replace("list[Size]", "list[int]"))
    with pytest.raises(AssertionError, match="reportAssignmentType"):
        run(*pyright, "--pythonversion", version, "charm.py", cwd=tmp_path)
