# SPDX-License-Identifier: Apache-2.0
"""The clients, of both endpoints behind one face: requests in, answers out, by integration.

`nfs-share` has a library that does it. `filesystem` is for filesystem-client and whoever else
reads `filesystem_info` (version 0, in canonical/charmlibs): it has no request, so who integrates
gets the share that the options of this charm name, and no word for a refusal. Its one key,
`endpoint` in the server's application databag, is `nfs://(host)/path` or `(host:port)`, with what
stands in parentheses percent-encoded: its reader takes a bare `:` or `[` there for a fault.
"""

import contextlib
import functools
import re
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import quote, unquote

import ops

from charms.storage_libs.v0.nfs_interfaces import (
    NO_LIMIT,
    UNKNOWN,
    UNSAID,
    Endpoint,
    NFSProvides,
    ShareRequest,
    client_networks,
)
from settings import Settings
from values import Answer, Request, is_of_model, is_remote, share_name_of

NFS_SHARE = "nfs-share"
FILESYSTEM = "filesystem"
ENDPOINTS = (NFS_SHARE, FILESYSTEM)
_URI = re.compile(r"nfs://\((?P<authority>[^()]+)\)(?P<path>/.*)")


class Clients:
    """Who asks for shares, what they were told last, and telling them."""

    def __init__(self, charm: ops.CharmBase):
        self._charm = charm
        self._model = charm.model
        self._nfs_share = NFSProvides(charm, NFS_SHARE)
        self._names: dict[int, str] = {}
        """The names that were requested, by integration; none that is refused."""

    def requests(self, settings: Settings) -> tuple[Request, ...]:
        """Read what the clients ask for, in the order of their integrations."""
        asked = [self._request(request) for request in self._nfs_share.requests()]
        asked += [
            Request(
                integration_id=relation.id,
                application=self._application(relation),
                model=self._other_model(relation),
                share=self._share(relation, settings.filesystem_share),
                size=settings.filesystem_size,
                clients=client_networks(relation),
                remark="" if settings.nfsv3 else self._remark_autofs(relation.app.name),
            )
            for relation in self._model.relations[FILESYSTEM]
            if relation.active  # Not one that is being removed.
        ]
        return tuple(sorted(asked, key=lambda request: request.integration_id))

    def _request(self, request: ShareRequest) -> Request:
        relation = self._relations[request.integration_id]
        share, error = self._share(relation, request.name), request.error
        asked = request.permissions
        if share == request.name and is_of_model(share):
            share, error = "", _refusal(share)
        self._names[request.integration_id] = request.name if share else ""
        return Request(
            integration_id=request.integration_id,
            application=self._application(relation),
            model=self._other_model(relation),
            share=share,
            # Another part of it that can't be read may be meant to change what this one means.
            size=UNKNOWN if error else request.size,
            allowlist=request.allowlist,
            clients=request.clients,
            error=error,
            remark=self._remark_library(relation),
            permissions=replace(UNSAID, access=asked.access) if error else asked,
        )

    def released(self, requests: Iterable[Request]) -> list[int]:
        """Find who was told something, and is not among those who request. On the leader."""
        requesting = {it.integration_id for it in requests}
        return [
            relation.id
            for relation in self._model.relations[NFS_SHARE]
            if relation.active and relation.id not in requesting
            if self.answered(relation.id) != Answer()
        ]

    def _remark_autofs(self, application: str) -> str:
        # autofs(5) asks rpcbind which server answers first, before it mounts.
        return (
            f"{application}: autofs, if it mounts, needs NFSv3 or fstype=nfs4:"
            f" `juju config {self._charm.app.name} nfsv3=true`"
        )

    def _remark_library(self, relation: ops.Relation) -> str:
        # Its units alone keep such a key in their databags.
        if not any("cache" in relation.data[unit] for unit in relation.units):
            return ""
        server = self._charm.app.name
        return (
            f"{relation.app.name} has library 0.3: it unmounts for good when a unit of {server} is"
            " removed"
        )

    def _share(self, relation: ops.Relation, name: str) -> str:
        """Name the share of a client that asks for a name."""
        model = self._other_model(relation)
        return share_name_of(model, name) if model else name

    def _other_model(self, relation: ops.Relation) -> str:
        """Find the UUID of the model of a client's application; empty: it is of this one.

        What the application is called says nothing: whose offer was consumed chose the name.
        """
        model = relation.remote_model.uuid
        return model if model != self._model.uuid else ""

    def _application(self, relation: ops.Relation) -> str:
        name, model = relation.app.name, self._other_model(relation)
        return share_name_of(model, name) if model and not is_remote(name) else name

    @functools.cached_property
    def _relations(self) -> dict[int, ops.Relation]:
        """All integrations, of either endpoint."""
        relations = (self._model.relations[endpoint] for endpoint in ENDPOINTS)
        return {relation.id: relation for of_one in relations for relation in of_one}

    def answered(self, integration_id: int) -> Answer:
        """Read what a client was told last. On the leader; nothing elsewhere."""
        relation = self._relations[integration_id]
        if relation.name == NFS_SHARE:
            share = self._nfs_share.answered(integration_id)
            # Earlier revisions wrote no size for no limit. Without an endpoint nothing is granted.
            granted = share.size if share.size.is_known else NO_LIMIT
            size = granted if share.endpoint else UNKNOWN
            return Answer(share.endpoint, size, share.error, permissions=share.permissions)
        leads = self._charm.unit.is_leader()
        text = relation.data[self._charm.app].get("endpoint", "") if leads else ""
        return Answer(_parse_uri(text))

    def answer(self, integration_id: int, answer: Answer) -> None:
        """Tell a client all that there is to tell it. On the leader."""
        relation = self._relations[integration_id]
        if relation.name == NFS_SHARE:
            self._nfs_share.answer(
                integration_id,
                endpoint=answer.endpoint,
                size=answer.size,
                error=answer.error,
                admitted=answer.admitted,
                permissions=answer.permissions,
                name=self._names.get(integration_id, ""),
            )
        else:
            text = _format_uri(answer.endpoint) if answer.endpoint else ""
            relation.data[self._charm.app].update({"endpoint": text})

    def address(self, integration_id: int) -> str:
        """Find where a client reaches this unit; empty if Juju doesn't know.

        Asked once for an endpoint, since a hook may have a thousand integrations; but the way to
        another model may be another one.
        """
        relation = self._relations[integration_id]
        is_apart = is_remote(self._application(relation))
        return self._ingress(relation if is_apart else relation.name)

    def address_for_others(self) -> str:
        """Find where clients outside Juju reach this unit; empty if Juju doesn't know."""
        return self._ingress(NFS_SHARE)

    def _ingress(self, key: str | ops.Relation) -> str:
        binding = self._model.get_binding(key)
        address = binding.network.ingress_address if binding else None
        return str(address) if address else ""


def _refusal(name: str) -> str:
    """Say why an application of this model can't have a share by the name of another's."""
    return f"share name '{name}': a share of another model: use another name"


def _format_uri(endpoint: Endpoint) -> str:
    """Write an endpoint in the form of `filesystem_info`."""
    authority = str(endpoint).removeprefix("nfs://").removesuffix(endpoint.path)
    return f"nfs://({quote(authority, safe='')}){endpoint.path}"


def _parse_uri(text: str) -> Endpoint | None:
    """Read what `_format_uri` wrote; None: it is something else."""
    if match := _URI.fullmatch(text):
        with contextlib.suppress(ValueError):
            return Endpoint.parse(f"nfs://{unquote(match['authority'])}{match['path']}")
    return None
