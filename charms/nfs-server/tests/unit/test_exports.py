# SPDX-License-Identifier: Apache-2.0
"""/etc/exports, with an exportfs of our own on files in a temporary directory."""

import errno
import os
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import exports
from charms.storage_libs.v0.nfs_interfaces import Permissions, parse_allowlist
from nfs_charms import machine
from values import Export, share_id

UUID = "0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a"
OPTIONS = {
    "rw",
    "sync",
    "no_subtree_check",
    "no_root_squash",
    "no_all_squash",
    "secure",
    "sec=sys",
    "mountpoint",
    f"fsid={UUID}",
}
HEADER = (
    "# Written by the nfs-server charm; changes made here are lost. "
    "Others' exports: /etc/exports.d/"
)


def export(name: str = "/data", networks: str = "10.0.0.1", uuid: str = UUID) -> Export:
    return Export(name, uuid, parse_allowlist(networks))


def parse(text: str) -> dict[tuple[str, str], set[str]]:
    """Read exports(5), path and host -> options, as strictly as exportfs reads it."""
    found: dict[tuple[str, str], set[str]] = {}
    for line in text.splitlines():
        path, *rest = line.partition("#")[0].split() or [""]
        defaults: set[str] = set()
        for word in rest:
            if word.startswith("-"):
                defaults = set(word[1:].split(","))
                continue
            host, _, own = word.partition("(")
            if (path, host) in found:
                raise ValueError(f"duplicated export entries: {host}:{path}")
            options = defaults | set(filter(None, own.rstrip(")").split(",")))
            if unknown := {o for o in options if o.partition("=")[0] == "bogus"}:
                raise ValueError(f'unknown keyword "{unknown.pop()}"')
            found[path, host] = options
    return found


@dataclass
class Exportfs:
    """Runs commands as exportfs(8) does them: reads the files, writes its table."""

    commands: list[str] = field(default_factory=list[str])
    is_deaf: bool = False
    """Succeeds and exports nothing."""
    fails_at: int = -1
    complains: bool = False
    """Exports all, and fails all the same, for what somebody else has written."""
    tried: list[set[str]] = field(default_factory=list[set[str]])
    """Paths of what was tried out, each time."""

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        self.commands.append(argv[0])
        if len(self.commands) == self.fails_at:
            raise machine.CommandError(argv, "exit status 1", "exportfs: no")
        assert 0 < timeout_s < 600
        if argv == (exports.EXPORTFS, "-f"):
            return ""
        assert argv[-2:] == (exports.EXPORTFS, "-ra")
        try:
            if argv[0] == exports.SYSTEMD_RUN:
                self._try_out(argv)
            else:
                self._apply()
                if self.complains:
                    raise ValueError("others' fault")
        except ValueError as error:
            raise machine.CommandError(argv, "exit status 1", f"exportfs: {error}") from error
        return ""

    def _try_out(self, argv: tuple[str, ...]) -> None:
        properties = dict(a[11:].split("=") for a in argv if a.startswith("--property="))
        candidate, seen_as = properties["BindReadOnlyPaths"].split(":")
        assert seen_as == str(exports.EXPORTS)
        # Else the real table would lose what the candidate doesn't have.
        assert properties["TemporaryFileSystem"] == str(exports.ETAB.parent)
        self.tried.append({path for path, _ in parse(Path(candidate).read_text())})

    def _apply(self) -> None:
        files = [exports.EXPORTS, *sorted(exports.EXPORTS_D.glob("*.exports"))]
        text = "".join(path.read_text() for path in files if path.exists())
        entries = {} if self.is_deaf else parse(text)
        exports.ETAB.write_text(
            "".join(f"{p}\t{h}({','.join(sorted(o))})\n" for (p, h), o in entries.items())
        )


@pytest.fixture
def exportfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exportfs:
    for name in ("EXPORTS", "EXPORTS_D", "ETAB", "HANDLES", "PATHS"):
        path = tmp_path / getattr(exports, name).relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(exports, name, path)
    monkeypatch.setattr(machine, "MOUNTINFO", tmp_path / "mountinfo")
    machine.MOUNTINFO.touch()
    fake = Exportfs()
    monkeypatch.setattr(machine, "run", fake.run)
    return fake


