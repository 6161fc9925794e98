# SPDX-License-Identifier: Apache-2.0
"""Each alert on made-up series, by promtool: silent, fires after a while, resolves."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import prometheus

pytestmark = pytest.mark.needs("prometheus")
ROOT = Path(__file__).resolve().parent.parent.parent
(RULES,) = (ROOT / "charms/nfs-server/src/prometheus_alert_rules").iterdir()
PROMTOOL_TIMEOUT_S = 60
MODEL = 'juju_model="m", juju_model_uuid="2e0f1c2a-5a3b-4c1d-8e2f-0123456789ab"'
APPLICATION = f'{MODEL}, juju_application="files"'
UNIT = {
    "juju_model": "m",
    "juju_model_uuid": "2e0f1c2a-5a3b-4c1d-8e2f-0123456789ab",
    "juju_application": "files",
    "juju_unit": "files/0",
}
SHARE = {**UNIT, "share": "/data", "application": "app,other"}
WHO = "/data (app,other) on files/0"
MINUTES = 300
GIB = 2**30
# A share and a unit with which all is well, in steps of a minute.
WELL: Mapping[str, str] = {
    "nfs_share_size_bytes": f"{10 * GIB}x{MINUTES}",
    "nfs_share_used_bytes": f"{6 * GIB}x{MINUTES}",
    "nfs_share_available_bytes": f"{4 * GIB}x{MINUTES}",
    "nfs_share_inodes": f"1000x{MINUTES}",
    "nfs_share_used_inodes": f"500x{MINUTES}",
    "nfs_share_image_size_bytes": f"{10 * GIB}x{MINUTES}",
    "nfs_share_image_allocated_bytes": f"{10 * GIB}x{MINUTES}",
    "nfs_share_sparse": f"0x{MINUTES}",
    "nfs_share_requested": f"1x{MINUTES}",
    "nfs_share_mounted": f"1x{MINUTES}",
    "nfs_share_exported": f"1x{MINUTES}",
    "nfs_share_answering": f"1x{MINUTES}",
    "nfs_share_read_only": f"0x{MINUTES}",
    "nfs_share_filesystem_errors": f"0x{MINUTES}",
    "nfs_server_up": f"1x{MINUTES}",
    "nfs_server_storage_free_bytes": f"{2 * GIB}x{MINUTES}",
    "nfs_server_storage_reserve_bytes": f"{GIB}x{MINUTES}",
    # 100 a second, and nearly each finds an idle thread.
    "nfs_server_requests_queued_total": f"0+6000x{MINUTES}",
    "nfs_server_threads_woken_total": f"0+5900x{MINUTES}",
    # Hooks come all the time: time begins at 0 in these tests.
    "nfs_server_last_hook_timestamp_seconds": f"0+60x{MINUTES}",
    "up": f"1x{MINUTES}",
}


@dataclass(frozen=True)
class Case:
    """What makes an alert fire."""

    alert: str
    bad: Mapping[str, str]
    """Series that are other than well."""
    summary: str
    fires: int
    """A minute at which it fires."""
    silent: tuple[int, ...]
    """Minutes at which it doesn't: before, too early, and afterwards."""
    labels: Mapping[str, str] = field(default_factory=lambda: SHARE)
    also: tuple[str, ...] = ()
    """Alerts that fire with it."""


def until(bad: object, well: object, *, begin: int = 20, end: int = 80) -> str:
    """Write values that are bad for a while."""
    return f"{well}x{begin - 1} {bad}x{end - begin - 1} {well}x{MINUTES - end}"


