"""Which runs a comparison is asked for, and which of their settings: by the ends of dotted keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alol.base import errors
from alol.config import yaml_files
from alol.evaluation import revisions
from alol.evaluation.experiments import Run

NULL = "null"
BASIS = ("reference", "test")  # what runs must share to be compared: a table's heading has the digests


def only(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs that meet all conditions KEY=VALUE[,VALUE...]; a KEY is a setting's or its end, VALUES are as in YAML,
    `null` where it is not set; or `reference` or `test` (the test set with its rewards), VALUE how the digest begins.
    InputError where a condition is none, or no run meets all."""
    chosen = list(runs)
    for condition in conditions:
        name, equals, wanted = condition.partition("=")
        if not equals:
            raise errors.InputError(f"--only {condition}: write KEY=VALUE")
        if name in BASIS:
            chosen = [run for run in chosen if (getattr(run.basis, name) or "").startswith(wanted)]
            continue
        setting = key(runs, name, "--only")
        listed = values(wanted, f"--only {condition}")
        named = {NULL if value is None else revisions.text(value) for value in listed}
        chosen = [run for run in chosen if run.settings.get(setting, NULL) in named]
    if conditions and not chosen:
        raise errors.InputError(f"no run meets {' and '.join(conditions)}")
    return chosen


def values(text: str, option: str) -> list[Any]:
    """The values of VALUE[,VALUE...], as YAML has them; InputError, naming the option, where they are not valid."""
    try:
        return yaml_files.parse(f"values: [{text}]".encode(), Path(option))["values"]
    except errors.InputError:
        raise errors.InputError(f"{option}: its values are not valid YAML") from None


def key(runs: Sequence[Run], name: str, option: str = "--by") -> str:
    """The dotted key of the setting that `name` is, or is the end of; InputError where none is, or several are."""
    known = sorted({key for run in runs for key in run.settings})
    found = [name] if name in known else [key for key in known if key.endswith(f".{name}")]
    if len(found) > 1:
        raise errors.InputError(f"{option} {name} may be {', '.join(found)}; name one of them")
    if not found:
        raise errors.InputError(
            f"{option} {name}: none of these runs has set such a parameter; take the end of its key"
        )
    return found[0]