def is_applied(shares: list[Export]) -> bool:
    wanted = exports._entries(shares, "none", ())
    return not exports._missing(wanted) and not exports.unexpected(shares)


def test_render():
    shares = [export("/a", "10.0.0.1,192.0.2.0/24,2001:db8::/64"), export("/b", "2001:db8::1")]
    options = (
        "-rw,sync,no_subtree_check,no_root_squash,no_all_squash,secure,sec=sys,mountpoint,"
        f"fsid={UUID}"
    )
    assert exports.render(shares, "none").splitlines() == [
        HEADER,
        f"/srv/nfs/{share_id('/a')} {options} 10.0.0.1 192.0.2.0/24 2001:db8::/64",
        f"/srv/nfs/{share_id('/b')} {options} 2001:db8::1",
    ]


@pytest.mark.parametrize(
    ("squash", "words"),
    [
        ("none", {"no_root_squash", "no_all_squash"}),
        ("root", {"root_squash", "no_all_squash"}),
        ("all", {"root_squash", "all_squash"}),
    ],
)
def test_squash(exportfs: Exportfs, squash: str, words: set[str]):
    exports.ensure([export()], "none" if squash == "root" else "root")
    assert exports.ensure([export()], squash)
    (options,) = exports.read_table().values()
    assert {word for word in options if word.endswith("squash")} == words
    assert not exports.ensure([export()], squash)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Permissions(), {"root_squash", "no_all_squash"}),
        (Permissions(owner="1000:100"), {"root_squash", "no_all_squash"}),
        (Permissions(squash="none"), {"no_root_squash", "no_all_squash"}),
        (Permissions("1000:100", squash="root"), {"root_squash", "no_all_squash"}),
        (
            Permissions(squash="all"),
            {"root_squash", "all_squash", "anonuid=65534", "anongid=65534"},
        ),
        (
            Permissions("1000:100", squash="all"),
            {"root_squash", "all_squash", "anonuid=1000", "anongid=100"},
        ),
    ],
)
def test_squash_of_a_share(exportfs: Exportfs, asked: Permissions, words: set[str]):
    shares = [replace(export(), permissions=asked), export("/other")]
    exports.ensure(shares, "root")
    found = exports.read_table()
    (own,) = (options for (path, _), options in found.items() if path == str(shares[0].path))
    (other,) = (options for (path, _), options in found.items() if path != str(shares[0].path))
    assert {it for it in own if it.endswith("squash") or it.startswith("anon")} == words
    assert {it for it in other if it.endswith("squash")} == {"root_squash", "no_all_squash"}
    assert not exports.ensure(shares, "root")


def test_an_owner_that_is_taken_back_is_exported_no_more(exportfs: Exportfs):
    """Also if the hook was killed when it had written the file, and no more."""
    owned = replace(export(), permissions=Permissions("7:8", squash="all"))
    exports.ensure([owned], "none")
    share = replace(export(), permissions=Permissions(squash="all"))
    exports.EXPORTS.write_text(exports.render([share], "none"))
    assert exports.ensure([share], "none")
    assert "anonuid=7" not in exports.ETAB.read_text()


def test_all_of_the_servers_default_is_the_shares_owner():
    text = exports.render([replace(export(), permissions=Permissions("7:8"))], "all")
    assert ",all_squash,anonuid=7,anongid=8," in text


def test_who_may_only_read(exportfs: Exportfs):
    networks = parse_allowlist("10.0.0.1,10.0.0.2,10.1.0.0/16")
    share = Export("/data", UUID, networks, networks[1:])
    path = str(share.path)
    assert exports.ensure([share], "none")
    found = exports.read_table()
    assert {host: options & {"rw", "ro"} for (_, host), options in found.items()} == {
        "10.0.0.1": {"rw"},
        "10.0.0.2": {"ro"},
        "10.1.0.0/16": {"ro"},
    }
    assert all(options - {"rw", "ro"} == OPTIONS - {"rw"} for options in found.values())
    assert exports.unexpected([share]) == []
    exportfs.commands.clear()
    assert not exports.ensure([share], "none")
    assert exportfs.commands == []
    # The right of one changes, here and by another's hand.
    assert exports.ensure([replace(share, readers=networks[2:])], "none")
    assert exports.read_table()[path, "10.0.0.2"] == frozenset(OPTIONS)
    exports.ETAB.write_text(exports.ETAB.read_text().replace("ro,", ""))
    assert exports.ensure([replace(share, readers=networks[2:])], "none")
    assert "ro" in exports.read_table()[path, "10.1.0.0/16"]


