"""Tables of the YAML files to frozen dataclasses, strictly: unknown, missing and wrong keys are refused by name.

`where` is the dotted key of what is built (`train.optimizer`), as in `ParameterError.key`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from alol.base.errors import ParameterError
from alol.config.ranges import LARGEST

T = TypeVar("T")
NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", list: "a list", dict: "a table"}


def table(value: Any, where: str) -> dict[str, Any]:
    """`value`, which must be a table whose keys are texts."""
    if not isinstance(value, dict):
        raise ParameterError(where, f"is {value!r:.80}, but must be a table of keys")
    for key in value:
        if not isinstance(key, str):
            raise ParameterError(where, f"has the key {key!r}, which is no text in YAML; write it in quotes")
    return value


def build(cls: type[T], given: Any, where: str) -> T:
    """A dataclass from a table, every value checked against its field's type and constraints."""
    hints = fields(cls)
    check_keys(given, set(hints), set(hints), where)
    return cls(**values(hints, given, where))


def fields(cls: type) -> dict[str, Any]:
    """A dataclass's fields and their types, with the constraints that `Annotated` adds."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def values(hints: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of the keys that `given` has, as their types."""
    return {name: convert(hint, given[name], f"{where}.{name}") for name, hint in hints.items() if name in given}


def merge(defaults: Any, own: Any, where: str) -> dict[str, Any]:
    """`own` over `defaults`, tables within them likewise."""
    merged = dict(table(defaults, where))
    for key, value in table(own, where).items():
        nested = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = merge(merged[key], value, f"{where}.{key}") if nested else value
    return merged


def check_keys(given: Any, allowed: set[str], required: set[str], where: str) -> None:
    """Refuses keys that are not `allowed`, and the lack of `required` ones; `where` is "" for a whole file."""
    found = set(table(given, where))
    prefix = f"{where}." if where else ""
    if unknown := sorted(found - allowed):
        listed = ", ".join(sorted(allowed)) or "none"
        raise ParameterError(f"{prefix}{unknown[0]}", f"is unknown; known keys of {where or 'the file'}: {listed}")
    if missing := sorted(required - found):
        raise ParameterError(f"{prefix}{missing[0]}", "is missing")


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type; an integer passes for a float, nothing else is coerced.

    Numbers are finite and integers at most 2^31 - 1; `Annotated` types add constraints (`alol.config.ranges`).
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        found = convert(args[0], value, where)
        for constraint in args[1:]:
            if problem := constraint.problem(found):
                raise ParameterError(where, f"is {value!r:.80}, but {problem}")
        return found
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        if isinstance(value, str | int) and value in args:
            return value
        raise ParameterError(where, f"is {value!r:.80}; known: {', '.join(map(str, args))}")
    if origin in (types.UnionType, typing.Union):
        return _one_of(args, value, where)
    if origin is list and isinstance(value, list):
        return [convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: convert(args[1], item, f"{where}.{key}") for key, item in table(value, where).items()}
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return _number(hint, value, where)
    if hint in (bool, str) and type(value) is hint:
        return value
    raise ParameterError(where, f"is {value!r:.80}, but must be {NAMES.get(origin or hint, hint)}")


def _one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """As the type that the value is of, or as the first one, which then says what is wrong with it."""
    if value is None and type(None) in hints:
        return None
    return convert(next((hint for hint in hints if isinstance(value, _plain(hint))), hints[0]), value, where)


def _plain(hint: Any) -> type:
    """A type without its constraints and without the types of its items."""
    if typing.get_origin(hint) is Annotated:
        return _plain(typing.get_args(hint)[0])
    return typing.get_origin(hint) or hint


def _number(hint: type, value: float, where: str) -> float:
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ParameterError(where, f"is an integer of {len(str(abs(value)))} digits, but must be at most {LARGEST:,}")
    if not math.isfinite(value):
        raise ParameterError(where, f"is {value}, but must be a finite number")
    if hint is int and not isinstance(value, int):
        raise ParameterError(where, f"is {value!r}, but must be an integer")
    return hint(value)
