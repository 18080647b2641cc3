"""The YAML files of a project: params.yaml, one file per task, and what tasks share.

A key that a task does not name comes from what tasks share: tasks/defaults.yaml, and in tasks/shared/ the options of
formats and the kinds of rewards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alol.base.errors import InputError, ParameterError, known
from alol.config import ranges
from alol.config.build import check_keys, table

PARAMS = Path("params.yaml")
TASKS = Path("tasks")
PRESETS = TASKS / "presets"  # task files to copy, which are no tasks themselves
DEFAULTS = TASKS / "defaults.yaml"
CLEAN = TASKS / "shared" / "clean.yaml"
REWARDS = TASKS / "shared" / "rewards.yaml"
SHARED = (DEFAULTS, CLEAN, REWARDS)
KEYS = {"task", "algorithm", "seed", "launch", "judge", "algorithms"}  # of params.yaml
OLD_KEYS = {"defaults", "tasks"}  # of params.yaml, when it held everything


def read(path: Path) -> dict[str, Any]:
    """A file as a plain dict; raises InputError where it is missing or cannot be read, and as `parse`."""
    if not path.exists():
        raise InputError(f"{path} is missing; run from the project's folder")
    try:
        return parse(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def parse(content: bytes, path: Path) -> dict[str, Any]:
    """The content of a file as a plain dict. YAML 1.2, as DVC reads it; raises InputError with a mistake's line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        raw = YAML(typ="safe").load(content.decode("utf-8"))
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2024-99-99
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error) or "nested too deep"
        raise InputError(f"{path}{line}: not valid YAML: {' '.join(problem.split())}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} must be a table of keys, but is {'empty' if raw is None else repr(raw)[:80]}")
    return raw


def read_params(root: Path = Path()) -> dict[str, Any]:
    """params.yaml, its top-level keys checked."""
    return checked(read(root / PARAMS))


def checked(raw: dict[str, Any]) -> dict[str, Any]:
    """The content of params.yaml, if its top-level keys are those of today; else an InputError says what to do."""
    if old := sorted(OLD_KEYS & set(raw)):
        raise InputError(
            f"{PARAMS} is of an older layout: move what is under `defaults` to {DEFAULTS} and each entry of `tasks` to "
            f"a file of its own, {TASKS}/<task>.yaml, then delete {' and '.join(f'`{key}`' for key in old)}"
        )
    try:
        check_keys(raw, KEYS, KEYS, "")
        table(raw["algorithms"], "algorithms")
    except ParameterError as error:
        raise InputError(f"{PARAMS}: {error}") from None
    return raw


def read_defaults(root: Path = Path()) -> dict[str, Any]:
    """What tasks share, as `joined` puts it together."""
    return joined(*(read(root / path) for path in SHARED))


def joined(defaults: dict[str, Any], clean: dict[str, Any], rewards: dict[str, Any]) -> dict[str, Any]:
    """One table of the contents of the SHARED files; raises InputError where one has other keys."""
    of_rewards = {"kinds", "scoring", "training"}
    for path, given, keys in ((CLEAN, clean, {"formats", "label_texts"}), (REWARDS, rewards, of_rewards)):
        try:
            check_keys(given, keys, keys, "")
            for key in keys:
                table(given[key], key)
        except ParameterError as error:
            raise InputError(f"{path}: {error}") from None
    own = defaults.get("clean")
    for key, path in (("rewards", REWARDS), ("clean.formats", CLEAN), ("clean.label_texts", CLEAN)):
        section, _, inner = key.partition(".")
        if inner in own if inner and isinstance(own, dict) else section in defaults and not inner:
            raise InputError(f"{DEFAULTS}: {key} belongs into {path}")
    return {**defaults, "rewards": rewards, "clean": {**own, **clean} if isinstance(own, dict) else own}


def read_task(name: Any, root: Path = Path()) -> dict[str, Any]:
    """tasks/<name>.yaml; raises InputError for a name that cannot be a task's, and for one that has no file."""
    if problem := ranges.check_name(name, "task name"):
        raise InputError(problem)
    if name == DEFAULTS.stem:
        raise InputError(f"{DEFAULTS} holds what tasks share and is no task; name another file of {TASKS}/")
    path = root / TASKS / f"{name}.yaml"
    if not path.exists():
        raise known("task", name, task_names(root) or [f"none; {TASKS}/ has no file"])
    return read(path)


def task_names(root: Path = Path()) -> list[str]:
    """Every task that has a file, sorted."""
    return [name for name in _names(root / TASKS) if name != DEFAULTS.stem]


def preset_names(root: Path = Path()) -> list[str]:
    """Every file that a task can begin as, sorted."""
    return _names(root / PRESETS)


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml") if not path.name.startswith("."))
