"""The reference of all parameters: what the YAML files say of each key, and what its type allows.

A key's description is the comment on its line, or the lines of comments right above it; its range is that of its field
in the dataclasses, which tests hold to the comment.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from alol.algorithms import registry
from alol.config import build, params, sections, yaml_files
from alol.config.ranges import Length, NotEmpty, Range, Seed
from alol.data import formats
from alol.rewards.options import KINDS, Training

FILES = (yaml_files.PARAMS, *yaml_files.SHARED)
PLAIN = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a table",
    type(None): "null",
}
LISTS = ("formats", "kinds")  # sections whose tables are sections of their own
Hints = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A key as the reference shows it; a table of keys has neither default nor range."""

    key: str  # dotted
    default: str
    may_be: str
    description: str
    table: bool


def tables() -> dict[tuple[str, str], Hints]:
    """(file, dotted key of a table) -> the types of its keys."""
    parameters, shared = str(yaml_files.PARAMS), str(yaml_files.DEFAULTS)
    clean, rewards = str(yaml_files.CLEAN), str(yaml_files.REWARDS)
    found: dict[tuple[str, str], Hints] = {
        (parameters, ""): {"task": str, "algorithm": str, "seed": Seed},
        (parameters, "launch"): build.fields(sections.Launch),
        (parameters, "judge"): build.fields(sections.Judge),
        (clean, "label_texts"): build.fields(sections.Labels),
        (rewards, "scoring"): build.fields(sections.Scoring),
        (rewards, "training"): build.fields(Training),
    }
    for name in registry.NAMES:
        found[parameters, f"algorithms.{name}"] = registry.hyperparameters(name)
    for name, cls in {**params.SECTIONS, "source": sections.Source, "clean": sections.Clean}.items():
        found[shared, name] = build.fields(cls)
    for name in formats.names():
        found[clean, f"formats.{name}"] = build.fields(formats.get(name).options)
    bounds = {"low": sections.Number | None, "high": sections.Number | None}
    for name, (options, _) in KINDS.items():
        found[rewards, f"kinds.{name}"] = {**bounds, **build.fields(options)}
    return found


def may_be(hint: Any) -> str:
    """What a field of this type takes, in words: `above 0 or null`, `fp32 | bf16`, `a list of 2 numbers ...`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        kind, *constraints = arguments
        said = [str(one) for one in constraints if isinstance(one, Range)]
        if kind is int and said:
            return f"an integer, {said[0]}"
        if said:
            return said[0]
        if any(isinstance(one, NotEmpty) for one in constraints):
            return f"{may_be(kind)}, not empty"
        lengths = [one.count for one in constraints if isinstance(one, Length)]
        return f"{may_be(kind)}, {lengths[0]} of them" if lengths else may_be(kind)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(may_be(argument) for argument in arguments)
    if origin is list:
        return f"a list, of each: {may_be(arguments[0])}" if arguments and arguments[0] is not Any else "a list"
    if origin is dict:
        return "a table" if arguments[1] is Any else f"a table, of each value: {may_be(arguments[1])}"
    return "a table" if dataclasses.is_dataclass(hint) else PLAIN.get(hint, "any value")


def hint_of(file: str, key: str, found: dict[tuple[str, str], Hints], kinds: dict[str, Any]) -> Any:
    """The type of a key, or None where no dataclass has it: the table that it stands in says."""
    parts = key.split(".")
    hints: Any
    for end in range(len(parts) - 1, -1, -1):
        where = ".".join(parts[:end])
        hints = found.get((file, where))
        if hints is None and end == 2:  # perhaps a kind that is made of another
            hints = found.get((file, of_base(f"{where}.", kinds).removesuffix(".")))
            hints = hints and {"kind": str, **hints}
        if hints is None:
            continue
        hint: Any = None
        for part in parts[end:]:
            if typing.get_origin(hint) is dict:  # the user's own keys
                hint = typing.get_args(hint)[1]
                continue
            if hint is not None:
                hints = build.fields(hint) if dataclasses.is_dataclass(hint) else {}
            hint = hints.get(part)
            if hint is None:
                return None
        return hint
    return None


def rows(path: Path, root: Path = Path()) -> list[Row]:
    """Every key of a file, in its order; tables come before their keys."""
    from ruamel.yaml import YAML

    text = (root / path).read_text(encoding="utf-8")
    content = YAML().load(text)
    lines, found, kinds = text.splitlines(), tables(), content.get("kinds", {})
    described: dict[str, str] = {}

    def walk(table: Any, where: str) -> Iterator[Row]:
        for name, value in table.items():
            key, line = f"{where}{name}", table.lc.data[name][0]
            described[key] = comment(lines, line, name) or described.get(of_base(key, kinds), "")
            if isinstance(value, dict) and value:
                yield Row(key, "", "", described[key], True)
                yield from walk(value, f"{key}.")
            else:
                hint = hint_of(str(path), key, found, kinds)
                allowed = "a table" if isinstance(value, dict) and hint is None else may_be(hint)
                said = described[key].removesuffix(f"; {allowed.removeprefix('an integer, ').removesuffix(' or null')}")
                yield Row(key, shown(value), allowed, said, False)

    return list(walk(content, ""))


def of_base(key: str, kinds: dict[str, Any]) -> str:
    """The key of the kind that a kind is made of, for one of its keys; else the key itself."""
    section, _, rest = key.partition(".")
    name, _, inner = rest.partition(".")
    base = kinds[name].get("kind") if section == "kinds" and name in kinds else None
    return f"kinds.{base}.{inner}" if base else key


def comment(lines: list[str], line: int, name: str) -> str:
    """What is said of the key on a line: the comment at its end, or the comments right above it."""
    on_it = lines[line].partition(" # ")[2].strip()
    if on_it:
        return on_it
    above: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        above.insert(0, lines[line].lstrip().lstrip("#").strip())
    return " ".join(above).removeprefix(f"{name}: ")


def shown(value: Any) -> str:
    """A default as YAML would have it on one line."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value != value.strip() or not value or "\n" in value else value
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, float) else repr(float(value))


def page(root: Path = Path()) -> str:
    """The page in Markdown: a heading for each file and section, a table of its keys."""
    parts = [
        "# Parameters",
        "Every key of the parameter files, its default, what it may be and what it does. This page is made from the "
        "comments in the files and the types that they are checked against; "
        "[how to set parameters](../how-to/parameters.md) says how to change one.",
    ]
    for path in FILES:
        parts.append(f"## {path}")
        section: list[Row] = []
        for row in rows(path, root):
            section_name, *inner = row.key.split(".")
            if row.table and len(inner) == (1 if section_name in LISTS and inner else 0):
                parts += _table(section)
                section = []
                parts += [f"### {row.key}", *([_sentence(row.description)] if row.description else [])]
            else:
                section.append(row)
        parts += _table(section)
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    text = _cell(text).replace("\\|", "|")
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) else ".")


def _table(section: list[Row]) -> list[str]:
    if not section:
        return []
    lines = ["| key | default | may be | what it is |", "|---|---|---|---|"]
    for row in section:
        default = f"`{_code(row.default)}`" if not row.table else ""
        lines.append(f"| `{row.key}` | {default} | {_cell(row.may_be)} | {_cell(row.description)} |")
    return ["\n".join(lines)]


def _code(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")


def _cell(text: str) -> str:
    """Text for a cell of a table: outside of `code`, nothing is markup."""
    pieces = text.split("`")
    plain = [
        piece if i % 2 else piece.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("[", "\\[")
        for i, piece in enumerate(pieces)
    ]
    return "`".join(plain).replace("|", "\\|")
