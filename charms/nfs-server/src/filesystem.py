# SPDX-License-Identifier: Apache-2.0
"""The endpoint `filesystem`, for filesystem-client and whoever else reads `filesystem_info`.

That interface (version 0, in canonical/charmlibs) has no request: who integrates gets the share
that the options of this charm name. It has one key, `endpoint`, in the application databag of the
server: `nfs://(host)/path`, or `(host:port)`. What stands in parentheses is percent-encoded, since
its reader takes a bare `:` or `[` there for a fault. There is no word for a refusal.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

import ops

from charms.storage_libs.v0.nfs_interfaces import (
    DEFAULT_PORT,
    Endpoint,
    Share,
    ShareRequest,
    client_networks,
)
from placement import Answer

ENDPOINT = "filesystem"
_URI = re.compile(r"nfs://\((?P<authority>[^()]+)\)(?P<path>/.*)")


@dataclass(frozen=True)
class Filesystem:
    """The integrations of the endpoint; reads and answers as NFSProvides does."""

    charm: ops.CharmBase
    share: str
    """Name of the share that they get."""
    size: int | None
    """GiB that it is to have; None: no limit."""

    @property
    def integrations(self) -> list[ops.Relation]:
        """The integrations that are there; not one that is being removed."""
        return [relation for relation in self.charm.model.relations[ENDPOINT] if relation.active]

    def requests(self) -> tuple[ShareRequest, ...]:
        """What the clients would ask for, if the interface had a request."""
        return tuple(
            ShareRequest(
                integration_id=relation.id,
                application=relation.app.name,
                name=self.share,
                size=self.size,
                allowlist=(),
                clients=client_networks(relation),
                error="",
            )
            for relation in sorted(self.integrations, key=lambda relation: relation.id)
        )

    def answered(self, relation: ops.Relation) -> Share:
        """Read what a client was told. On the leader; nothing elsewhere."""
        leads = self.charm.unit.is_leader()
        text = relation.data[self.charm.app].get("endpoint", "") if leads else ""
        return Share(relation.id, parse_uri(text), self.size, "")

    def answer(self, relation: ops.Relation, answer: Answer) -> None:
        """Say where the share is, or that it is nowhere. On the leader."""
        text = format_uri(answer.endpoint) if answer.endpoint else ""
        relation.data[self.charm.app].update({"endpoint": text})


def format_uri(endpoint: Endpoint) -> str:
    """Write an endpoint in the interface's form."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    port = "" if endpoint.port == DEFAULT_PORT else f":{endpoint.port}"
    return f"nfs://({quote(host + port, safe='')}){endpoint.path}"


def parse_uri(text: str) -> Endpoint | None:
    """Read what `format_uri` wrote; None: it is something else."""
    match = _URI.fullmatch(text)
    return Endpoint.parse(f"nfs://{unquote(match['authority'])}{match['path']}") if match else None