def test_where_all_may_only_read_there_is_one_line():
    networks = parse_allowlist("0.0.0.0/0")
    found = parse(exports.render([Export("/data", UUID, networks, networks)], "none"))
    assert found == {(f"/srv/nfs/{share_id('/data')}", "*"): OPTIONS - {"rw"} | {"ro"}}


def test_render_nothing():
    assert exports.render((), "none").splitlines() == [HEADER]


def test_render_anyone_once():
    # exportfs refuses `* *`, which 0.0.0.0/0 and ::/0 would be.
    assert parse(exports.render([export(networks="0.0.0.0/0")], "none")) == {
        (f"/srv/nfs/{share_id('/data')}", "*"): OPTIONS
    }


_networks = st.ip_addresses().flatmap(
    lambda ip: st.integers(0, ip.max_prefixlen).map(
        lambda length: ip_network(f"{ip}/{length}", strict=False)
    )
)


@given(st.text(), st.sets(_networks, min_size=1))
def test_render_is_read_as_meant(name: str, networks: set[exports.Network]):
    share = Export(name, UUID, tuple(networks))
    found = parse(exports.render([share], "none"))
    assert {path for path, _ in found} == {str(share.path)}
    assert all(options == OPTIONS for options in found.values())
    read = {h if h == "*" else ip_network(h) for _, h in found}
    assert read == {n if n.prefixlen else "*" for n in networks}


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("0.0.0.0/0", "*"),
        ("::/0", "*"),
        ("0.0.0.0/1", "0.0.0.0/1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_host(network: str, text: str):
    assert exports.host(ip_network(network)) == text


def test_ensure(exportfs: Exportfs):
    assert exports.ensure([export()], "none")
    assert parse(exports.EXPORTS.read_text()) == parse(exports.render([export()], "none"))
    assert exports.read_table() == {
        (f"/srv/nfs/{share_id('/data')}", "10.0.0.1"): frozenset(OPTIONS)
    }
    assert sorted(p.name for p in exports.EXPORTS.parent.iterdir()) == ["exports"]
    assert exports.EXPORTS.stat().st_mode & 0o777 == 0o644


def test_ensure_again_runs_nothing(exportfs: Exportfs):
    exports.ensure([export(), export("/any", "0.0.0.0")], "none")
    exportfs.commands.clear()
    assert not exports.ensure([export(), export("/any", "0.0.0.0")], "none")
    assert exportfs.commands == []


@pytest.mark.parametrize(
    "after",
    [
        (),
        (export(networks="10.0.0.2"),),
        (export(networks="10.0.0.1,10.0.0.2"),),
        (export(), export("/other")),
        (export(uuid=UUID.replace("0", "1")),),
    ],
)
def test_ensure_change(exportfs: Exportfs, after: tuple[Export, ...]):
    exports.ensure([export()], "none")
    assert exports.ensure(after, "none")
    assert exports.EXPORTS.read_text() == exports.render(after, "none")
    assert set(exports.read_table()) == {
        (str(e.path), exports.host(network)) for e in after for network in e.networks
    }


def test_only_what_is_new_is_tried_out(exportfs: Exportfs):
    exports.ensure([export(), export("/b")], "none")
    exports.ensure([export(), export("/b", "10.0.0.2"), export("/c")], "none")
    exports.ensure([export()], "none")
    every = [("/data", "/b"), ("/b", "/c"), ()]
    assert exportfs.tried == [{f"/srv/nfs/{share_id(n)}" for n in names} for names in every]


def test_ensure_after_unexport_by_hand(exportfs: Exportfs):
    exports.ensure([export()], "none")
    exports.ETAB.write_text("")  # exportfs -ua
    assert exports.ensure([export()], "none")
    assert is_applied([export()])
    assert exportfs.commands[-1:] == [exports.EXPORTFS]  # Nothing to try out in an old file.


def test_ensure_takes_back_an_export_by_hand(exportfs: Exportfs):
    exports.ensure([export()], "none")
    with exports.ETAB.open("a") as table:
        table.write(f"/srv/nfs/{share_id('/data')}\t*(rw)\n")
    assert exports.ensure([export()], "none")
    assert is_applied([export()])


def test_ensure_takes_back_options_by_hand(exportfs: Exportfs):
    exports.ensure([export()], "none")
    exports.ETAB.write_text(exports.ETAB.read_text().replace("no_root_squash", "insecure"))
    assert exports.ensure([export()], "none")
    assert list(exports.read_table().values()) == [frozenset(OPTIONS)]


def test_ensure_leaves_others_exports_alone(exportfs: Exportfs):
    exports.EXPORTS_D.mkdir()
    (exports.EXPORTS_D / "others.exports").write_text("/home 10.1.0.0/16(rw)\n/srv/nfsx *(ro)\n")
    exports.ensure([export()], "none")
    assert {("/home", "10.1.0.0/16"), ("/srv/nfsx", "*")} < set(exports.read_table())
    assert is_applied([export()])
    exports.remove()
    assert set(exports.read_table()) == {("/home", "10.1.0.0/16"), ("/srv/nfsx", "*")}


def edited(text: str) -> str:
    """Widen what is exported, and add something."""
    return text.replace(" 10.0.0.1", " *") + '/mnt \\\n  192.0.2.1(ro) # mine\n"/srv/nfs/x" *\n'


def test_edited_exports_are_mended(exportfs: Exportfs):
    exports.ensure([export()], "none")
    before = exports.EXPORTS.read_text()
    exports.EXPORTS.write_text(edited(before))
    assert exports.ensure([export()], "none")
    assert exports.EXPORTS.read_text() == before
    assert set(exports.read_table()) == {
        (f"/srv/nfs/{share_id('/data')}", "10.0.0.1"),
        ("/mnt", "192.0.2.1"),
    }


def test_unexpected(exportfs: Exportfs):
    exports.ensure([export()], "none")
    exports.EXPORTS_D.mkdir()
    path = f"/srv/nfs/{share_id('/data')}"
    (exports.EXPORTS_D / "x.exports").write_text(f"{path} *(rw)\n")
    assert exports.unexpected([export()]) == []
    exportfs.run(exports.EXPORTFS, "-ra")
    assert exports.unexpected([export()]) == [(path, "*")]
    exports.ensure([export()], "none")
    assert exports.unexpected([export()]) == [(path, "*")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/srv *(rw,crossmnt)", [("/srv", "*")]),
        ("/ 192.0.2.1(ro,crossmnt)", [("/", "192.0.2.1")]),
        ("/srv *(rw,nocrossmnt)", []),
        ("/srv/other *(rw,crossmnt)", []),
    ],
)
def test_unexpected_from_above(exportfs: Exportfs, line: str, found: list[tuple[str, str]]):
    """Who may mount a directory above with `crossmnt` reads all shares."""
    exports.EXPORTS_D.mkdir()
    (exports.EXPORTS_D / "x.exports").write_text(f"{line}\n")
    exports.ensure([export()], "none")
    assert exports.unexpected([export()]) == found


