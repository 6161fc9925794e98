# SPDX-License-Identifier: Apache-2.0
"""What one hook or action sees of the model, and what it may change there. No I/O.

Written to Juju's rules: what a hook reads does not change while it runs, and what it writes is
kept back until it succeeds, except for the few commands that act at once (`status-set`,
`application-version-set`, `juju-log`).
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sandbox.rules.gnuflag import UsageError
from sandbox.rules.model import Bag, Hook, Model, Relation, Storage, Unit

JUJU_VERSIONS = {"3.6": "3.6.28", "4.0": "4.0.15"}
AGENTS_DIRECTORY = "/var/lib/juju/agents"
TOOLS_DIRECTORY = "/var/lib/juju/tools"
AGENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class FlushError(Exception):
    """What the hook has written is refused, all of it; the message is such as Juju gives."""


class CommandError(Exception):
    """A hook command fails with this message."""


@dataclass
class Action:
    """An action, or with `name` "juju-exec" a command that an operator runs in a hook context."""

    id: str
    name: str
    params: Mapping[str, object] = field(default_factory=dict[str, object])
    results: dict[str, object] = field(default_factory=dict[str, object])
    failure: str | None = None

    @property
    def is_exec(self) -> bool:
        """Whether this is `juju exec`, not an action of the charm."""
        return self.name == "juju-exec"


Log = Callable[[str, str], None]


class Context:
    """The view of the model that one hook or action has.

    `log` is called with each level and message the charm gives to juju-log.
    """

    def __init__(
        self,
        model: Model,
        unit: Unit,
        hook: Hook | None = None,
        action: Action | None = None,
        log: Log = lambda level, message: None,
    ) -> None:
        self.model = model
        self.unit = unit
        self.app = model.applications[unit.app]
        self.hook = hook
        self.action = action
        self.log = log
        what = hook.name if hook else "run-commands" if action and action.is_exec else ""
        what = what or (action.name if action else "")
        self.id = f"{unit.name}-{what}-{secrets.token_hex(16)}"
        self.config = self.app.config()
        self.relations = {relation.id: relation for relation in self._known_relations()}
        self.members = {k: self._members_of(k) for k in self.relations}
        self._keep_settings_of_members()
        self._read: dict[tuple[int, str], dict[str, str]] = {}
        self._writes: dict[tuple[int, str], dict[str, str]] = {}
        self._ports: dict[str, bool] = {}
        # Whoever has once been told that it does not lead does not lead for the rest of the hook.
        self._is_minion = False

    def _known_relations(self) -> list[Relation]:
        local = self.unit.local.relations
        return [relation for relation in self.model.relations.values() if relation.id in local]

    def _keep_settings_of_members(self) -> None:
        """Forget settings of units that are no members, and of the unit that the hook is about."""
        hook, memory = self.hook, self.unit.memory
        local = self.unit.local.relations
        members = {(number, name) for number in self.relations for name in local[number].members}
        if hook and hook.relation_id is not None:
            members.discard((hook.relation_id, hook.remote_unit))
        memory.settings = {key: memory.settings[key] for key in memory.settings.keys() & members}

    def _members_of(self, relation_id: int) -> list[str]:
        """Return the units whose joined hook has begun and whose departed hook has not."""
        members = set(self.unit.local.relations[relation_id].members)
        hook = self.hook
        if hook and hook.relation_id == relation_id and hook.remote_unit:
            if hook.kind == "relation-departed":
                members.discard(hook.remote_unit)
            else:
                members.add(hook.remote_unit)
        return sorted(members)

    def environment(self) -> dict[str, str]:
        """Return the whole environment of the hook; nothing is inherited."""
        agent = f"{AGENTS_DIRECTORY}/{self.unit.tag}"
        model_name, model_uuid = self.model.identity(self.unit.app)
        charm = f"{agent}/charm"
        hook_name = self.hook.name if self.hook else ""
        env = {
            "CHARM_DIR": charm,
            "JUJU_CHARM_DIR": charm,
            "JUJU_CONTEXT_ID": self.id,
            "JUJU_HOOK_NAME": hook_name,
            "JUJU_AGENT_SOCKET_ADDRESS": f"{agent}/agent.socket",
            "JUJU_AGENT_SOCKET_NETWORK": "unix",
            "JUJU_UNIT_NAME": self.unit.name,
            "JUJU_MODEL_UUID": model_uuid,
            "JUJU_MODEL_NAME": model_name,
            "JUJU_API_ADDRESSES": "10.77.0.1:17070",
            "JUJU_MACHINE_ID": self.unit.machine,
            "JUJU_PRINCIPAL_UNIT": self.unit.principal,
            "JUJU_AVAILABILITY_ZONE": "",
            "JUJU_VERSION": JUJU_VERSIONS[self.model.juju],
            "CLOUD_API_VERSION": "",
            **{f"JUJU_CHARM_{kind}": "" for kind in self._empty_charm_variables()},
            "JUJU_CHARM_NO_PROXY": "127.0.0.1,localhost,::1",
            "APT_LISTCHANGES_FRONTEND": "none",
            "DEBIAN_FRONTEND": "noninteractive",
            "LANG": "C.UTF-8",
            "TERM": "tmux-256color",
            "PATH": f"{TOOLS_DIRECTORY}/{self.unit.tag}:{AGENT_PATH}",
        }
        if self.model.juju == "3.6":
            env["JUJU_SLA"] = "unsupported"
        return env | self._environment_of_kind()

    def _empty_charm_variables(self) -> tuple[str, ...]:
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY")
        traces = ("TRACE_CONFIG_HTTP", "TRACE_CONFIG_GRPC", "TRACE_CONFIG_CA_CERT")
        return proxies if self.model.juju == "3.6" else proxies + traces

    def _environment_of_kind(self) -> dict[str, str]:
        if self.action and self.action.is_exec:
            return {}
        if self.action:
            return {
                "JUJU_DISPATCH_PATH": f"actions/{self.action.name}",
                "JUJU_ACTION_NAME": self.action.name,
                "JUJU_ACTION_UUID": self.action.id,
                "JUJU_ACTION_TAG": f"action-{self.action.id}",
            }
        hook = self.hook
        if hook is None:
            return {}
        env = {"JUJU_DISPATCH_PATH": f"hooks/{hook.name}"}
        if hook.relation_id is not None:
            env["JUJU_RELATION"] = hook.endpoint
            env["JUJU_RELATION_ID"] = f"{hook.endpoint}:{hook.relation_id}"
            env["JUJU_REMOTE_UNIT"] = hook.remote_unit
            env["JUJU_REMOTE_APP"] = hook.remote_app
        if hook.departing_unit:
            env["JUJU_DEPARTING_UNIT"] = hook.departing_unit
        if hook.storage_id:
            storage = self.model.storage[hook.storage_id]
            env["JUJU_STORAGE_ID"] = storage.id
            env["JUJU_STORAGE_LOCATION"] = storage.location
            env["JUJU_STORAGE_KIND"] = "filesystem"
        return env

    def flush(self) -> None:
        """Make the hook's writes true; called when it has succeeded, and only then.

        Raises:
            FlushError: the unit has written as leader and no longer leads.
        """
        self._check_leadership()
        for (relation_id, owner), changes in self._writes.items():
            if relation := self.model.relations.get(relation_id):
                _bags(relation, owner)[owner].update(changes)
        self.unit.ports = self.ports()

    def _check_leadership(self) -> None:
        """Refuse what a deposed leader has written (CommitHookChanges, agent/uniter/uniter.go)."""
        owners = [owner for _, owner in self._writes]
        if self.unit.app not in owners or self.model.is_leader(self.unit):
            return
        if self.model.juju == "4.0":
            # core/lease: ErrNotHeld
            raise FlushError("lease not held")
        raise FlushError(
            "checking leadership continuity: "
            f'"{self.unit.name}" is not leader of "{self.unit.app}"'
        )

    def is_leader(self) -> bool:
        """Say whether the unit leads; once no, always no within one hook."""
        self._is_minion |= not self.model.is_leader(self.unit)
        return not self._is_minion

    def active_relations(self) -> list[Relation]:
        """Return the relations of the context but for those that are broken.

        These are dying and have no members (getContextRelations, contextfactory.go). A relation
        that only this unit leaves is not: even its broken hook is told of it.
        """
        local = self.unit.local.relations
        return [
            relation
            for relation in self.relations.values()
            if relation.is_peer or relation.life == "alive" or local[relation.id].members
        ]

    def relation(self, reference: str) -> Relation:
        """Find the relation that `-r` names ("3" or "endpoint:3"); the hook's own if empty."""
        if not reference:
            if self.hook is None or self.hook.relation_id is None:
                raise UsageError("no relation id specified")
            return self.relations[self.hook.relation_id]
        endpoint, _, number = reference.rpartition(":")
        problem = f'invalid value "{reference}" for option -r: '
        if not number.isdecimal():
            raise UsageError(f"{problem}invalid relation id")
        relation = self.relations.get(int(number))
        if relation is None or endpoint not in ("", relation.endpoints[self.unit.app].name):
            raise UsageError(f"{problem}relation not found")
        return relation

    def read_bag(self, relation: Relation, owner: str) -> dict[str, str]:
        """Read the databag of a unit or application, if this unit may.

        What has been read stays the same for the hook; that of a member for longer (Memory).
        """
        key = (relation.id, owner)
        is_member = owner in self.members[relation.id]
        read = self.unit.memory.settings if is_member else self._read
        if key not in read:
            bag = _bags(relation, owner).get(owner)
            if bag is None or not self._may_see(relation, owner):
                raise CommandError("permission denied")
            read[key] = dict(bag.data)
        data = read[key] | self._writes.get(key, {})
        return {name: value for name, value in data.items() if value}

    def _may_see(self, relation: Relation, owner: str) -> bool:
        if owner == self.unit.app and not relation.is_peer:
            # Seen on 4.0.15: a follower may.
            return self.model.juju == "4.0" or self.is_leader()
        return owner == self.unit.name or owner.partition("/")[0] == relation.remote_app(
            self.unit.app
        )

    def write_bag(self, relation: Relation, changes: Mapping[str, str], *, to_app: bool) -> None:
        """Keep changes to this unit's, or as leader the application's, databag for the flush."""
        if to_app and not self.is_leader():
            raise CommandError("cannot write relation settings")
        owner = self.unit.app if to_app else self.unit.name
        self._writes.setdefault((relation.id, owner), {}).update(changes)

    def change_port(self, port: str, *, is_open: bool) -> None:
        """Keep a port to open or close for the flush.

        Raises:
            CommandError: another unit of the machine has it open (runner/context/ports.go).
        """
        for unit in self.model.units.values():
            is_other = unit.machine == self.unit.machine and unit is not self.unit
            if is_other and port in unit.ports:
                raise CommandError(
                    f'cannot {"open" if is_open else "close"} {port} (unit "{self.unit.name}"): '
                    f'port range conflicts with {port} (unit "{unit.name}")'
                )
        self._ports[port] = is_open

    def ports(self) -> set[str]:
        """Return the unit's open ports, as they will be after the hook."""
        opened = {port for port, is_open in self._ports.items() if is_open}
        return (self.unit.ports | opened) - (self._ports.keys() - opened)

    def storage(self, identity: str) -> Storage:
        """Find an attached storage; the hook's own if `identity` is empty."""
        identity = identity or (self.hook.storage_id if self.hook else "")
        if not identity:
            raise UsageError("no storage instance specified")
        for storage in self.attached_storage():
            if storage.id == identity:
                return storage
        raise UsageError(f'invalid value "{identity}" for option -s: storage not found')

    def attached_storage(self) -> list[Storage]:
        """Return the unit's storage that is there to be used."""
        return [s for s in self.model.storage_of(self.unit) if s.is_provisioned]

    def running_action(self) -> Action:
        """Return the action that runs; an error in a hook."""
        if self.action is None or self.action.is_exec:
            raise CommandError("not running an action")
        return self.action


def _bags(relation: Relation, owner: str) -> dict[str, Bag]:
    return relation.unit_bags if "/" in owner else relation.app_bags
