"""In which YAML file a parameter stands, for messages: its key alone does not tell a user where to look.

A task's file comes first; what it does not name comes from the files that tasks share, some of it under other keys:
`rewards.safe.low` may stand under `kinds.<the component's kind>.low` in tasks/shared/rewards.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alol.base.errors import InputError, ParameterError
from alol.config import yaml_files
from alol.config.yaml_files import CLEAN, DEFAULTS, KEYS, PARAMS, REWARDS, TASKS


def located(error: ParameterError, task: str, root: Path = Path(), *, advise: bool = False) -> InputError:
    """The error with its parameter's file before it; `advise`: where one task can say otherwise than all do."""
    own = _or_empty(lambda: yaml_files.read(root / TASKS / f"{task}.yaml"))
    file, key = place(error.key, task, own, _or_empty(lambda: yaml_files.read_defaults(root)))
    advice = f" (in {TASKS / task}.yaml, where it is for this task alone)" if advise and file == DEFAULTS else ""
    return InputError(f"{file}: {key} {error.reason}{advice}")


def place(key: str, task: str, own: dict[str, Any], defaults: dict[str, Any]) -> tuple[Path, str]:
    """The file that a parameter stands in, and its key there; a key that stands nowhere belongs into the task's file.

    `own` is the content of the task's file, `defaults` what `yaml_files.read_defaults` gives.
    """
    if key.partition(".")[0] in KEYS:
        return PARAMS, key
    plain = re.sub(r"\[\d+\]", "", key)  # a list stands in one place
    if not _stands(own, plain):
        if _stands(defaults, plain):
            return _shared(plain)
        for other in _elsewhere(plain.split("."), own, defaults):
            if _value(defaults, other) is not None:  # a null is the task's to fill
                return _shared(other)
    section, *rest = plain.split(".")
    if (
        isinstance(defaults.get(section), dict)
        and section not in ("source", "clean", "rewards")
        and not _stands(own, plain)
    ):
        return DEFAULTS, key  # missing there: a task may leave it out
    if section in ("rewards", "test_rewards") and rest[-2:-1] == ["train"] and not _stands(own, plain):
        other = next(_elsewhere([section, *rest], own, defaults))
        if not _stands(defaults, other):
            return REWARDS, other.removeprefix("rewards.")
    return TASKS / f"{task}.yaml", key


def _or_empty(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except InputError:
        return {}


def _shared(key: str) -> tuple[Path, str]:
    """Which of the shared files has a key of their joined table, and the key there."""
    if key.startswith("rewards."):
        return REWARDS, key.removeprefix("rewards.")
    if key.startswith(("clean.formats.", "clean.label_texts.")):
        return CLEAN, key.removeprefix("clean.")
    return DEFAULTS, key


def _elsewhere(parts: list[str], own: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    """The keys of the joined table under which a task's key may stand."""
    match parts:
        case ["source", _, *rest]:
            yield ".".join(["source", *rest])
        case ["clean", "options", *rest]:
            yield ".".join(["clean", "formats", str(_value(own, "clean.format")), *rest])
        case ["clean", "labels", _, *rest]:
            yield ".".join(["clean", "label_texts", *rest])
        case ["rewards" | "test_rewards", _, *scorer, "train", key] if scorer in ([], ["scorer"]):
            yield f"rewards.training.{key}"
        case ["rewards" | "test_rewards", name, *rest]:
            scorer = rest[:1] == ["scorer"]
            kind = _value(own, f"rewards.{name}.scorer.kind" if scorer else f"rewards.{name}.kind")
            for _ in range(len(_value(defaults, "rewards.kinds") or ())):  # a kind may be made of another
                yield ".".join(["rewards", "kinds", str(kind), *rest[scorer:]])
                kind = _value(defaults, f"rewards.kinds.{kind}.kind")


def _value(table: Any, key: str) -> Any:
    """What stands at a dotted key; None for nothing."""
    for part in key.split("."):
        table = table.get(part) if isinstance(table, dict) else None
    return table


def _stands(table: Any, key: str) -> bool:
    """Whether a table has a key, be its value null."""
    parents, _, last = key.rpartition(".")
    parent = _value(table, parents) if parents else table
    return isinstance(parent, dict) and last in parent
