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


class Answers(socketserver.StreamRequestHandler):
    """A controller that notes what it is asked."""

    def handle(self):
        for line in self.rfile:
            request = json.loads(line)
            self.server.asked.append((request["method"], request["params"]))  # pyright: ignore
            self.wfile.write(json.dumps({"result": None}).encode() + b"\n")


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
    assert program.main(["boot", "0"]) == 1
    assert "./dev demo --keep leaves one" in capsys.readouterr().err
    assert program.main(["--model", "dead", "boot", "0"]) == 1
    assert capsys.readouterr().err == "model sandbox:admin/dead not found\n"


def test_destroy_without_a_model_is_fine(models: Path, capsys: pytest.CaptureFixture[str]):
    assert program.main(["destroy"]) == 0
    assert capsys.readouterr().out == "no model is running\n"


@pytest.mark.parametrize(
    ("words", "method"), [(["power-cut", "app/9"], "power_cut"), (["plug", "0"], "plug")]
)
def test_what_it_asks(models: Path, words: list[str], method: str):
    with controller(RunDirectory(models / "try")) as server:
        assert program.main(["--model", "try", *words]) == 0
    assert server.asked == [(method, {"machine": words[1]})]


def test_what_can_be_asked_is_what_the_controller_has():
    names = {name.replace("-", "_") for name in program._ON_MACHINES}
    assert names < METHODS


def test_destroy_ends_the_model_in_focus_or_the_one_named_or_all(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JUJU_MODEL", "one")
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
