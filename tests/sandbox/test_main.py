# SPDX-License-Identifier: Apache-2.0
"""``python -m sandbox`` against a controller made of answers."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sandbox import __main__ as program
from sandbox.command import line as juju_line
from sandbox.controller import client
from sandbox.controller.client import RunDirectory
from sandbox.controller.controller import METHODS


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: the name of a unix socket is short.
    with tempfile.TemporaryDirectory() as directory:
        for module in (client, juju_line):
            monkeypatch.setattr(module, "RUN", Path(directory))
        yield Path(directory)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, object]]]:
    """Give what controllers are asked: the model, the method and its parameters."""
    said: list[tuple[str, str, dict[str, object]]] = []

    def ask(model: RunDirectory, method: str, *, answer_timeout_s: float = 0, **params: object):
        said.append((model.name, method, params))

    monkeypatch.setattr(program, "ask", ask)
    return said


@contextmanager
def running(directory: Path, started_s: int) -> Iterator[None]:
    """Have a controller's socket in a directory."""
    directory.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(directory / "controller.sock"))
        listener.listen()
        os.utime(directory / "controller.sock", (started_s, started_s))
        yield


def test_without_a_model_it_says_how_to_get_one(models: Path, capsys: pytest.CaptureFixture[str]):
    # A controller that died leaves its directory.
    RunDirectory(models / "dead").path.mkdir()
    assert program.main(["boot", "0"]) == 1
    assert "./dev demo --keep leaves one" in capsys.readouterr().err
    assert program.main(["--model", "dead", "boot", "0"]) == 1
    assert capsys.readouterr().err == "model sandbox:admin/dead not found\n"
    assert program.main(["destroy"]) == 0
    assert capsys.readouterr().out == "no model is running\n"


def test_what_it_asks(models: Path, asked: list[object]):
    with running(models / "try", 1):
        assert program.main(["--model", "try", "power-cut", "app/9"]) == 0
    assert asked == [("try", "power_cut", {"machine": "app/9"})]


def test_what_can_be_asked_is_what_the_controller_has():
    names = {name.replace("-", "_") for name in program._ON_MACHINES}
    assert names < METHODS


def test_destroy_ends_the_model_in_focus_or_the_one_named_or_all(
    models: Path,
    asked: list[tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    left = "{}: destroyed\nstill running: {}; ./dev destroy --all ends every model\n"
    with running(models / "one", 2), running(models / "other", 1):
        for focus, words, ended, said in (
            ("", ["destroy"], ["one"], left.format("one", "other")),
            ("other", ["destroy"], ["other"], left.format("other", "one")),
            ("", ["destroy", "other"], ["other"], left.format("other", "one")),
            ("", ["--model=other", "destroy"], ["other"], left.format("other", "one")),
            ("", ["destroy", "--all"], ["one", "other"], "one: destroyed\nother: destroyed\n"),
        ):
            asked.clear()
            monkeypatch.setenv("JUJU_MODEL", focus)
            assert program.main(words) == 0
            assert [name for name, *_ in asked] == ended
            assert capsys.readouterr().out == said