def test_others_faults_keep_no_share_away(exportfs: Exportfs, caplog: pytest.LogCaptureFixture):
    exportfs.complains = True
    assert exports.ensure([export()], "none")
    assert is_applied([export()])
    assert "exportfs: others' fault" in caplog.text


def test_ensure_refused_keeps_what_was(exportfs: Exportfs, monkeypatch: pytest.MonkeyPatch):
    exports.ensure([export()], "none")
    before = exports.EXPORTS.read_text(), exports.ETAB.read_text()
    bad = export("/bad", uuid=f"{UUID},bogus")
    with pytest.raises(exports.ExportsError, match='exportfs: unknown keyword "bogus"'):
        exports.ensure([bad, export()], "none")
    assert (exports.EXPORTS.read_text(), exports.ETAB.read_text()) == before
    assert sorted(p.name for p in exports.EXPORTS.parent.iterdir()) == ["exports"]


def test_ensure_not_applied(exportfs: Exportfs):
    exportfs.is_deaf = True
    said = "exportfs -ra did not export what .* has; see exportfs -v"
    with pytest.raises(exports.ExportsError, match=said):
        exports.ensure([export()], "none")


@pytest.mark.parametrize("nth", [1, 2])
def test_ensure_failed_is_done_next_time(exportfs: Exportfs, nth: int):
    exportfs.fails_at = nth
    with pytest.raises(exports.ExportsError, match="exportfs: no"):
        exports.ensure([export()], "none")
    assert exports.ensure([export()], "none")
    assert is_applied([export()])


