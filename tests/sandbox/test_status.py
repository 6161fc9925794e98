# SPDX-License-Identifier: Apache-2.0
"""The table that people read."""

from typing import cast

from sandbox.rules.status import ApplicationStatus, Status, UnitStatus, table, units


def unit(workload: str, agent: str = "idle", message: str = "", **more: object) -> UnitStatus:
    status = {
        "workload-status": {"current": workload, "message": message},
        "juju-status": {"current": agent},
        **more,
    }
    return cast("UnitStatus", status)


def a_model() -> Status:
    server = unit("maintenance", "executing", "Installing", machine="2", leader=True)
    server["juju-status"]["message"] = "running install hook"
    server["open-ports"] = ["2049/tcp", "111/tcp"]
    client = unit("active", leader=True, **{"public-address": "10.77.0.10"})
    return {
        "model": {"name": "try", "controller": "sandbox", "cloud": "sandbox", "version": "3.6.0"},
        "machines": {
            "0": {
                "juju-status": {"current": "started"},
                "machine-status": {"current": "running", "message": "Running"},
                "dns-name": "10.77.0.10",
                "instance-id": "sandbox-0",
                "base": {"name": "debian", "channel": "12"},
            },
            "2": {"juju-status": {"current": "pending"}},
        },
        "applications": {
            "app": cast(
                "ApplicationStatus",
                {
                    "charm": "local:any-app-0",
                    "charm-name": "any-app",
                    "charm-rev": 1,
                    "application-status": {"current": "active"},
                    "units": {
                        "app/10": unit("active", machine="0"),
                        "app/9": unit("active", machine="0", subordinates={"client/0": client}),
                    },
                },
            ),
            "client": cast(
                "ApplicationStatus",
                {
                    "charm": "nfs-client",
                    "application-status": {"current": "active"},
                    "version": "2.6.2",
                    "subordinate-to": ["app"],
                },
            ),
            "server": {
                "charm": "nfs-server",
                "application-status": {"current": "maintenance", "message": "Installing"},
                "units": {"server/0": server},
            },
        },
    }


TABLE = """\
Model  Controller  Cloud/Region  Version
try    sandbox     sandbox       3.6.0

App     Version  Status       Scale  Charm       Channel  Rev  Exposed  Message
app              active           2  any-app                1  no
client  2.6.2    active           1  nfs-client             0  no
server           maintenance      1  nfs-server             0  no       Installing

Unit         Workload     Agent      Machine  Public address  Ports             Message
app/9        active       idle       0
  client/0*  active       idle                10.77.0.10
app/10       active       idle       0
server/0*    maintenance  executing  2                        2049/tcp,111/tcp  \
(install) Installing

Machine  State    Address     Inst id    Base       AZ  Message
0        started  10.77.0.10  sandbox-0  debian@12      Running
2        pending"""


def test_table():
    assert table(a_model()) == TABLE


def test_what_an_agent_says_that_runs_no_hook_is_not_shown():
    status = a_model()
    units(status)["app/10"]["status"]["juju-status"]["message"] = "agent is lost"
    assert table(status) == TABLE


def test_a_model_with_nothing_in_it_is_one_line():
    status: Status = {"model": {"name": "try"}, "machines": {}, "applications": {}}
    assert table(status) == "Model  Controller  Cloud/Region  Version\ntry"


def test_a_subordinate_is_where_its_principal_is():
    client = units(a_model())["client/0"]
    assert (client["application"], client["principal"], client["machine"]) == (
        "client",
        "app/9",
        "0",
    )
