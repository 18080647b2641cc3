"""The parameters of one task and one algorithm: a task's file merged over the defaults, as frozen dataclasses.

Every value stands in a YAML file and nowhere else: the dataclasses have no defaults. Unknown and missing keys, values
of the wrong type and numbers out of their range are refused by file and key. Tables of a registry (options of a source
kind or a format, keys of a reward kind, an algorithm's hyperparameters) are built there, with the same `build`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alol.base.errors import InputError, ParameterError
from alol.base.files import write_json
from alol.config import components, places, yaml_files
from alol.config.build import build, check_keys, convert, merge, table
from alol.config.ranges import Seed
from alol.config.sections import (
    Aggregate,
    Clean,
    Generate,
    Labels,
    Launch,
    Policy,
    Reference,
    Reward,
    Scoring,
    Source,
    Train,
    Value,
)

SETTINGS = "settings.json"
T = TypeVar("T")

SECTIONS: dict[str, type] = {
    "reward": Reward,
    "policy": Policy,
    "reference": Reference,
    "generate": Generate,
    "value": Value,
    "train": Train,
    "aggregate": Aggregate,
}
NAMES = ("source", "clean", "rewards", "test_rewards", *SECTIONS)  # of a task's file, in its order
SHARED = {*NAMES} - {"test_rewards"}  # of the defaults: test_rewards names components of one task


@dataclass(frozen=True)
class Params:
    """Everything one run of one task and one algorithm needs.

    `rewards` maps a component's name to its keys, merged over its kind's defaults; `alol.rewards` builds them.
    `test_rewards` has the same components, as the test split is scored. `hyperparameters` are the algorithm's keys,
    which `alol.algorithms.registry` checks.
    """

    task: str
    algorithm: str
    seed: int
    hyperparameters: dict[str, Any]
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
    scoring: Scoring
    aggregate: Aggregate
    scoring: Scoring

    @property
    def same_test_rewards(self) -> bool:
        """Whether the test split is scored by the rewards of training."""
        return self.test_rewards == self.rewards


def load(task: str | None = None, algorithm: str | None = None, root: Path = Path()) -> Params:
    """The parameters of one task and algorithm, those of params.yaml where None; `root` is the project's folder."""
    raw = yaml_files.read_params(root)
    if task is None:
        task = raw["task"]
        try:
            own = yaml_files.read_task(task, root)
        except InputError as error:
            raise InputError(f"{yaml_files.PARAMS}: task: {error}") from None
    else:
        own = yaml_files.read_task(task, root)
    try:
        return merged(raw, yaml_files.read_defaults(root), own, task, algorithm)
    except ParameterError as error:
        raise places.located(error, task, root) from None


def merged(raw: dict, defaults: dict, own: dict, task: str, algorithm: str | None) -> Params:
    """From the contents of params.yaml, what tasks share (`yaml_files.joined`) and the task's file."""
    algorithm = convert(str, raw["algorithm"] if algorithm is None else algorithm, "algorithm")
    if algorithm not in raw["algorithms"]:
        listed = ", ".join(sorted(map(str, raw["algorithms"])))
        raise ParameterError("algorithm", f"is {algorithm!r}, which has no entry in `algorithms`; known: {listed}")
    _check_sections(defaults)
    known = ", ".join(NAMES)
    if unknown := sorted(set(map(str, own)) - set(NAMES)):
        place = f"it belongs into {yaml_files.PARAMS}" if unknown[0] in yaml_files.KEYS else f"known: {known}"
        raise InputError(f"{yaml_files.TASKS / task}.yaml: the section {unknown[0]} is unknown; {place}")
    if missing := [name for name in NAMES if name not in own]:
        raise InputError(
            f"{yaml_files.TASKS / task}.yaml lacks the sections {', '.join(missing)}; "
            f"write `{missing[0]}: {{}}` where nothing differs"
        )
    sections = {name: build(cls, merge(defaults[name], own[name], name), name) for name, cls in SECTIONS.items()}
    return Params(
        task=task,
        algorithm=algorithm,
        seed=convert(Seed, raw["seed"], "seed"),
        hyperparameters=table(raw["algorithms"][algorithm], f"algorithms.{algorithm}"),
        launch=_launch(raw["launch"]),
        source=_named(Source, defaults["source"], own["source"], "source"),
        rewards=components.rewards(defaults["rewards"], own["rewards"], "rewards"),
        test_rewards=components.test_rewards(defaults["rewards"], own["rewards"], own["test_rewards"], "test_rewards"),
        clean=_clean(defaults["clean"], own["clean"]),
        scoring=build(Scoring, defaults["rewards"]["scoring"], "rewards.scoring"),
        **sections,
    )


def _launch(given: Any) -> Launch:
    if "score_batch" in table(given, "launch"):  # which changed scores that no stage then scored again
        moved = f"`batch_size` of each kind of reward that is a network ({yaml_files.REWARDS}, or a component's own)"
        raise ParameterError("launch.score_batch", f"is now {moved}; set it there and delete it here")
    return build(Launch, given, "launch")


def _check_sections(defaults: dict[str, Any]) -> None:
    """Raises InputError unless what tasks share has its sections, each a table."""
    if lacking := sorted(SHARED - set(defaults)):
        raise InputError(f"{yaml_files.DEFAULTS} lacks the sections {', '.join(lacking)}")
    if unknown := sorted(set(map(str, defaults)) - SHARED):
        known = ", ".join(sorted(SHARED - {"rewards"}))
        raise InputError(f"{yaml_files.DEFAULTS}: the section {unknown[0]} is unknown; known: {known}")
    for name in SHARED:
        if not isinstance(defaults[name], dict):
            raise InputError(f"{yaml_files.DEFAULTS}: {name} is {defaults[name]!r:.80}, but must be a table of keys")


def keep(params: Params, names: Sequence[str], folder: Path) -> None:
    """Writes these of the parameters, filled in, to settings.json in `folder`: what the output was made with.

    In dvc.yaml, later stages that read the same parameters depend on this file instead of naming them again.
    """
    write_json(folder / SETTINGS, plain({name: getattr(params, name) for name in names}))


def plain(value: Any) -> Any:
    """A table of sections as JSON takes it."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def _named(cls: type[T], defaults: Any, own: Any, where: str) -> dict[str, T]:
    """Entries under the user's own names, each merged over the same defaults."""
    places = {name: f"{where}.{name}" for name in components.named(own, where, "name")}
    return {name: build(cls, merge(defaults, own[name], place), place) for name, place in places.items()}


def _clean(defaults: Any, own: Any) -> Clean:
    """Options are merged over their format's; labels are a table of names, each merged over `label_texts`."""
    keys = {"format", "where", "limit", "near_duplicates", "max_line", "quoting", "labels", "label_texts", "formats"}
    check_keys(defaults, keys, keys, "clean")
    defaults = dict(defaults)
    texts, formats = defaults.pop("label_texts"), table(defaults.pop("formats"), "clean.formats")
    merged = merge(defaults, own, "clean")
    name = str(merged["format"])
    options = table(formats.get(name, {}), f"clean.formats.{name}")
    merged["options"] = merge(options, merged.get("options", {}), "clean.options")
    labels = _named(Labels, texts, merged.pop("labels"), "clean.labels")
    plain = build(Clean, {**merged, "labels": {}}, "clean")
    return dataclasses.replace(plain, labels=labels)
