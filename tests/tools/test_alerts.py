# SPDX-License-Identifier: Apache-2.0
"""What the pages say of nfs-server's alerts, and what alerts say of the pages."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/how-to.md"
SOURCE = yaml.safe_load((ROOT / "charms/nfs-server/charmcraft.yaml").read_text())["links"][
    "source"
]


def rules() -> list[dict[str, Any]]:
    files = (ROOT / "charms/nfs-server/src/prometheus_alert_rules").iterdir()
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_is_explained():
    table = PAGE.read_text().partition("### What alerts say\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (`Nfs.+?`) \|", table)
    explained = [name for row in rows for name in re.findall("`(.+?)`", row)]
    assert sorted(explained) == sorted(rule["alert"] for rule in rules())


def test_each_alert_leads_to_its_explanation():
    headings = re.findall(r"(?m)^#+ (.+)$", PAGE.read_text())
    # GitHub's names of headings.
    names = {re.sub(r"[^\w -]", "", it.lower()).replace(" ", "-") for it in headings}
    for rule in rules():
        page, _, heading = rule["annotations"]["runbook_url"].partition("#")
        assert page == f"{SOURCE}/blob/main/{PAGE.relative_to(ROOT)}"
        assert heading in names


def test_actions_that_alerts_name_are_there():
    actions = yaml.safe_load((ROOT / "charms/nfs-server/charmcraft.yaml").read_text())["actions"]
    text = " ".join(rule["annotations"]["description"] for rule in rules())
    named = set(re.findall(r"\b[a-z]+-share\b", text))
    assert named
    assert named <= actions.keys()
