# SPDX-License-Identifier: Apache-2.0
"""What is read of a packed charm, and what is refused."""

import pytest

from sandbox.rules import charm as charms

CONFIG = """
options:
  size: {type: int, default: -1, description: In GiB.}
  name: {type: string}
  rate: {type: float}
  fast: {type: boolean, default: false}
"""
ACTIONS = """
grow:
  description: Grow a share.
  params:
    to: {type: integer, minimum: 1}
    name: {type: string, default: data}
  required: [to]
  additionalProperties: false
loose: {}
"""
CHARM = charms.parse("name: nfs", CONFIG, ACTIONS)


@pytest.mark.parametrize(
    ("option", "given", "value"),
    [
        ("size", "10", 10),
        ("size", "-1", -1),
        ("size", "ten", None),
        ("size", "1.5", None),
        ("size", "", None),
        ("name", "", ""),
        ("name", "x\ny", "x\ny"),
        ("rate", "1.5", 1.5),
        ("rate", "x", None),
        ("fast", "true", True),
        ("fast", "False", False),
        ("fast", "1", True),
        ("fast", "tRUE", None),
        ("fast", "yes", None),
    ],
)
def test_config_values(option: str, given: str, value: object):
    if value is None:
        with pytest.raises(charms.CharmError, match=f'option "{option}" expected .*, got'):
            CHARM.options[option].convert(given)
    else:
        converted = CHARM.options[option].convert(given)
        assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"to": 5}, None),
        ({}, '"to" is required'),
        ({"to": "5"}, '"to" must be of type integer'),
        ({"to": True}, '"to" must be of type integer'),
        ({"to": 0}, '"to" must be at least 1'),
        ({"to": 5, "name": 1}, '"name" must be of type string'),
        ({"to": 5, "x": 1}, 'additional property "x" is not allowed'),
    ],
)
def test_action_parameters(params: dict[str, object], problem: str | None):
    grow = CHARM.actions["grow"]
    if problem is None:
        assert grow.complete(params, allows_others=True) == {"name": "data", **params}
    else:
        with pytest.raises(charms.CharmError, match=problem):
            grow.complete(params, allows_others=True)


def test_whether_an_action_takes_other_parameters_depends_on_juju_unless_it_says():
    loose = CHARM.actions["loose"]
    assert loose.complete({"x": 1}, allows_others=True) == {"x": 1}
    with pytest.raises(charms.CharmError, match="additional property"):
        loose.complete({"x": 1}, allows_others=False)


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (("{}",), "no name"),
        (("{name: a, subordinate: true}",), 'lacks "requires" relation with container scope'),
        (("{name: a, provides: {juju-x: {interface: x}}}",), "reserved relation name"),
        (("{name: a, provides: {x: {interface: juju-x}}}",), "reserved interface"),
        (("name: a", "options: {x: {type: list}}"), "unknown type"),
        (("name: a", "", "juju-run: {}"), "reserved action name"),
        (("name: a", "", "x: {params: {y: {type: text}}}"), "unknown type 'text'"),
        (("name: a", "", "x: {params: {y: {oneOf: []}}}"), "'oneOf' of 'y' is not supported"),
        (("{name: a, storage: {x: {type: block}}}",), "x: the sandbox has plain file systems"),
        (("{name: a, storage: {x: {type: filesystem, multiple: 1}}}",), "plain file systems"),
    ],
)
def test_a_charm_that_is_refused(texts: tuple[str, ...], problem: str):
    with pytest.raises(charms.CharmError, match=problem):
        charms.parse(*texts)


def test_what_is_no_charm_is_refused(tmp_path):
    with pytest.raises(charms.CharmError, match=r"cannot read charm .*No such file"):
        charms.read(tmp_path / "none.charm")
    (tmp_path / "text.charm").write_text("text")
    with pytest.raises(charms.CharmError, match="is not a packed charm; pack it with charmcraft"):
        charms.read(tmp_path / "text.charm")
