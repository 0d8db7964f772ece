"""JSON is read as the types that fields have, and an error names what is wrong."""

from dataclasses import dataclass

import pytest

from lccl.json_values import read_fields


@dataclass
class Inner:
    share: float


@dataclass
class Outer:
    count: int
    pair: tuple[float, float]
    parts: tuple[Inner, ...]
    note: str | None = None


WHOLE = {"count": 2, "pair": [1, 2.5], "parts": [{"share": 0.5}]}


def test_an_object_is_read_as_its_dataclass():
    assert read_fields(Outer, WHOLE) == Outer(2, (1.0, 2.5), (Inner(0.5),))
    assert read_fields(Outer, WHOLE | {"note": "x"}).note == "x"
    assert read_fields(Outer, WHOLE | {"note": None}).note is None
    assert isinstance(read_fields(Outer, WHOLE).pair[0], float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "count is True, which is no int"),
        ({"count": 2.0}, "count is 2.0, which is no int"),
        ({"count": None}, "count is None, which is no int"),
        ({"pair": [1, 2, 3]}, "pair needs 2 values"),
        ({"pair": "12"}, "pair is '12', which is no tuple"),
        ({"parts": [3]}, "3 is no object"),
        ({"parts": [{}]}, "share"),
        ({"note": 3}, "note is 3, which is no str"),
        ({"surprise": 1}, "unexpected surprise"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(TypeError, match=message):
        read_fields(Outer, WHOLE | change)


def test_what_is_no_object_is_refused():
    with pytest.raises(TypeError, match="no object"):
        read_fields(Inner, [0.5])