CASES = (
    Case(
        "NfsShareNearlyFull",
        {
            "nfs_share_used_bytes": until(91 * GIB, 50 * GIB),
            "nfs_share_available_bytes": until(9 * GIB, 50 * GIB),
        },
        f"Share {WHO} is 91% full",
        fires=36,
        silent=(19, 34, 81),
    ),
    Case(
        "NfsShareFull",
        {
            "nfs_share_used_bytes": until(99 * GIB, 50 * GIB),
            "nfs_share_available_bytes": until(1 * GIB, 50 * GIB),
        },
        f"Share {WHO} is 99% full",
        fires=26,
        silent=(19, 24, 81),
        also=("NfsShareNearlyFull",),
    ),
    Case(
        "NfsShareFilling",
        # From 6 to 9 GiB in five hours, of ten: a day is enough for the rest, an hour is not.
        {
            "nfs_share_used_bytes": f"{6 * GIB}+{GIB // 100}x{MINUTES}",
            "nfs_share_available_bytes": f"{4 * GIB}-{GIB // 100}x{MINUTES}",
        },
        f"Share {WHO} will be full within a day",
        fires=70,
        silent=(30, 55),
    ),
    Case(
        "NfsShareInodesNearlyFull",
        {"nfs_share_used_inodes": until(950, 500)},
        f"Share {WHO} has 95% of its inodes used",
        fires=36,
        silent=(19, 34, 81),
    ),
    Case(
        "NfsShareNotMounted",
        {"nfs_share_mounted": until(0, 1)},
        f"Share {WHO} is not mounted",
        fires=31,
        silent=(19, 29, 81),
    ),
    Case(
        "NfsShareNotExported",
        {"nfs_share_exported": until(0, 1)},
        f"Share {WHO} is not exported",
        fires=31,
        silent=(19, 29, 81),
    ),
    Case(
        "NfsShareNotAnswering",
        {"nfs_share_answering": until(0, 1)},
        f"Share {WHO} does not answer",
        fires=26,
        silent=(19, 24, 81),
    ),
    Case(
        "NfsShareFilesystemErrors",
        {"nfs_share_filesystem_errors": until(2, 0)},
        f"The file system of share {WHO} has errors",
        fires=22,
        silent=(19, 20, 81),
    ),
    Case(
        "NfsShareFilesystemErrors",
        {"nfs_share_read_only": until(1, 0)},
        f"The file system of share {WHO} has errors",
        fires=22,
        silent=(19, 20, 81),
    ),
    Case(
        "NfsShareNotReserved",
        {"nfs_share_image_allocated_bytes": until(9 * GIB, 10 * GIB)},
        f"The space of share {WHO} is not reserved",
        fires=36,
        silent=(19, 34, 81),
    ),
    Case(
        "NfsServerStorageReserveBroken",
        {"nfs_server_storage_free_bytes": until(GIB // 2, 2 * GIB)},
        "512MiB are free on the storage of files/0, less than its reserve",
        fires=26,
        silent=(19, 24, 81),
        labels=UNIT,
    ),
    Case(
        "NfsServerDown",
        {"nfs_server_up": until(0, 1)},
        "The NFS server of files/0 does not run",
        fires=26,
        silent=(19, 24, 81),
        labels=UNIT,
    ),
    Case(
        "NfsServerThreadsBusy",
        # For an hour, one in ten.
        {"nfs_server_threads_woken_total": "0+5900x19 112700+600x60 154600+5900x200"},
        "90% of the requests to files/0 find no idle thread",
        fires=60,
        silent=(19, 33, 90),
        labels=UNIT,
    ),
    Case(
        "NfsServerNoHooks",
        {"nfs_server_last_hook_timestamp_seconds": "0x179 10800+60x100"},
        "The charm of files/0 has run no hook for 2h 11m 0s",
        fires=131,
        silent=(119, 129, 200),
        labels=UNIT,
    ),
    Case(
        "NfsServerMetricsMissing",
        {"up": until(0, 1)},
        "There are no metrics of files files/0",
        fires=31,
        silent=(19, 29, 81),
        labels=UNIT,
    ),
    Case(
        "NfsServerMetricsMissing",
        {"up": f"1x19 _x60 1x{MINUTES}"},
        "There are no metrics of files ",
        fires=36,
        silent=(19, 29, 81),
        labels={key: value for key, value in UNIT.items() if key != "juju_unit"},
    ),
)
# Where something looks bad and is not.
FINE: Mapping[str, Mapping[str, str]] = {
    "nothing": {},
    "half empty and filling": {
        "nfs_share_used_bytes": f"0+{GIB // 100}x{MINUTES}",
        "nfs_share_available_bytes": f"{10 * GIB}-{GIB // 100}x{MINUTES}",
    },
    "kept, and not exported": {
        "nfs_share_exported": f"0x{MINUTES}",
        "nfs_share_requested": f"0x{MINUTES}",
    },
    "sparse": {
        "nfs_share_sparse": f"1x{MINUTES}",
        "nfs_share_image_allocated_bytes": f"{GIB}x{MINUTES}",
    },
    "few requests, and one thread": {
        "nfs_server_requests_queued_total": f"0+60x{MINUTES}",
        "nfs_server_threads_woken_total": f"0+6x{MINUTES}",
    },
    "every other request waits": {"nfs_server_threads_woken_total": f"0+3000x{MINUTES}"},
    "another's storage": {"nfs_server_storage_free_bytes": f"{GIB}x{MINUTES}"},
}


def rules() -> dict[str, Any]:
    """The rules as a collector gets them, of one application."""
    return yaml.safe_load(RULES.read_text().replace("%%juju_topology%%", APPLICATION))


def found_rules() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in rules()["groups"] for rule in group["rules"]}


def series(bad: Mapping[str, str], application: str = "files") -> list[dict[str, str]]:
    """Write all series of an application, some of them as they should not be."""
    of_unit = f'{MODEL}, juju_application="{application}", juju_unit="{application}/0"'
    of_share = f'{of_unit}, share="/data"'
    found = [
        {
            "series": f"{name}{{{of_share if name.startswith('nfs_share') else of_unit}}}",
            "values": values,
        }
        for name, values in {**WELL, **bad}.items()
    ]
    info = f'nfs_share_info{{{of_share}, application="app,other"}}'
    return [*found, {"series": info, "values": f"1x{MINUTES}"}]


def promtool(tmp_path: Path, *tests: dict[str, Any]) -> None:
    """Have promtool judge."""
    (tmp_path / "rules.json").write_text(json.dumps(rules()))
    document = {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": [*tests]}
    (tmp_path / "tests.json").write_text(json.dumps(document))
    done = subprocess.run(
        [prometheus.program("promtool"), "test", "rules", str(tmp_path / "tests.json")],
        capture_output=True,
        check=False,
        text=True,
        timeout=PROMTOOL_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expect(alert: str, minute: int, *fired: dict[str, Any]) -> dict[str, Any]:
    return {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": [*fired]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'-'.join(case.bad)}")
def test_an_alert(tmp_path: Path, case: Case):
    """It fires, for this application and no other; and no other alert does."""
    rule = found_rules()[case.alert]
    fired = {
        "exp_labels": {**case.labels, **rule["labels"]},
        "exp_annotations": {**rule["annotations"], "summary": case.summary},
    }
    others = found_rules().keys() - {case.alert, *case.also}
    test = {
        "interval": "1m",
        "input_series": [*series(case.bad), *series(case.bad, "others")],
        "alert_rule_test": [
            expect(case.alert, case.fires, fired),
            *(expect(case.alert, minute) for minute in case.silent),
            *(expect(other, case.fires) for other in sorted(others)),
        ],
    }
    promtool(tmp_path, test)


@pytest.mark.parametrize("what", FINE)
def test_no_alert(tmp_path: Path, what: str):
    tests = {
        "interval": "1m",
        "input_series": series(FINE[what]),
        "alert_rule_test": [
            expect(alert, minute) for alert in found_rules() for minute in (10, 70, 150, 290)
        ],
    }
    promtool(tmp_path, tests)


def test_each_alert_is_tested():
    assert {case.alert for case in CASES} == found_rules().keys()
