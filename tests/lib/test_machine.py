# SPDX-License-Identifier: Apache-2.0
"""What machine.py leaves on a machine: files, units, and nothing that hangs."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfs_charms import machine

SH = "/bin/sh"
PYTHON = sys.executable


# Commands


def test_run_returns_standard_output():
    assert machine.run(SH, "-c", "echo out; echo err >&2") == "out\n"


def test_output_that_is_not_utf8_is_still_output():
    assert machine.run(SH, "-c", r"printf 'a\377b'") == "a\ufffdb"


def test_failure_says_the_command_the_status_and_standard_error():
    with pytest.raises(machine.CommandError) as caught:
        machine.run(SH, "-c", "echo out; echo no such share >&2; exit 3")
    assert str(caught.value) == (
        "/bin/sh -c echo out; echo no such share >&2; exit 3: exit status 3: no such share"
    )
    assert caught.value.output == "no such share"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo only out; exit 1", "only out"),
        ("exit 1", ""),
        ("head -c 9000 /dev/zero | tr '\\0' x >&2; printf end >&2; exit 1", "x" * 9000 + "end"),
    ],
)
def test_failure_says_what_there_is_to_say(script: str, said: str):
    with pytest.raises(machine.CommandError) as caught:
        machine.run(SH, "-c", script)
    assert caught.value.output == said[-2000:]


@pytest.mark.parametrize(("what", "said"), [("", ""), ("share /data", "share /data: ")])
@pytest.mark.parametrize("script", [f"{SH} -c false", "/no/such/program"])
def test_a_failure_is_told_as_a_module_tells_it(what: str, said: str, script: str):
    with (
        pytest.raises(RuntimeError, match=f"^{said}.*{script}") as caught,
        machine.failing_as(RuntimeError, what),
    ):
        machine.run(*script.split(" "))
    assert str(caught.value) == said + str(caught.value.__cause__)


def test_death_by_a_signal_is_a_failure():
    with pytest.raises(machine.CommandError, match="exit status -15"):
        machine.run(SH, "-c", "kill -TERM $$")


def test_a_missing_program_raises():
    with pytest.raises(FileNotFoundError):
        machine.run("/no/such/program")


def test_a_command_gets_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/charm/venv")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert machine.run("/usr/bin/env").splitlines() == [
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL=C.UTF-8",
    ]


def test_a_command_reads_nothing_of_what_the_hook_could():
    reading, writing = os.pipe()
    os.write(writing, b"for the hook")
    os.close(writing)
    own = os.dup(0)
    os.dup2(reading, 0)
    try:
        assert machine.run("/bin/cat") == ""
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(reading)


def test_a_command_stands_in_the_root_directory():
    assert machine.run("/bin/pwd") == "/\n"


def test_a_command_past_its_deadline_is_killed(tmp_path: Path):
    pid_file = tmp_path / "pid"
    start = time.monotonic()
    with pytest.raises(machine.CommandTimeoutError, match=r"sleep 60: not done after 0\.3 s$"):
        machine.run(SH, "-c", f"echo $$ > {pid_file}; exec sleep 60", timeout_s=0.3)
    assert time.monotonic() - start < machine.KILL_GRACE_S
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


def test_a_grandchild_that_holds_the_pipe_does_not_hold_us():
    script = (
        "import subprocess; child = subprocess.Popen(['/bin/sleep', '5']); "
        "print(child.pid, flush=True); child.wait()"
    )
    start = time.monotonic()
    with pytest.raises(machine.CommandTimeoutError):
        machine.run(PYTHON, "-c", script, timeout_s=0.5)
    assert time.monotonic() - start < machine.KILL_GRACE_S


def test_one_that_does_not_die_is_left_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # As one in an uninterruptible system call: the signal is sent and does nothing.
    monkeypatch.setattr(machine, "KILL_GRACE_S", 0.1)
    left: list[subprocess.Popen[str]] = []

    def spare(process: "subprocess.Popen[str]") -> None:
        left.append(process)

    monkeypatch.setattr(subprocess.Popen, "kill", spare)
    with pytest.raises(machine.CommandTimeoutError):
        machine.run("/bin/sleep", "60", timeout_s=0.1)
    assert f"(pid {left[0].pid}) does not die" in caplog.text
    left[0].terminate()
    left[0].wait()


# Files


def written(path: Path) -> tuple[int, int]:
    """Which file it is, and when it was written; not when it was read."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def test_writing_says_what_it_changed(tmp_path: Path):
    path = tmp_path / "new" / "exports"
    assert machine.write_atomically(path, "one é\n") is True
    before = written(path)
    assert machine.write_atomically(path, "one é\n") is False
    assert written(path) == before
    assert machine.write_atomically(path, "two\n") is True
    assert path.read_text() == "two\n"
    assert os.listdir(path.parent) == ["exports"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_the_mode_is_as_asked_whatever_the_umask(tmp_path: Path, mode: int):
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        machine.write_atomically(path, "text", mode=mode)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == mode


def test_another_mode_is_a_change(tmp_path: Path):
    path = tmp_path / "file"
    machine.write_atomically(path, "text")
    assert machine.write_atomically(path, "text", mode=0o600) is True
    assert path.stat().st_mode & 0o7777 == 0o600


def test_a_symlink_is_replaced_and_not_followed(tmp_path: Path):
    victim, path = tmp_path / "victim", tmp_path / "exports"
    victim.write_text("text")
    path.symlink_to(victim)
    assert not machine.is_file_with(path, "text")
    assert machine.write_atomically(path, "text") is True
    assert not path.is_symlink()
    assert machine.write_atomically(path, "new") is True
    assert victim.read_text() == "text"


def test_a_symlink_in_the_temporary_files_place_is_not_followed(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".exports.tmp").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        machine.write_atomically(tmp_path / "exports", "text")
    assert victim.read_text() == "precious"


def test_a_temporary_file_left_by_a_killed_hook_does_not_matter(tmp_path: Path):
    left = tmp_path / ".exports.tmp"
    left.write_text("half of a much longer te")
    left.chmod(0o666)
    assert machine.write_atomically(tmp_path / "exports", "new\n") is True
    assert (tmp_path / "exports").read_text() == "new\n"
    assert (tmp_path / "exports").stat().st_mode & 0o7777 == 0o644
    assert os.listdir(tmp_path) == ["exports"]


@pytest.mark.parametrize(("module", "step"), [(Path, "replace"), (os, "fsync"), (os, "fchmod")])
def test_what_fails_leaves_no_half_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, step: str
):
    path = tmp_path / "exports"
    machine.write_atomically(path, "old\n")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, step, full)
    with pytest.raises(OSError, match="No space"):
        machine.write_atomically(path, "new\n")
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["exports"]


