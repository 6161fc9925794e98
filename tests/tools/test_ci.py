# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def test_each_module_of_the_suite_is_in_one_part():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    parts = workflow["jobs"]["integration"]["strategy"]["matrix"]["modules"]
    modules = [path.stem for path in ROOT.glob("tests/integration/test_*.py")]
    assert sorted(f"test_{it}" for it in " ".join(parts).split()) == sorted(modules)
