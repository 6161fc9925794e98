# SPDX-License-Identifier: Apache-2.0
"""What must be true after each step.

What is lost, and an error that nobody should have seen, is a fault at once. What has to come about
is waited for: first with no help; then update-status fires, as it does every five minutes.
"""

import asyncio
import ipaddress
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from tests.torture.ledger import Client, Ledger, Share
from tests.torture.machines import OUTSIDER, SERVER, Machines, Seen

UNAIDED_S = 30.0
"""How long effects are waited for before update-status fires."""
TIMEOUT_S = 240.0
"""How long altogether: a lease runs out meanwhile, and whoever leaves has 60 s."""
POLL_S = 1.0


class FaultError(AssertionError):
    """The model is not as it must be."""


async def judge(machines: Machines, ledger: Ledger) -> None:
    """Wait until all is as it must be.

    Raises:
        FaultError: something is not, or was not for a moment though it must always be.
    """
    started = time.monotonic()
    begun = {file: count for share in ledger.live for file, count in share.acked.items()}
    async with AsyncExitStack() as stack:
        is_aided = False
        last: list[str] = []
        while True:
            await machines.idle(TIMEOUT_S)
            seen = await _look(machines, ledger)
            if faults := await machines.wrong_dispatches() + _faults(ledger, seen):
                raise FaultError("\n".join(faults))
            await _write(machines, ledger, seen)
            missing = _missing(machines, ledger, seen, begun)
            if not missing:
                missing = await _outsider(machines, ledger, seen)
            waited = time.monotonic() - started
            if machines.is_loud and missing not in ([], last):
                print(f"\n     {waited:.1f} s: {'; '.join(missing)}", end=" ", flush=True)
            if not missing:
                ledger.full.clear()
                return
            last = missing
            if waited > TIMEOUT_S:
                raise FaultError("\n".join([f"after {waited:.0f} s:", *missing]))
            if waited > UNAIDED_S and not is_aided:
                await stack.enter_async_context(machines.hooks_every("10s"))
                is_aided = True
            await asyncio.sleep(POLL_S)


async def _look(machines: Machines, ledger: Ledger) -> Seen:
    """Look at every machine; the ledger learns what was acknowledged, and where shares are."""
    units = [unit for client in ledger.clients.values() for unit in client.units]
    seen = await machines.look(units, list(ledger.servers))
    for unit in units:
        for file, count in seen.clients[unit]["acked"].items():
            ledger.acknowledge(file, count)
    for server, its in seen.servers.items():
        for file in its["records"]:
            share = ledger.by_file(file)
            if share and not share.storage:
                share.storage = ledger.servers[server]
    return seen


# Faults, whenever they are seen


def _faults(ledger: Ledger, seen: Seen) -> list[str]:
    records = {unit: its["records"] for unit, its in seen.servers.items()}
    faults = ledger.missing(records) + ledger.lingering(records)
    for unit, its in seen.clients.items():
        faults += _errors(ledger, unit, its["errors"])
        faults += _strange_files(ledger, unit, its)
    return faults


def _errors(ledger: Ledger, unit: str, errors: Mapping[str, Any]) -> list[str]:
    """Return what a program was told that it should not have been told."""
    faults: list[str] = []
    for file, noted in errors.items():
        new = noted[ledger.errors.get(file, 0) :]
        ledger.errors[file] = len(noted)
        share = ledger.by_file(file)
        is_full = share is not None and share.id in ledger.full
        faults += [
            f"{unit}: the program on {file} was told {it['what']} ({it['doing']})"
            for it in new
            if unit not in ledger.excused and not (is_full and it["what"] == "ENOSPC")
        ]
    return faults


def _strange_files(ledger: Ledger, unit: str, its: Mapping[str, Any]) -> list[str]:
    """Return another share's files where a share is mounted."""
    share = ledger.mounts().get(unit)
    if share is None or not its["seen"]:
        return []
    known = [ledger.by_file(file) for file in its["seen"].get("files", []) if "records." in file]
    others = {it.model or "the model" for it in known if it and it.model != share.model}
    return [f"{unit}: in share {share.name}: files of an application of {it}" for it in others]


# What must come about


async def _write(machines: Machines, ledger: Ledger, seen: Seen) -> None:
    """Start the programs that should run, where their share is mounted."""
    for unit, share in ledger.mounts().items():
        its = seen.clients[unit]
        if unit in ledger.excused:
            await machines.stop_writing(unit, kill=True)
        elif share.file(unit) in its["running"]:
            continue
        if _is_mounted(machines, ledger, share, its):
            await machines.write(unit, share)
            ledger.excused.discard(unit)


def _is_mounted(machines: Machines, ledger: Ledger, share: Share, its: Mapping[str, Any]) -> bool:
    """Whether what is mounted can be the share: it answers, from the unit that has it."""
    if not its["seen"] or "error" in its["seen"]:
        return False
    host = its["source"].partition(":")[0]
    servers = {machines.address(unit): storage for unit, storage in ledger.servers.items()}
    if host not in servers:
        return False
    known = [ledger.by_file(file) for file in its["seen"]["files"] if file.startswith("records.")]
    return share in known or not (known or share.storage)


