# SPDX-License-Identifier: Apache-2.0
"""``python -m sandbox`` against a controller made of answers."""

import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_status import a_model

from sandbox import __main__ as program
from sandbox import client
from sandbox.client import RunDirectory


class Answers(socketserver.StreamRequestHandler):
    """A controller that has a status, and can be ended."""

    def handle(self):
        for line in self.rfile:
            request = json.loads(line)
            result = a_model() if request["method"] == "status" else None
            self.wfile.write(json.dumps({"id": request["id"], "result": result}).encode() + b"\n")
            if request["method"] == "destroy":
                self.server.ended = True  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def controller(directory: RunDirectory) -> Iterator[Any]:
    directory.path.mkdir()
    with socketserver.ThreadingUnixStreamServer(str(directory.socket), Answers) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: the name of a unix socket is short.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(client, "RUN", Path(directory))
        yield Path(directory)


@pytest.mark.parametrize("command", [["status"], ["ssh", "app/9"]])
def test_without_a_model_it_says_how_to_get_one(
    models: Path, command: list[str], capsys: pytest.CaptureFixture[str]
):
    # A controller that died leaves its directory.
    RunDirectory(models / "dead").path.mkdir()
    assert program.main(command) == 1
    assert capsys.readouterr().err == "no model is running: ./dev demo --keep leaves one\n"


def test_destroy_without_a_model_is_fine(models: Path, capsys: pytest.CaptureFixture[str]):
    assert program.main(["destroy"]) == 0
    assert capsys.readouterr().out == "no model is running\n"


def test_status_is_the_table(models: Path, capsys: pytest.CaptureFixture[str]):
    with controller(RunDirectory(models / "try")):
        assert program.main(["status"]) == 0
    assert "client/0*" in capsys.readouterr().out


def test_destroy_ends_every_model(models: Path, capsys: pytest.CaptureFixture[str]):
    one, other = RunDirectory(models / "one"), RunDirectory(models / "other")
    with controller(one) as server, controller(other) as another:
        assert program.main(["destroy"]) == 0
    assert server.ended
    assert another.ended
    assert capsys.readouterr().out == "one: destroyed\nother: destroyed\n"


def test_ssh_names_the_units_there_are(models: Path, capsys: pytest.CaptureFixture[str]):
    with controller(RunDirectory(models / "try")):
        assert program.main(["ssh", "nobody/0"]) == 1
        assert program.main(["ssh", "2"]) == 1
    unknown, booting = capsys.readouterr().err.splitlines()
    assert unknown == (
        "no unit or machine nobody/0 in try; there are: app/9, client/0, app/10, server/0, 0, 2"
    )
    assert booting == "machine 2 has no address yet: it is still booting"


def test_ssh_becomes_ssh_inside_the_network(models: Path, monkeypatch: pytest.MonkeyPatch):
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: became.append([path, *argv]))
    directory = RunDirectory(models / "try")
    waiting = [sys.executable, "-c", "input()", "--base", "/images/base-1.img", "--keep"]
    with (
        controller(directory),
        subprocess.Popen(waiting, stdin=subprocess.PIPE) as process,
    ):
        (directory.path / "controller.pid").write_text(f"{process.pid}\n")
        program.main(["ssh", "client/0", "findmnt", "--list"])
        assert process.stdin is not None
        process.communicate(b"\n")
    (command,) = became
    assert command[:6] == [
        *["/usr/bin/nsenter", "/usr/bin/nsenter", "--target", str(process.pid), "--net", "--"]
    ]
    assert command[6:9] == ["/usr/bin/ssh", "-i", "/images/base-1.key"]
    assert command[-3:] == ["root@10.77.0.10", "findmnt", "--list"]
