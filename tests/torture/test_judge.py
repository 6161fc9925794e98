# SPDX-License-Identifier: Apache-2.0

from collections.abc import Collection

import pytest

from tests.torture.judge import not_in


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (["10.0.0.1"], ["10.0.0.1"], []),
        (["10.0.0.1"], [], ["10.0.0.1/32"]),
        (["10.0.0.14"], ["0.0.0.0/0"], []),
        # A server may write two neighbours as one network, and the other way round.
        (["10.0.0.16/31"], ["10.0.0.16", "10.0.0.17"], []),
        (["10.0.0.16", "10.0.0.17"], ["10.0.0.16/31"], []),
        (["10.0.0.16/31"], ["10.0.0.16"], ["10.0.0.16/31"]),
    ],
)
def test_not_in(inner: Collection[str], outer: Collection[str], expected: list[str]):
    assert not_in(inner, outer) == expected
