"""Reads params.yaml: merges a task over the defaults and builds frozen dataclasses, strictly.

Every value stands in params.yaml and nowhere else: the dataclasses have no defaults. Unknown keys, missing keys and
values of the wrong type are refused by name. Tables that belong to a registry (a source kind's or a format's
`options`, a reward kind's keys) are built by that registry with the same `build`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alol.base.errors import InputError, known
from alol.base.files import write_json
from alol.config.build import build, check_keys, convert, merge, table
from alol.config.sections import (
    Aggregate,
    Clean,
    Generate,
    Labels,
    Launch,
    Number,
    Policy,
    Reference,
    Reward,
    Source,
    Train,
    Value,
)

PARAMS = Path("params.yaml")
SETTINGS = "settings.json"
T = TypeVar("T")
SECTIONS: dict[str, type] = {
    "clean": Clean,
    "reward": Reward,
    "policy": Policy,
    "reference": Reference,
    "generate": Generate,
    "value": Value,
    "train": Train,
    "aggregate": Aggregate,
}
OTHER_SECTIONS = ("source", "rewards", "test_rewards")
KEYS = {"task", "algorithm", "seed", "launch", "judge", "algorithms", "defaults", "tasks"}


@dataclass(frozen=True)
class Params:
    """Everything one run of one task and one algorithm needs.

    `rewards` maps a component's name to its keys, merged over its kind's defaults; `alol.rewards` builds them.
    `test_rewards` has the same components, as the test split is scored.
    """

    task: str
    algorithm: str
    seed: int
    hyperparameters: dict[str, Number]
    launch: Launch
    source: dict[str, Source]
    rewards: dict[str, dict[str, Any]]
    test_rewards: dict[str, dict[str, Any]]
    clean: Clean
    reward: Reward
    policy: Policy
    reference: Reference
    generate: Generate
    value: Value
    train: Train
    aggregate: Aggregate


def read(path: Path = PARAMS) -> dict[str, Any]:
    """The file as a plain dict. YAML 1.2, as DVC reads it; raises InputError with the line of a syntax error."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.exists():
        raise InputError(f"{path} is missing; run from the project's folder")
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must be a table of keys")
    check_keys(raw, KEYS, KEYS, str(path))
    for name in ("algorithms", "defaults", "tasks"):
        table(raw[name], name)
    return raw


def load(task: str | None = None, algorithm: str | None = None, path: Path = PARAMS) -> Params:
    """The parameters of one task and algorithm; those named in the file when not given."""
    raw = read(path)
    task, algorithm = task or raw["task"], algorithm or raw["algorithm"]
    if task not in raw["tasks"]:
        raise known("task", task, raw["tasks"])
    if algorithm not in raw["algorithms"]:
        raise known("algorithm", algorithm, raw["algorithms"])
    defaults, own, where = raw["defaults"], raw["tasks"][task], f"tasks.{task}"
    names = [*SECTIONS, *OTHER_SECTIONS]
    shared = set(names) - {"test_rewards"}  # names components of one task, which share their kinds' defaults already
    check_keys(defaults, shared, shared, "defaults")
    check_keys(defaults["rewards"], {"kinds", "training"}, {"kinds", "training"}, "defaults.rewards")
    table(defaults["rewards"]["kinds"], "defaults.rewards.kinds")
    missing = [name for name in names if name not in table(own, where)]
    if missing:
        raise InputError(
            f"{path}: {where} lacks the sections {missing}; write `{missing[0]}: {{}}` where nothing differs"
        )
    check_keys(own, set(names), set(), where)
    sections = {
        name: build(cls, merge(defaults[name], own[name], f"{where}.{name}"), f"{where}.{name}")
        for name, cls in SECTIONS.items()
        if name != "clean"
    }
    return Params(
        task=task,
        algorithm=algorithm,
        seed=convert(int, raw["seed"], "seed"),
        hyperparameters=convert(dict[str, Number], raw["algorithms"][algorithm], f"algorithms.{algorithm}"),
        launch=build(Launch, raw["launch"], "launch"),
        source=_named(Source, defaults["source"], own["source"], f"{where}.source"),
        rewards=_rewards(defaults["rewards"], own["rewards"], f"{where}.rewards"),
        test_rewards=_test_rewards(defaults["rewards"], own["rewards"], own["test_rewards"], f"{where}.test_rewards"),
        clean=_clean(defaults["clean"], own["clean"], f"{where}.clean"),
        **sections,
    )