OTHERS = "# ours\n/home  10.1.0.0/16(rw)\n"


def test_what_was_there_is_kept_once(exportfs: Exportfs):
    exports.EXPORTS.write_text(OTHERS)
    exports.ensure([export()], "none")
    exports.ensure([export(networks="10.0.0.2")], "none")
    kept = list(exports.EXPORTS_D.iterdir())
    assert [p.name for p in kept] == ["before-nfs-server.exports"]
    assert kept[0].read_text() == OTHERS
    assert ("/home", "10.1.0.0/16") in exports.read_table()


def test_what_was_there_is_on_the_disk_before_it_is_overwritten(
    exportfs: Exportfs, monkeypatch: pytest.MonkeyPatch
):
    exports.ensure([export()], "none")
    exports.EXPORTS.write_text(edited(exports.EXPORTS.read_text()))
    synced: list[tuple[Path, bool]] = []
    really_sync = machine.sync

    def sync(path: Path) -> None:
        really_sync(path)
        synced.append((path, "/mnt" in exports.EXPORTS.read_text()))

    monkeypatch.setattr(machine, "sync", sync)
    exports.ensure([export()], "none")
    assert (exports.EXPORTS_D / "before-nfs-server.exports", True) in synced


def test_what_was_there_overwrites_nothing(exportfs: Exportfs):
    for number, text in enumerate((OTHERS, "/opt *(ro)\n", "/usr *(ro)\n")):
        exports.EXPORTS.write_text(text)  # Somebody writes his own over the charm's.
        exports.ensure([export(networks=f"10.0.0.{number}")], "none")
    first = exports.EXPORTS_D / "before-nfs-server.exports"
    first.unlink()
    exports.EXPORTS.write_text("/var *(ro)\n")
    exports.ensure([export()], "none")
    assert {p.name: p.read_text() for p in exports.EXPORTS_D.iterdir()} == {
        "before-nfs-server.exports": "/var *(ro)\n",
        "before-nfs-server1.exports": "/opt *(ro)\n",
        "before-nfs-server2.exports": "/usr *(ro)\n",
    }


def test_file_of_an_older_revision_is_not_kept(exportfs: Exportfs):
    older = HEADER.replace("lost.", "lost at once.")
    exports.EXPORTS.write_text(exports.render([export()], "none").replace(HEADER, older))
    exports.ensure([export()], "none")
    assert exports.EXPORTS.read_text() == exports.render([export()], "none")
    assert not exports.EXPORTS_D.exists()


@pytest.mark.parametrize("text", ["", "# /etc/exports: the access control list\n\n  #/srv *\n"])
def test_file_without_exports_is_not_kept(exportfs: Exportfs, text: str):
    exports.EXPORTS.write_text(text)
    exports.ensure([export()], "none")
    assert not exports.EXPORTS_D.exists()


def test_remove(exportfs: Exportfs):
    exports.ensure([export()], "none")
    exports.remove()
    assert exports.read_table() == {}
    assert not exports.EXPORTS.exists()
    exports.remove()
    assert not exports.EXPORTS.exists()


def test_read_table_takes_any_line(exportfs: Exportfs):
    exports.ETAB.write_bytes(b"\n/caf\xe9\t*(ro)\n/odd\n")
    assert set(exports.read_table()) == {("/caf\udce9", "*")}
    assert is_applied([])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing(
    exportfs: Exportfs, monkeypatch: pytest.MonkeyPatch, number: int
):
    def fail(*_: object, **__: object) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(machine, "write_atomically", fail)
    with pytest.raises(exports.ExportsError, match=os.strerror(number)):
        exports.ensure([export()], "none")
    with pytest.raises(exports.ExportsError, match=os.strerror(number)):
        exports.remove()
    assert exports.read_table() == {}