@pytest.mark.parametrize(("module", "step"), [(Path, "replace"), (os, "fsync"), (os, "fchmod")])
def test_killed_before_the_rename_the_old_text_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, step: str
):
    path = tmp_path / "exports"
    machine.write_atomically(path, "old\n")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, killed)
        with pytest.raises(KeyboardInterrupt):
            machine.write_atomically(path, "new\n")
    assert path.read_text() == "old\n"
    assert machine.write_atomically(path, "new\n") is True
    assert path.read_text() == "new\n"
    assert os.listdir(tmp_path) == ["exports"]


def test_text_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a power cut finds can't be made here; that it is asked for, in this order, can be."""
    asked: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        asked.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        asked.append(f"rename {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    machine.write_atomically(tmp_path / "exports", "text")
    assert asked == [
        f"sync {tmp_path}/.exports.tmp",
        f"rename {tmp_path}/exports",
        f"sync {tmp_path}",
    ]


def test_is_file_with_is_true_of_regular_files_alone(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "text").write_bytes(b"a\r\n")
    assert machine.is_file_with(tmp_path / "text", "a\r\n")
    assert not machine.is_file_with(tmp_path / "text", "a\n")
    (tmp_path / "link").symlink_to("text")
    for name in ("missing", "pipe", "binary", ".", "link", "text/below"):
        assert not machine.is_file_with(tmp_path / name, "")
    assert machine.read_file(tmp_path / "link") is None
    with pytest.raises(OSError, match="File name too long"):
        machine.read_file(tmp_path / ("x" * 256))


# Templates


@pytest.fixture
def template(tmp_path: Path) -> Path:
    return tmp_path / "exports.j2"


@pytest.fixture
def rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where texts are kept."""
    monkeypatch.setattr(machine, "RENDERED", tmp_path / "rendered")
    return tmp_path / "rendered"


def test_a_template_is_rendered_whole(template: Path):
    template.write_text("{% for line in lines %}\n{{ line }}\n{% endfor %}\nend\n")
    text = machine.render(template, Path("/etc/exports"), lines=["<a>", "b"])
    assert text == "<a>\nb\nend\n"


def test_a_name_without_a_value_is_an_error(template: Path):
    template.write_text("{{ missing }}")
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        machine.render(template, Path("/etc/exports"))


def test_a_text_is_rendered_once(template: Path, rendered: Path, monkeypatch: pytest.MonkeyPatch):
    template.write_text("{{ host }}")
    one, other = Path("/etc/one"), Path("/etc/other")
    for _ in range(2):
        assert machine.render(template, one, host="10.0.0.1") == "10.0.0.1"
        assert machine.render(template, other, host="10.0.0.2\n") == "10.0.0.2\n"
        monkeypatch.setitem(sys.modules, "jinja2", None)  # It can't be imported any more.
    with pytest.raises(ImportError):
        machine.render(template, one, host="10.0.0.2")
    template.write_text("other {{ host }}")
    machine._source.cache_clear()  # As another hook begins, of another revision.
    with pytest.raises(ImportError):
        machine.render(template, one, host="10.0.0.1")


def test_one_text_is_kept_for_a_file(template: Path, rendered: Path):
    template.write_text("{{ shares }}")
    for number in range(1000):
        assert machine.render(template, Path("/etc/exports"), shares=number) == str(number)
    assert len(os.listdir(rendered)) == 1


def test_where_no_text_can_be_kept_it_is_rendered_all_the_same(
    template: Path,
    rendered: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    def full(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    template.write_text("{{ host }}")
    monkeypatch.setattr(machine, "write_atomically", full)
    assert machine.render(template, Path("/etc/exports"), host="10.0.0.1") == "10.0.0.1"
    assert "/etc/exports is not kept: [Errno 28] No space left on device" in caplog.text


# Mounts


@pytest.fixture
def mountinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    monkeypatch.setattr(machine, "MOUNTINFO", path)
    return path


def test_mounts_are_read_from_the_kernels_table(mountinfo: Path):
    mountinfo.write_text(
        "22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n"
        "36 35 98:0 / /data rw,noatime master:1 propagate_from:2 - nfs4 10.0.0.1:/srv/a"
        " rw,vers=4.2,hard\n"
        "90 22 7:0 / /srv/my ro - ext4 /dev/loop0 rw\n"
        "91 22 0:9 / /odd rw - tmpfs  rw\n"
    )
    root, data, mine, odd = machine.read_mounts()
    assert root == machine.Mounted(
        "/", "/dev/vda1", "ext4", frozenset({"rw", "relatime", "errors=remount-ro"}), "0:21"
    )
    assert (data.where, data.source, data.fstype) == ("/data", "10.0.0.1:/srv/a", "nfs4")
    assert data.options == {"rw", "noatime", "vers=4.2", "hard"}
    assert mine.options == {"ro"}
    assert odd.source == ""


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (rb"/a\040b", "/a b"),
        (rb"/tab\011line\012back\134slash\043", "/tab\tline\nback\\slash#"),
        (rb"/looks\134040escaped", r"/looks\040escaped"),
        (b"/na\xc3\xafve", "/naïve"),
        (b"/\xff\xfe", os.fsdecode(b"/\xff\xfe")),
        (b"/form\x0cfeed\x1c\xe2\x80\xa8\xc2\x85\rx", "/form\x0cfeed\x1c\u2028\x85\rx"),
    ],
)
def test_any_mount_point_is_read_back_as_it_is(mountinfo: Path, raw: bytes, where: str):
    mountinfo.write_bytes(b"36 35 98:0 / " + raw + b" rw - nfs4 10.0.0.1:/a rw\n")
    assert [mount.where for mount in machine.read_mounts()] == [where]
    assert machine.mounted_at(where) == machine.mounted_at(Path(where)) is not None


def test_of_stacked_mounts_the_one_on_top_counts(mountinfo: Path):
    mountinfo.write_text(
        "36 35 0:5 / /data rw - ext4 /dev/sda rw\n"
        "37 36 0:6 / /data rw - nfs4 10.0.0.1:/a rw\n"
        "38 35 0:7 / /data/sub rw - tmpfs tmpfs rw\n"
    )
    mount = machine.mounted_at("/data")
    assert mount
    assert mount.source == "10.0.0.1:/a"
    assert machine.mounted_at("/dat") is None


def test_this_machines_own_table_is_readable():
    root = machine.mounted_at("/")
    assert root
    assert root.fstype


def test_reading_the_table_touches_no_mount_point(
    mountinfo: Path, monkeypatch: pytest.MonkeyPatch
):
    mountinfo.write_text("36 35 98:0 / /dead rw - nfs4 10.0.0.1:/a rw\n")

    def hang(*args: object, **_: object) -> None:
        raise AssertionError(f"would hang: {args}")

    for name in ("stat", "lstat", "scandir", "listdir", "statvfs"):
        monkeypatch.setattr(os, name, hang)
    found = machine.mounted_at("/dead")
    monkeypatch.undo()
    assert found


# Who uses a mount


@pytest.fixture
def user(tmp_path: Path) -> Iterator[str]:
    """A process that stands in the directory, as find_users names it."""
    with subprocess.Popen(["/usr/bin/sleep", "60"], cwd=tmp_path) as process:
        yield f"sleep ({process.pid})"
        process.kill()


def test_users_of_a_mount_are_found(tmp_path: Path, user: str):
    where = os.path.realpath(tmp_path)
    assert user in machine.find_users(where)
    assert user in machine.find_users(Path(where))
    assert machine.find_users(f"{where}/below") == ()


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize("script", ["import time; time.sleep(60)", "raise SystemExit(1)"])
def test_users_that_can_not_be_found_out_hold_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, caplog: pytest.LogCaptureFixture
):
    program = tmp_path / "processes.py"
    program.write_text(script)
    monkeypatch.setattr(machine, "_PROCESSES", program)
    monkeypatch.setattr(machine, "FIND_USERS_TIMEOUT_S", 0.3)
    start = time.monotonic()
    assert machine.find_users(os.path.realpath(tmp_path)) == ()
    assert time.monotonic() - start < machine.KILL_GRACE_S
    assert "can't find out who uses" in caplog.text


# Names of mount units

NAMES = {
    "/": "-.mount",
    "/data": "data.mount",
    "/srv/nfs/a": "srv-nfs-a.mount",
    "/srv//nfs/": "srv-nfs.mount",
    "/srv/my data": r"srv-my\x20data.mount",
    "/a-b": r"a\x2db.mount",
    "/a/b": "a-b.mount",
    "/.hidden/.x": r"\x2ehidden-.x.mount",
    "/q'\"%\\": r"q\x27\x22\x25\x5c.mount",
    "/é": r"\xc3\xa9.mount",
    "/a:b_c.d": "a:b_c.d.mount",
    os.fsdecode(b"/\xff"): r"\xff.mount",
}


@pytest.mark.parametrize(("where", "name"), NAMES.items())
def test_mount_units_are_named_by_systemds_rules(where: str, name: str):
    assert machine.mount_unit_name(where) == name


SYSTEMD_ESCAPE = shutil.which("systemd-escape")
SEGMENTS = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda text: text not in {".", ".."})


@pytest.mark.skipif(not SYSTEMD_ESCAPE, reason="needs systemd-escape")
@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(SEGMENTS, min_size=1, max_size=4), min_size=20, max_size=20))
def test_mount_units_are_named_as_systemd_itself_does(paths: list[list[str]]):
    where = ["/" + "/".join(path) for path in paths]
    named = subprocess.run(
        [str(SYSTEMD_ESCAPE), "--path", "--suffix=mount", "--", *where],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [machine.mount_unit_name(path) for path in where] == named.stdout.split()


# Unit files


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for systemd: has in files the units that it read, that failed, each reload."""
    for name in ("units", "read", "failed"):
        (tmp_path / name).mkdir()
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"""#!/bin/sh
cd {tmp_path}
[ ! -e broken ] || exit 1
case $1 in
daemon-reload)
    rm -f read/*
    cp -R units/. read
    echo "$1" $(ls units) >> log ;;
show)
    shift 3
    blank=
    for unit; do
        [ -z "$blank" ] || echo
        blank=yes
        [ -e "read/$unit" ] || cp "units/$unit" read
        cmp -s "read/$unit" "units/$unit" && need=no || need=yes
        echo "NeedDaemonReload=$need"
        echo "FragmentPath=$(cat "elsewhere/$unit" 2> /dev/null || echo "$PWD/units/$unit")"
    done ;;
reset-failed)
    shift 2
    code=0
    for unit; do rm "failed/$unit" || code=1; done
    exit $code ;;
esac
""")
    systemctl.chmod(0o755)
    (tmp_path / "log").touch()
    monkeypatch.setattr(machine, "UNIT_DIRECTORY", tmp_path / "units")
    monkeypatch.setattr(machine, "SYSTEMCTL", str(systemctl))
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", tmp_path / "reload-needed")
    return tmp_path


