# SPDX-License-Identifier: Apache-2.0
"""``python -m sandbox`` against a controller made of answers."""

import json
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sandbox import __main__ as program
from sandbox.command import line as juju_line
from sandbox.controller import client
from sandbox.controller.client import RunDirectory
from sandbox.controller.controller import METHODS

ANSWERS = {
    "add_bystander": "x0",
    "ssh": {"returncode": 3, "stdout": "out", "stderr": ""},
}


class Answers(socketserver.StreamRequestHandler):
    """A controller that notes what it is asked."""

    def handle(self):
        for line in self.rfile:
            request = json.loads(line)
            result = ANSWERS.get(request["method"])
            self.server.asked.append((request["method"], request["params"]))  # pyright: ignore
            self.wfile.write(json.dumps({"result": result}).encode() + b"\n")


@contextmanager
def controller(directory: RunDirectory) -> Iterator[Any]:
    directory.path.mkdir()
    with socketserver.ThreadingUnixStreamServer(str(directory.socket), Answers) as server:
        server.daemon_threads = True
        server.asked = []  # pyright: ignore[reportAttributeAccessIssue]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: the name of a unix socket is short.
    with tempfile.TemporaryDirectory() as directory:
        for module in (client, juju_line):
            monkeypatch.setattr(module, "RUN", Path(directory))
        yield Path(directory)


def test_without_a_model_it_says_how_to_get_one(models: Path, capsys: pytest.CaptureFixture[str]):
    # A controller that died leaves its directory.
    RunDirectory(models / "dead").path.mkdir()
    assert program.main(["bystander"]) == 1
    assert "./dev demo --keep leaves one" in capsys.readouterr().err
    assert program.main(["--model", "dead", "bystander"]) == 1
    assert capsys.readouterr().err == "model sandbox:admin/dead not found\n"


def test_destroy_without_a_model_is_fine(models: Path, capsys: pytest.CaptureFixture[str]):
    assert program.main(["destroy"]) == 0
    assert capsys.readouterr().out == "no model is running\n"


@pytest.mark.parametrize(
    ("words", "method", "params", "returncode", "output"),
    [
        (["power-cut", "app/9"], "power_cut", {"machine": "app/9"}, 0, ""),
        (["plug", "0"], "plug", {"machine": "0"}, 0, ""),
        (["bystander"], "add_bystander", {}, 0, "x0\n"),
        (
            ["run", "x0", "ls", "-l"],
            "ssh",
            {"machine": "x0", "command": "ls -l", "timeout_s": 600.0},
            3,
            "out",
        ),
    ],
)
def test_what_it_asks(
    models: Path,
    words: list[str],
    method: str,
    params: dict[str, object],
    returncode: int,
    output: str,
    capsys: pytest.CaptureFixture[str],
):
    with controller(RunDirectory(models / "try")) as server:
        assert program.main(["--model", "try", *words]) == returncode
    assert server.asked == [(method, params)]
    assert capsys.readouterr().out == output


def test_what_can_be_asked_is_what_the_controller_has():
    names = {name.replace("-", "_") for name in program._ON_MACHINES}
    assert names < METHODS


def test_destroy_ends_the_model_in_focus_or_the_one_named_or_all(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    current = tmp_path / "current-model"
    monkeypatch.setattr(juju_line, "CURRENT", current)
    current.write_text("one")
    one, other = RunDirectory(models / "one"), RunDirectory(models / "other")
    left = "still running: {}; ./dev destroy --all ends every model\n"
    with controller(one) as server, controller(other) as another:
        for words, ended, said in (
            (["destroy"], (True, False), "one: destroyed\n" + left.format("other")),
            (["destroy", "other"], (False, True), "other: destroyed\n" + left.format("one")),
            (
                ["--model=other", "destroy"],
                (False, True),
                "other: destroyed\n" + left.format("one"),
            ),
            (["destroy", "--all"], (True, True), "one: destroyed\nother: destroyed\n"),
        ):
            server.asked.clear()
            another.asked.clear()
            assert program.main(words) == 0
            assert (bool(server.asked), bool(another.asked)) == ended
            assert capsys.readouterr().out == said
