# SPDX-License-Identifier: Apache-2.0

import pytest

from tests.torture.ledger import ANYONE, Client, Ledger, Share


@pytest.fixture
def ledger() -> Ledger:
    """Two clients of the model and one of another; two servers with a storage each."""
    clients = [
        Client("alpha", "alpha", "alpha-app", "data", units={"alpha-app/0": "10.0.0.1"}),
        Client("beta", "beta", "beta-app", "data", units={"beta-app/0": "10.0.0.2"}),
        Client(
            "gamma",
            "remote-1",
            "gamma-app",
            "data",
            "elsewhere",
            units={"gamma-app/0": "10.0.0.3"},
        ),
    ]
    servers = {"server/0": "shares/0", "server/1": "shares/1"}
    return Ledger({it.name: it for it in clients}, servers)


def asked(ledger: Ledger, *names: str) -> list[Share]:
    """Let clients ask for their shares, which are all found on the first server."""
    found = [ledger.integrate(ledger.clients[name]) for name in names]
    shares = [share for share in found if share]
    for share in shares:
        share.storage = "shares/0"
    return shares


def test_a_name_is_one_share_in_a_model_and_another_in_another(ledger: Ledger):
    alphas, betas, gammas = asked(ledger, "alpha", "beta", "gamma")
    assert alphas is betas
    assert alphas is not gammas
    assert (alphas.owner, gammas.owner) == ("alpha", "gamma")
    assert ledger.mounts() == {"alpha-app/0": alphas, "beta-app/0": alphas, "gamma-app/0": gammas}


def test_who_came_later_lets_nobody_in(ledger: Ledger):
    share = asked(ledger, "alpha", "beta")[0]
    ledger.clients["beta"].allowlist = ANYONE
    assert ledger.may_admit(share) == {"10.0.0.1", "10.0.0.2"}
    ledger.clients["alpha"].allowlist = "10.9.0.0/16"
    share.granted.add("10.0.0.9")
    assert ledger.must_admit(share) == {"10.0.0.1", "10.0.0.2", "10.9.0.0/16", "10.0.0.9"}


def test_whose_it_is_when_the_owner_has_left_is_not_known(ledger: Ledger):
    share = asked(ledger, "alpha", "beta")[0]
    ledger.clients["beta"].allowlist = "10.9.0.0/16"
    ledger.leave(ledger.clients["alpha"])
    assert ledger.must_admit(share) == {"10.0.0.2"}
    assert ledger.may_admit(share) == {"10.0.0.2", "10.9.0.0/16"}
    assert ledger.is_size_known(share)
    ledger.clients["beta"].size = 3
    assert not ledger.is_size_known(share)


def test_a_share_that_nobody_asked_for_is_of_who_asks_next(ledger: Ledger):
    share = asked(ledger, "alpha")[0]
    ledger.leave(ledger.clients["alpha"])
    assert asked(ledger, "beta", "alpha") == [share, share]
    assert share.owner == "beta"


def test_a_share_by_hand_stays_the_operators(ledger: Ledger):
    ledger.make("data", 1).is_by_hand = True
    assert [share.owner for share in asked(ledger, "alpha")] == [""]


def test_what_was_acknowledged_is_to_be_where_the_share_is(ledger: Ledger):
    share = asked(ledger, "alpha")[0]
    file = share.file("alpha-app/0")
    ledger.acknowledge(file, 10)
    ledger.acknowledge(file, 7)
    assert ledger.missing({"server/0": {file: 12}, "server/1": {}}) == []
    (fewer,) = ledger.missing({"server/0": {file: 9}, "server/1": {file: 12}})
    assert fewer.endswith("10 acknowledged, 9 records")
    (none,) = ledger.missing({"server/0": {}, "server/1": {}})
    assert none.endswith("10 acknowledged, no such file")


def test_a_purged_share_has_nothing_and_a_forgotten_or_deleted_one_has_all(ledger: Ledger):
    share = asked(ledger, "alpha")[0]
    file = share.file("alpha-app/0")
    ledger.acknowledge(file, 10)
    share.end = "forgotten"
    assert ledger.missing({"server/0": {}})
    share.end = "deleted"
    assert ledger.missing({"server/0": {}})
    assert ledger.lingering({"server/0": {file: 10}}) == []
    ledger.leave(ledger.clients["alpha"])
    ledger.purge(share)
    assert not ledger.missing({"server/0": {}})
    assert ledger.lingering({"server/0": {}, "server/1": {file: 3}}) == [
        f"server/1 has {file}, of a share that was purged"
    ]
    again = ledger.ask(ledger.clients["alpha"])
    assert again
    assert again is not share
    assert not again.acked