def reloads(systemd: Path) -> list[str]:
    return (systemd / "log").read_text().splitlines()


def test_units_are_written_and_systemd_reads_them_when_it_is_asked(systemd: Path):
    wanted = {"a.mount": "[Mount]\n", "b.mount": "[Unit]\n"}
    assert machine.ensure_units(wanted) is True
    assert (systemd / "units" / "a.mount").read_text() == "[Mount]\n"
    assert machine.ensure_units(wanted) is False
    assert reloads(systemd) == []
    assert not (systemd / "reload-needed").exists()


def test_only_what_differs_is_written(systemd: Path):
    machine.ensure_units({"a.mount": "a", "b.mount": "b"})
    before = written(systemd / "units" / "a.mount")
    assert machine.ensure_units({"a.mount": "a", "b.mount": "new"}) is True
    assert written(systemd / "units" / "a.mount") == before
    assert (systemd / "units" / "b.mount").read_text() == "new"
    assert reloads(systemd) == ["daemon-reload a.mount b.mount"]


@pytest.mark.parametrize("name", ["a.mount.d/b.conf", "a@.service"])
def test_what_is_no_unit_takes_a_reload(systemd: Path, name: str):
    machine.ensure_units({name: "a"})
    assert len(reloads(systemd)) == 1


def test_what_systemd_has_read_before_takes_a_reload(systemd: Path):
    (systemd / "read" / "b.mount").write_text("of a file that was removed by hand")
    machine.ensure_units({"a.mount": "a", "b.mount": "b"})
    assert reloads(systemd) == ["daemon-reload a.mount b.mount"]


