# SPDX-License-Identifier: Apache-2.0
"""What the candidates of moves are made of."""

from collections.abc import Callable

from tests.torture.ledger import Client, Ledger, Share
from tests.torture.steps import Arguments


def clients(ledger: Ledger, *conditions: Callable[[Ledger, Client], bool]) -> list[Arguments]:
    return [
        (client.name,)
        for client in ledger.clients.values()
        if all(condition(ledger, client) for condition in conditions)
    ]


def is_served(ledger: Ledger, client: Client) -> bool:
    share = ledger.share_of(client)
    return share is not None and ledger.is_served(share)


def is_integrated(_: Ledger, client: Client) -> bool:
    return client.is_integrated


def may_go(ledger: Ledger, client: Client) -> bool:
    """Whether the rules say what becomes of the share when a client leaves it."""
    share = ledger.share_of(client)
    if share is None or share.owner != client.name:
        return True
    return all(it is client or ledger.is_granted_all(it) for it in ledger.askers(share))


def shares(ledger: Ledger, condition: Callable[[Share], bool]) -> list[Arguments]:
    """Return shares that an action can name."""
    names = [share.name for share in ledger.live]
    return [
        (share.id,)
        for share in ledger.live
        if not share.model and names.count(share.name) == 1 and condition(share)
    ]


def deleted(ledger: Ledger) -> list[Arguments]:
    """Return deleted shares that a unit keeps."""
    its = [share for share in ledger.shares if share.end == "deleted"]
    return [(share.id,) for share in its if ledger.is_served(share)]


def free_servers(ledger: Ledger) -> list[Arguments]:
    """Return servers that can go: not the last with a storage, nor one beside the second."""
    with_storage = [unit for unit, storage in ledger.servers.items() if storage]
    return [
        (unit,)
        for unit in ledger.servers
        if unit != ledger.second and with_storage not in ([], [unit])
    ]


def share_by_id(ledger: Ledger, identity: str) -> Share:
    return next(share for share in ledger.shares if share.id == identity)


def unit_of(ledger: Ledger, share: Share) -> str:
    return next(unit for unit, storage in ledger.servers.items() if storage == share.storage)
