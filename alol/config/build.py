"""Tables of params.yaml to frozen dataclasses, strictly: unknown, missing and wrong keys are refused by name."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

from alol.base.errors import InputError

T = TypeVar("T")


def table(value: Any, where: str) -> dict[Any, Any]:
    """`value`, which must be a table."""
    if not isinstance(value, dict):
        raise InputError(f"params.yaml: {where} must be a table of keys, not {value!r}")
    return value


def build(cls: type[T], given: Any, where: str) -> T:
    """A dataclass from a table; `where` names the table in messages (`tasks.demo.train`)."""
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    check_keys(given, fields, fields, where)
    hints = typing.get_type_hints(cls)
    return cls(**{name: convert(hints[name], given[name], f"{where}.{name}") for name in fields})


def merge(defaults: Any, own: Any, where: str) -> dict[str, Any]:
    """`own` over `defaults`, tables within them likewise; `where` names `own` in messages."""
    merged = dict(table(defaults, f"what {where} is merged over"))
    for key, value in table(own, where).items():
        nested = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = merge(merged[key], value, f"{where}.{key}") if nested else value
    return merged


def check_keys(given: Any, allowed: set[str], required: set[str], where: str) -> None:
    found = set(map(str, table(given, where)))
    if unknown := sorted(found - allowed):
        raise InputError(f"params.yaml: unknown key '{unknown[0]}' in {where}; known: {', '.join(sorted(allowed))}")
    if missing := sorted(required - found):
        raise InputError(f"params.yaml: missing key '{missing[0]}' in {where}")


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type; an integer passes for a float, nothing else is coerced."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        if value in args:
            return value
        raise InputError(f"params.yaml: {where} is {value!r}; known: {', '.join(map(str, args))}")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        errors = []
        for arg in args:
            try:
                return convert(arg, value, where)
            except InputError as error:
                errors.append(error)
        raise errors[0]
    if origin is list and isinstance(value, list):
        return [convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(key): convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, bool, str) and type(value) is hint:
        return value
    name = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}.get(hint, f"a {origin or hint}")
    raise InputError(f"params.yaml: {where} is {value!r}, but must be {name}")
