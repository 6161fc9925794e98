# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus beside the machines, and its promtool; told what a collector is told."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FETCHED = Path(__file__).resolve().parent.parent.parent / ".cache/prometheus/usr/bin"
ADDRESS = "127.0.0.1:9090"
INTERVAL = "2s"
"""Between two scrapes, and two looks at the rules."""
START_TIMEOUT_S = 60
QUERY_TIMEOUT_S = 30
ALERT_TIMEOUT_S = 180
POLL_S = 0.5


def find(program: str) -> str:
    """Return where a program of Debian's package prometheus is; empty: nowhere."""
    path = FETCHED / program
    return str(path) if path.exists() else shutil.which(program) or ""


def program(name: str) -> str:
    """Return where a program is, which must be there."""
    found = find(name)
    assert found, f"{name} is not here: ./dev test fetches it, from the package prometheus"
    return found


@dataclass(frozen=True)
class Prometheus:
    """One that runs, and scrapes."""

    within: Sequence[str]
    """The words that start a program in the machines' network."""

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask for what an expression is now: series, each with `metric` and `value`."""
        command = [program("promtool"), "query", "instant", "-o", "json"]
        done = subprocess.run(
            [*self.within, *command, f"http://{ADDRESS}", expression],
            capture_output=True,
            check=False,
            text=True,
            timeout=QUERY_TIMEOUT_S,
        )
        assert done.returncode == 0, f"{expression}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def value(self, expression: str) -> float:
        """Return the value of the one series of an expression."""
        (found,) = self.query(expression)
        return float(found["value"][1])

    def firing(self) -> set[str]:
        """Name the alerts that fire."""
        return {it["metric"]["alertname"] for it in self.query('ALERTS{alertstate="firing"}')}

    def until(self, is_so: Callable[[set[str]], bool], what: str) -> None:
        """Wait for alerts."""
        deadline = time.monotonic() + ALERT_TIMEOUT_S
        while not is_so(found := self.firing()):
            assert time.monotonic() < deadline, f"{what}: {sorted(found)}"
            time.sleep(POLL_S)

    def until_fires(self, *alerts: str) -> None:
        """Wait until alerts fire."""
        self.until(lambda found: {*alerts} <= found, f"{alerts} did not fire")

    def until_silent(self, *alerts: str) -> None:
        """Wait until alerts have resolved."""
        self.until(lambda found: not {*alerts} & found, f"{alerts} did not resolve")


@contextmanager
def running(
    directory: Path, told: Mapping[str, Any], labels: Mapping[str, str], ssh: Sequence[str]
) -> Generator[Prometheus]:
    """Run a Prometheus that is set up as a collector would, but that it doesn't wait to alert.

    Args:
        directory: where its files go.
        told: what the collector is told.
        labels: what the collector adds to all that it scrapes of the unit.
        ssh: the words that reach the unit's machine by ssh.
    """
    jobs = json.loads(json.dumps(told["metrics_scrape_jobs"]))
    rules = json.loads(json.dumps(told["metrics_alert_rules"]))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["for"] = "0s"
        rule["expr"] = rule["expr"].replace("[5m]", "[20s]")
    forwards: list[str] = []
    for static in (static for job in jobs for static in job["static_configs"]):
        static["labels"] = {**static.get("labels", {}), **labels}
        forwards += [word for it in static["targets"] for word in ("-L", f"{it}:{it}")]
    settings = {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules.json"],
        "scrape_configs": jobs,
    }
    (directory / "rules.json").write_text(json.dumps(rules))
    (directory / "settings.json").write_text(json.dumps(settings))
    within = ssh[: ssh.index("/usr/bin/ssh")]
    with ExitStack() as stack:
        log = stack.enter_context((directory / "log").open("wb"))
        for command in (
            [*ssh[:-1], "-N", "-o", "ExitOnForwardFailure=yes", *forwards, ssh[-1]],
            [
                *(*within, program("prometheus"), f"--config.file={directory / 'settings.json'}"),
                *(f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={ADDRESS}"),
            ],
        ):
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        found = Prometheus(within)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_up(found):
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(POLL_S)
        yield found


def _is_up(prometheus: Prometheus) -> bool:
    """Whether it has scraped all."""
    try:
        found = prometheus.query("up")
    except AssertionError:
        return False
    return bool(found) and all(it["value"][1] == "1" for it in found)