def test_what_systemd_has_from_elsewhere_takes_a_reload(systemd: Path):
    (systemd / "elsewhere").mkdir()
    (systemd / "elsewhere" / "a.mount").write_text("/run/systemd/generator/a.mount")
    machine.ensure_units({"a.mount": "a"})
    assert reloads(systemd) == ["daemon-reload a.mount"]


def test_units_are_removed_and_systemd_told_once(systemd: Path):
    machine.ensure_units({"a.mount": "a", "b.mount": "b"})
    (systemd / "units" / "dangling.mount").symlink_to("/nowhere")
    assert machine.remove_units(["a.mount", "dangling.mount", "never.mount"]) is True
    assert machine.remove_units(["a.mount"]) is False
    assert reloads(systemd) == ["daemon-reload b.mount"]
    assert os.listdir(systemd / "units") == ["b.mount"]


def test_without_units_nothing_is_asked_of_systemd(systemd: Path):
    assert machine.ensure_units({}) is False
    assert machine.remove_units([]) is False
    assert reloads(systemd) == []


def test_a_failed_reload_raises_and_is_made_up_for(systemd: Path):
    (systemd / "broken").touch()
    with pytest.raises(machine.CommandError):
        machine.ensure_units({"a.mount": "a"})
    (systemd / "broken").unlink()
    assert machine.ensure_units({"a.mount": "a"}) is True
    assert reloads(systemd) == ["daemon-reload a.mount"]