@pytest.mark.parametrize("clock_goes", [True, False])
def test_flush_waits_until_one_can_free_anything(
    exportfs: Exportfs, monkeypatch: pytest.MonkeyPatch, clock_goes: bool
):
    """After two in one second the kernel says that it has flushed what comes in the next one."""
    now, waited = [1000.5], [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds
        now[0] += seconds if clock_goes else 0

    monkeypatch.setattr(exports.time, "time", lambda: now[0])
    monkeypatch.setattr(exports.time, "monotonic", lambda: waited[0])
    monkeypatch.setattr(exports.time, "sleep", sleep)
    for path, flushed in (exports.HANDLES, 999), (exports.PATHS, 1001):
        path.mkdir(parents=True)
        (path / "flush").write_text(f"{flushed}\n")
    exports.flush()
    assert exportfs.commands == [exports.EXPORTFS]
    wanted = 1.5 if clock_goes else exports.FLUSH_TIMEOUT_S
    assert waited[0] == pytest.approx(wanted, abs=2 * exports.FLUSH_POLL_S)


def test_flush_that_fails_is_no_error(exportfs: Exportfs):
    exports.flush()
    exportfs.fails_at = 2
    exports.flush()
    assert exportfs.commands == [exports.EXPORTFS] * 2


def test_paused(exportfs: Exportfs):
    shares = [export(), export("/other", uuid=OTHER_UUID)]
    exports.ensure(shares, "none")
    other = f"/srv/nfs/{share_id('/other')}", "10.0.0.1"
    before = exports.read_table()
    assert exports.ensure(shares, "none", paused={"/data"})
    table = exports.read_table()
    # It stays in the table: else its clients would get ESTALE.
    assert set(table) == set(before)
    assert table[other] == before[other]
    (mountpoint,) = (it for it in table[str(shares[0].path), "10.0.0.1"] if "mountpoint" in it)
    path = Path(mountpoint.removeprefix("mountpoint="))
    assert path.is_absolute()
    with pytest.raises(NotADirectoryError):  # As nothing can be mounted there.
        path.mkdir()
    assert not exports.ensure(shares, "none", paused=["/data"])
    assert exports.ensure(shares, "none")
    assert exports.read_table() == before


OTHER_UUID = "58fcd4cf-8e4b-4905-b9e2-11cd146cc597"
# As /proc/net/rpc/nfsd.fh/content had it on a machine; the kernel waits for what has a "# ".
QUESTIONS = """#domain fsidtype fsid [path]
10.77.0.12 6 0xcfd4fc5805494b8ecd11e2b997c56c14 /srv/nfs/q
# 10.77.0.11 6 0x6dd55b0ba14b2f6b7f7a3cbd0a0e6c1e
# 10.77.0.12 6 0x6dd55b0ba14b2f6b7f7a3cbd0a0e6c1e
# 10.77.0.11 1 0x00000000
# 10.77.0.11 6 0x44290d87204728132e368ca77d07ad29
# 10.77.0.11 7 0x00000002000000006dd55b0ba14b2f6b7f7a3cbd0a0e6c1e
"""


def test_clients_that_waited_go_on_at_once(exportfs: Exportfs, monkeypatch: pytest.MonkeyPatch):
    share = export()
    answers: list[str] = []
    exports.HANDLES.mkdir(parents=True)
    (exports.HANDLES / "content").write_text(QUESTIONS)
    really_write = Path.write_text

    def write(path: Path, text: str) -> int:
        if path != exports.HANDLES / "channel":
            return really_write(path, text)
        answers.append(text)
        return len(text)

    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr(exports.time, "time", lambda: 1000.0)
    exports.ensure([share], "none")
    assert (
        answers == []
    )  # It is not mounted: its clients wait on, and don't get an empty directory.
    machine.MOUNTINFO.write_text(f"40 22 7:0 / {share.path} rw - ext4 /dev/loop0 rw\n")
    exports.ensure([share], "none", paused={"/data"})
    assert answers == []
    exports.ensure([share], "none")
    handle = UUID.replace("-", "")
    assert answers == [
        f"{client} 6 \\x{handle} 2800 {share.path}\n" for client in ("10.77.0.11", "10.77.0.12")
    ]