def keep(params: Params, names: Sequence[str], folder: Path) -> None:
    """Writes these of the parameters, filled in, to settings.json in `folder`: what the output was made with.

    In dvc.yaml, later stages that read the same parameters depend on this file instead of naming them again.
    """
    values = {name: getattr(params, name) for name in names}
    plain = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()
    }
    write_json(folder / SETTINGS, plain)


def _named(cls: type[T], defaults: dict, own: dict, where: str) -> dict[str, T]:
    places = {name: f"{where}.{name}" for name in table(own, where)}
    return {name: build(cls, merge(defaults, own[name], place), place) for name, place in places.items()}


def _clean(defaults: dict, own: dict, where: str) -> Clean:
    """Options are merged over their format's; labels are a table of names, each merged over `label_texts`."""
    keys = {"format", "limit", "labels", "label_texts", "formats"}
    check_keys(defaults, keys, keys, "defaults.clean")
    defaults = dict(defaults)
    texts, formats = defaults.pop("label_texts"), table(defaults.pop("formats"), "defaults.clean.formats")
    merged = merge(defaults, own, where)
    name = str(merged["format"])
    options = table(formats.get(name, {}), f"defaults.clean.formats.{name}")
    merged["options"] = merge(options, merged.get("options", {}), f"{where}.options")
    labels = _named(Labels, texts, merged.pop("labels"), f"{where}.labels")
    plain = build(Clean, {**merged, "labels": {}}, where)
    return dataclasses.replace(plain, labels=labels)


def _rewards(defaults: dict, own: dict, where: str) -> dict[str, dict[str, Any]]:
    """Each component's keys over its kind's, and its `train:` (and a nested `scorer`) over the training defaults."""
    if not isinstance(own, dict) or not own:
        raise InputError(f"params.yaml: {where} must name at least one reward component")
    return {name: _component(defaults, given, f"{where}.{name}") for name, given in own.items()}


def _test_rewards(defaults: dict, own: dict, changes: Any, where: str) -> dict[str, dict[str, Any]]:
    """The components of `own`, with the `changes` of those that score the test split otherwise."""
    for name in table(changes, where):
        if name not in own:
            raise known(f"reward component in {where}:", name, own)
    merged = {name: merge(own[name], changes.get(name, {}), f"{where}.{name}") for name in own}
    return _rewards(defaults, merged, where)


def _component(defaults: dict, own: Any, where: str) -> dict[str, Any]:
    if not isinstance(own, dict) or "kind" not in own:
        raise InputError(f"params.yaml: {where} needs a `kind`; known: {', '.join(sorted(defaults['kinds']))}")
    kind = _kind(defaults["kinds"], own["kind"], where)
    merged = merge(kind, {**own, "kind": kind["kind"]}, where)
    if merged.get("train") is not None:
        merged["train"] = merge(defaults["training"], merged["train"], f"{where}.train")
    if merged.get("scorer") is not None:
        merged["scorer"] = _component(defaults, merged["scorer"], f"{where}.scorer")
    return merged


def _kind(kinds: dict, name: Any, where: str) -> dict[str, Any]:
    """The keys of a kind, and those of the kind that it is made of, if it has a `kind` of its own."""
    if not isinstance(name, str) or name not in kinds:
        raise known(f"reward kind at {where}:", name, kinds)
    own = table(kinds[name], f"defaults.rewards.kinds.{name}")
    if "kind" not in own:
        return {**own, "kind": name}
    others = {key: kind for key, kind in kinds.items() if key != name}  # it cannot be made of itself
    base = _kind(others, own["kind"], f"defaults.rewards.kinds.{name}")
    return merge(base, {**own, "kind": base["kind"]}, where)