def _missing(
    machines: Machines, ledger: Ledger, seen: Seen, begun: Mapping[str, int]
) -> list[str]:
    missing: list[str] = []
    for client in ledger.clients.values():
        for unit in client.units:
            missing += _client(machines, ledger, client, unit, seen.clients[unit], begun)
    for server, its in seen.servers.items():
        missing += _exports(ledger, server, its)
        missing += [f"{server}: {it} failed" for it in its["failed"]]
    return missing + _statuses(machines, ledger)


def _client(
    machines: Machines,
    ledger: Ledger,
    client: Client,
    unit: str,
    its: Mapping[str, Any],
    begun: Mapping[str, int],
) -> list[str]:
    """Return what is not so yet on a client's machine."""
    share = ledger.share_of(client)
    if share is None:
        left = [f"{unit}: {its['source']} is mounted still"] if its["source"] else []
        return left + [f"{unit}: {it} failed" for it in its["failed"]]
    if not ledger.is_served(share):
        return []
    if not _is_mounted(machines, ledger, share, its):
        return [f"{unit}: share {share.name} is not mounted: {its['source'] or 'nothing'}"]
    missing = [f"{unit}: {it} failed" for it in its["failed"]]
    if ledger.is_size_known(share) and round(its["seen"]["mib"] / 1024) != share.size:
        missing.append(f"{unit}: {share.name} has {its['seen']['mib']} MiB, not {share.size} GiB")
    file = share.file(unit)
    if share.acked.get(file, 0) <= begun.get(file, 0):
        missing.append(f"{unit}: nothing new was written to {file}")
    return missing


def _exports(ledger: Ledger, server: str, its: Mapping[str, Any]) -> list[str]:
    """Return who is admitted and should not be, and who should be and is not."""
    missing: list[str] = []
    here = {path: identity for identity, path in its["paths"].items()}
    exported: dict[str, set[str]] = {}
    for path, host in its["exports"]:
        exported.setdefault(path, set()).add("0.0.0.0/0" if host == "*" else host)
    for path, hosts in exported.items():
        share = next((it for it in ledger.shares if it.id == here.get(path)), None)
        if share is None:
            missing.append(
                f"{server}: {path} is exported to {hosts}: it is no share that is known"
            )
        elif beyond := not_in(hosts, ledger.may_admit(share)):
            missing.append(f"{server}: share {share.name} is open to {beyond}")
    for identity, path in its["paths"].items():
        share = next((it for it in ledger.live if it.id == identity), None)
        if share and (shut := not_in(ledger.must_admit(share), exported.get(path, ()))):
            missing.append(f"{server}: share {share.name} is shut to {shut}")
    return missing


def not_in(inner: Iterable[str], outer: Iterable[str]) -> list[str]:
    """Return the addresses and networks of one that the other, taken together, has not."""
    whole = list(ipaddress.collapse_addresses(map(ipaddress.IPv4Network, outer)))
    nets = map(ipaddress.IPv4Network, inner)
    return [str(net) for net in nets if not any(net.subnet_of(it) for it in whole)]


def _statuses(machines: Machines, ledger: Ledger) -> list[str]:
    """Return the statuses that do not agree with what the ledger knows."""
    expected: dict[str, set[str]] = {}
    for client in ledger.clients.values():
        for unit in client.units:
            expected[machines.subordinate(unit)] = _client_statuses(ledger, client)
    # Whose storage is detached is told by the unit that had it, whatever that one has now.
    unserved = [it for it in ledger.live if not ledger.is_served(it)]
    late = {it.storage for it in ledger.shares if it.end == "forgotten"}
    for server, storage in ledger.servers.items():
        if not storage:
            expected[server] = {"blocked"}
        else:
            _, message = machines.status_of(server)
            names = [f"share {it.name}" for it in unserved]
            is_told = message.startswith(tuple(it + end for it in names for end in (":", "@")))
            expected[server] = {"blocked", "active"} if is_told or storage in late else {"active"}
    said = [
        f"{unit} is {status} ({message}), not {' or '.join(sorted(wanted))}"
        for unit, wanted in expected.items()
        for status, message in [machines.status_of(unit)]
        if status not in wanted
    ]
    server = machines.seen["applications"][SERVER]["application-status"]
    if not unserved and server["current"] != "active":
        said.append(f"{SERVER} is {server['current']}: {server.get('message', '')}")
    return said


def _client_statuses(ledger: Ledger, client: Client) -> set[str]:
    share = ledger.share_of(client)
    if share is None or not ledger.is_served(share):
        return {"blocked", "waiting"}
    return {"active"} if ledger.is_granted_all(client) else {"active", "blocked"}


async def _outsider(machines: Machines, ledger: Ledger, seen: Seen) -> list[str]:
    """Let the machine that is in nobody's model try one of the shares."""
    tried = [
        (share, server, its["paths"][share.id])
        for share in ledger.live
        for server, its in seen.servers.items()
        if share.id in its["paths"]
    ]
    if not tried:
        return []
    ledger.tries += 1
    share, server, path = tried[ledger.tries % len(tried)]
    mounted = await machines.outsider_mounts(machines.address(server), path)
    if mounted and not _admits(ledger.may_admit(share)):
        return [f"share {share.name} on {server} can be mounted by anyone"]
    if not mounted and _admits(ledger.must_admit(share)):
        return [f"share {share.name} on {server} can't be mounted by {OUTSIDER}, who may"]
    return []


def _admits(allowlist: Iterable[str]) -> bool:
    outsider = ipaddress.ip_address(OUTSIDER)
    return any(outsider in ipaddress.ip_network(it) for it in allowlist)
