# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest

import ballast


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ballast, "BALLAST", tmp_path / "ballast")
    return tmp_path / "ballast"


def test_kept_while_there_is_room(path: Path):
    ballast.keep()
    assert path.stat().st_blocks * 512 >= ballast.SIZE_BYTES
    ballast.release()
    ballast.keep()
    assert path.exists()


def test_given_up_on_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch):
    ballast.keep()
    monkeypatch.setattr(ballast, "_free_bytes", lambda: 0)
    for _ in range(2):
        ballast.release()
        assert path.stat().st_blocks == 0
        ballast.keep()
        assert path.stat().st_blocks == 0


def test_taken_back_on_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch):
    """What fills the disk would take it all, and the next action would find no room."""
    free = 0

    def count() -> int:
        return free + ballast.SIZE_BYTES - path.stat().st_blocks * 512

    ballast.keep()
    monkeypatch.setattr(ballast, "_free_bytes", count)
    ballast.release()
    for _ in range(2):  # The first process may be killed before it takes it back.
        ballast.release()
    ballast.keep()
    assert path.stat().st_blocks * 512 >= ballast.SIZE_BYTES - ballast.LEFT_BYTES
    free = 100 * ballast.SIZE_BYTES
    ballast.release()
    ballast.keep()
    assert path.stat().st_blocks * 512 >= ballast.SIZE_BYTES


def test_nowhere_to_keep_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ballast, "BALLAST", Path("/nonexistent/ballast"))
    ballast.keep()
    ballast.release()
