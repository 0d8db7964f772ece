"""Typed values from JSON: dataclasses, tuples, mappings and plain values, with errors that name what is wrong."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import repeat
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read_fields(kind: type[T], value: object) -> T:
    """A JSON object as a dataclass; fields that have a default may be missing.

    Raises:
        TypeError: a field is missing, unknown or of another type.
        ValueError, OverflowError: a number that cannot be one, and what the class itself refuses.

    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.40} is no object")
    if unknown := value.keys() - field_names(kind):
        raise TypeError(f"unexpected {', '.join(sorted(unknown))}")
    kinds = get_type_hints(kind)
    return kind(**{name: _read(kinds[name], entry, name) for name, entry in value.items()})


def field_names(kind: type[Any]) -> set[str]:
    return {each.name for each in fields(kind)}


def _read(kind: Any, value: Any, name: str) -> Any:
    """A field's value as its type; a dataclass that has ``from_json`` reads itself."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is UnionType:
        return None if value is None else _read(inner[0], value, name)
    if isinstance(origin, type) and is_dataclass(origin):
        return origin.from_json(value) if hasattr(origin, "from_json") else read_fields(origin, value)
    if origin is tuple and isinstance(value, list | tuple):
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise TypeError(f"{name} needs {len(inner)} values, not {value!r:.40}")
        kinds = repeat(inner[0]) if inner[-1] is Ellipsis else inner
        return tuple(_read(each, entry, name) for each, entry in zip(kinds, value, strict=False))
    accepted = int | float if origin is float else origin
    if not isinstance(value, accepted) or (isinstance(value, bool) and origin is not bool):
        raise TypeError(f"{name} is {value!r:.40}, which is no {origin.__name__}")
    return float(value) if origin is float else value
