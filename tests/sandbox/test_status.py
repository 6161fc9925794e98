# SPDX-License-Identifier: Apache-2.0
"""The table that people read."""

import pytest
from test_hooks import CLIENT, PLAIN

from sandbox.rules import operations
from sandbox.rules.full_status import full_status
from sandbox.rules.model import Model, Status, Unit
from sandbox.rules.status import table


@pytest.fixture
def model() -> Model:
    """Give a model with app/9 and app/10 on one machine, and a server that is being installed."""
    made = Model("try", "4.0", next_unit={"app": 9})
    operations.deploy(made, PLAIN, "app")
    operations.add_unit(made, "app", 1, "0")
    operations.deploy(made, CLIENT, "client")
    operations.deploy(made, PLAIN, "server")
    operations.settle(made)
    made.machines["0"].status = Status("started", "Running")
    made.applications["client"].workload_version = "2.6.2"
    made.units["client/0"] = Unit("client/0", "client", "0", "app/9")
    for name in ("app/9", "app/10", "client/0"):
        made.units[name].status = Status("active")
        made.units[name].agent_status = Status("idle")
    server = made.units["server/0"]
    server.status = Status("maintenance", "Installing")
    server.agent_status = Status("executing", "running install hook")
    server.ports = {"2049/tcp", "111/tcp"}
    return made


TABLE = """\
Model  Controller  Cloud/Region  Version
try    sandbox     sandbox       4.0.15

App     Version  Status       Scale  Charm   Channel  Rev  Exposed  Message
app              active           2  plain              0  no
client  2.6.2    active           1  client             0  no
server           maintenance      1  plain              0  no       Installing

Unit        Workload     Agent      Machine  Public address  Ports             Message
app/9*      active       idle       0        10.77.0.10
  client/0  active       idle                10.77.0.10
app/10      active       idle       0        10.77.0.10
server/0*   maintenance  executing  1        10.77.0.11      111/tcp,2049/tcp  \
(install) Installing

Machine  State    Address     Inst id    Base  AZ  Message
0        started  10.77.0.10  sandbox-0            Running
1        pending  10.77.0.11  sandbox-1"""


def test_table(model: Model):
    status = full_status(model, "4.0.15")
    status["controller"]["timestamp"] = ""
    assert table(status).replace("  Timestamp", "") == TABLE


def test_a_model_with_nothing_in_it_is_one_line():
    titles, *lines = table(full_status(Model("try"), "3.6.28")).splitlines()
    assert titles.split()[-2:] == ["SLA", "Timestamp"]
    assert len(lines) == 1