def test_an_older_share_of_the_name_may_be_there(ledger: Ledger):
    share = asked(ledger, "alpha")[0]
    share.storage, share.end = "shares/0", "forgotten"
    ledger.servers = {"server/0": "shares/1"}
    again = ledger.ask(ledger.clients["alpha"])
    assert again
    assert again is not share
    ledger.servers = {"server/0": "shares/0"}
    assert ledger.older(again.model, again.name) is share
    again.end = "purged"
    # Before a new one is made, it is the share.
    assert ledger.ask(ledger.clients["alpha"]) is share
    assert not share.end


def deleted(ledger: Ledger) -> Share:
    """A share of alpha's that was deleted; alpha and beta ask for its name since."""
    share = asked(ledger, "alpha")[0]
    ledger.leave(ledger.clients["alpha"])
    share.end = "deleted"
    before = ledger.room()
    for name in "beta", "alpha":
        assert ledger.integrate(ledger.clients[name]) is None
    assert ledger.room() == before - 2  # What they will have if its name is free.
    assert ledger.mounts() == {}
    return share


def test_a_deleted_share_has_its_name_until_it_is_purged(ledger: Ledger):
    share = deleted(ledger)
    ledger.purge(share)
    (made,) = ledger.live
    assert (made.owner, ledger.askers(made)) == (
        "beta",
        [ledger.clients["alpha"], ledger.clients["beta"]],
    )


def test_a_deleted_share_is_restored_to_whose_it_was(ledger: Ledger):
    share = deleted(ledger)
    ledger.restore(share, "data")
    assert ledger.live == [share]
    assert (share.owner, set(ledger.mounts())) == ("alpha", {"alpha-app/0", "beta-app/0"})


def test_a_deleted_share_is_restored_to_who_asks(ledger: Ledger):
    share = deleted(ledger)
    ledger.leave(ledger.clients["alpha"])
    ledger.restore(share, "data")
    assert share.owner == "beta"


def test_a_deleted_share_that_is_restored_under_another_name_frees_its_own(ledger: Ledger):
    share = deleted(ledger)
    ledger.restore(share, "old")
    assert [(it.name, it.owner) for it in ledger.live] == [("old", "alpha"), ("data", "beta")]
    assert ledger.askers(share) == []


def test_a_deleted_share_that_is_nowhere_has_no_name(ledger: Ledger):
    share = deleted(ledger)
    ledger.lose("server/0")
    (made,) = ledger.live
    ledger.attach("server/2", "shares/0")
    assert ledger.kept("", "data") is share
    assert ledger.live == [made]


def test_a_storage_that_nobody_has_takes_its_shares_along(ledger: Ledger):
    share = asked(ledger, "alpha", "beta")[0]
    file = share.file("alpha-app/0")
    ledger.acknowledge(file, 10)
    assert ledger.lose("server/0") == [share]
    assert ledger.detached == ["shares/0"]
    assert ledger.excused == {"alpha-app/0", "beta-app/0"}
    assert ledger.mounts() == {}
    assert ledger.missing({"server/1": {}}) == []
    ledger.attach("server/2", "shares/0")
    assert (ledger.detached, ledger.mounts()["beta-app/0"]) == ([], share)
    assert ledger.missing({"server/1": {}, "server/2": {}})


def test_what_a_client_has_and_asks_for(ledger: Ledger):
    asked(ledger, "alpha", "beta")
    alpha, beta = ledger.clients["alpha"], ledger.clients["beta"]
    assert ledger.is_owner(alpha)
    assert not ledger.is_alone(alpha)
    assert ledger.is_granted_all(beta)
    beta.allowlist = ANYONE
    assert not ledger.is_granted_all(beta)
    alpha.allowlist = ANYONE
    assert ledger.is_granted_all(alpha)
    alpha.size = 2
    assert not ledger.is_granted_all(alpha)
