"""Every number that the YAML files hold, with the text of its range: what `alol.config.ranges` says of its field."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

from alol.config import build
from alol.config.ranges import Range
from docs.generators.parameters import tables

Place = tuple[str, str]  # file, dotted key


def numbers(hint: Any) -> Iterator[Any]:
    """The number types within a type, with their constraints: `Annotated[int, ...]`, or a bare `int` or `float`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float) or (origin is Annotated and arguments[0] in (int, float)):
        yield hint
    elif origin is Annotated:
        yield from numbers(arguments[0])
    elif origin in (types.UnionType, typing.Union, list):
        for argument in arguments:
            yield from numbers(argument)
    elif origin is dict:
        yield from numbers(arguments[1])


def leaves(hints: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, type) of what holds a number, in tables within tables too."""
    for name, hint in hints.items():
        key = f"{where}.{name}".removeprefix(".")
        if dataclasses.is_dataclass(hint):
            yield from leaves(build.fields(hint), key)
            continue
        for number in numbers(hint):
            yield key, number


def texts() -> dict[Place, str]:
    """Where a number stands -> the text of its range; raises where a number has none."""
    found: dict[Place, str] = {}
    for (file, where), hints in tables().items():
        for key, number in leaves(hints, where):
            constraint = next((one for one in typing.get_args(number) if isinstance(one, Range)), None)
            assert constraint is not None, f"{file}: {key} has no range"
            found[(file, key)] = str(constraint)
    return found