def test_a_removed_unit_stays_in_no_list_of_failures(systemd: Path):
    machine.ensure_units(dict.fromkeys(("a.mount", "b.mount", "c.mount"), "[Mount]\n"))
    for name in ("b.mount", "c.mount"):
        (systemd / "failed" / name).touch()
    assert machine.remove_units(["a.mount", "b.mount"]) is True
    assert os.listdir(systemd / "failed") == ["c.mount"]
    assert not (systemd / "reload-needed").exists()


@pytest.mark.parametrize("kill_at", range(2))
def test_what_a_killed_removal_left_among_failures_goes_with_the_next_change(
    systemd: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
):
    machine.ensure_units({"a.mount": "a", "b.mount": "b"})
    for name in ("a.mount", "b.mount"):
        (systemd / "failed" / name).touch()
    calls: list[str] = []
    systemctl = machine.systemctl

    def killed(*arguments: str) -> str:
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        calls.append(arguments[0])
        return systemctl(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(machine, "systemctl", killed)
        with pytest.raises(KeyboardInterrupt):
            machine.remove_units(["a.mount"])
    machine.remove_units(["b.mount"])
    assert os.listdir(systemd / "failed") == []


def test_killed_right_after_a_write_systemd_is_told_by_the_retried_hook(
    systemd: Path, monkeypatch: pytest.MonkeyPatch
):
    machine.ensure_units({"a.mount": "old"})
    write = machine.write_atomically

    def killed(path: Path, text: str) -> bool:
        write(path, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            machine.ensure_units({"a.mount": "new"})
    assert machine.ensure_units({"a.mount": "new"}) is True
    assert (systemd / "read" / "a.mount").read_text() == "new"


@pytest.mark.parametrize("act", ["write", "remove"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_between_a_change_and_the_reload_systemd_is_told_by_the_retried_hook(
    systemd: Path, monkeypatch: pytest.MonkeyPatch, act: str, when: str
):
    if act == "remove":
        machine.ensure_units({"a.mount": "a"})
        (systemd / "log").write_text("")

    def hook() -> None:
        if act == "remove":
            machine.remove_units(["a.mount"])
        else:
            machine.ensure_units({"a.mount": "a"})

    systemctl = machine.systemctl

    def killed(*arguments: str) -> str:
        if when == "after":
            systemctl(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine, "systemctl", killed)
        with pytest.raises(KeyboardInterrupt):
            hook()
    hook()
    told = reloads(systemd)
    assert told[-1] == ("daemon-reload" if act == "remove" else "daemon-reload a.mount")
    hook()
    assert reloads(systemd) == told
