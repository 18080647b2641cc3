"""What can be known to be wrong with the rewards' parameters without loading a model or reading data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.config import paths
from alol.config.params import Params
from alol.rewards.folds import CONTEXT
from alol.rewards.options import (
    PAIRS,
    Classifier,
    Critic,
    Options,
    Preference,
    Python,
    Stored,
    Tfidf,
    Toxichat,
    Trainable,
    Training,
    local,
    parse,
)
from alol.rewards.python import resolve

SMALLEST_VOCABULARY = 300  # 256 bytes, the special tokens and a few merges


def check(params: Params) -> list[str]:
    """One line for each mistake, naming the key; empty when there is none."""
    found = [f"params.yaml: {line}" for line in _weights(params)]
    for name, table in params.rewards.items():
        try:
            built = parse(table, f"rewards.{name}")
            found += [f"params.yaml: {line}" for line in _component(f"rewards.{name}", built, params)]
        except InputError as error:
            found.append(str(error))
    return found


def _weights(params: Params) -> list[str]:
    weights, names = params.reward.weights, params.rewards
    listed = ", ".join(names)
    unknown, missing = [name for name in weights if name not in names], [name for name in names if name not in weights]
    lines = [f"reward.weights names '{name}', which is no component; known: {listed}" for name in unknown]
    lines += [f"reward.weights lacks the component '{name}'; give it a weight (0 to ignore it)" for name in missing]
    for name, weight in weights.items():
        if not math.isfinite(weight):
            lines.append(f"reward.weights.{name} is {weight}; it must be finite")
    if not math.isfinite(params.reward.shift):
        lines.append(f"reward.shift is {params.reward.shift}; it must be finite")
    return lines


def _component(where: str, built: Options, params: Params) -> list[str]:
    """The checks that every kind shares, then the kind's own."""
    lines = []
    for key in ("low", "high"):
        value = getattr(built, key)
        if value is not None and not math.isfinite(value):
            lines.append(f"{where}.{key} is {value}; write null for an open bound")
    if built.low is not None and built.high is not None and not built.low < built.high:
        lines.append(f"{where}.low is {built.low:g}, which is not below {where}.high, {built.high:g}")
    if isinstance(built, Python):
        lines += _python(where, built)
    elif isinstance(built, Trainable):
        lines += _model(where, built, params)
    elif isinstance(built, Toxichat):
        lines += _toxichat(where, built)
    elif isinstance(built, Stored):
        lines += _stored(where, built, params)
    elif isinstance(built, Tfidf):
        lines += _positive(where, {"few": built.few, "divisor": built.divisor})
    return lines


def _positive(where: str, values: dict[str, float]) -> list[str]:
    return [f"{where}.{key} is {value}; it must be above 0" for key, value in values.items() if not value > 0]


def _python(where: str, built: Python) -> list[str]:
    try:
        resolve(built.function, where)
    except InputError as error:
        return [str(error)]
    return []


def _toxichat(where: str, built: Toxichat) -> list[str]:
    lines = [] if built.model else [f"{where}.model is not set; name the folder of ToxiChat's classifier"]
    if built.label not in (0, 1):
        lines.append(f"{where}.label is {built.label}; it must be 0 (safe) or 1 (offensive)")
    if built.max_length < 4:
        lines.append(f"{where}.max_length is {built.max_length}; it must be at least 4")
    return lines + _source(f"{where}.model", built.model)


def _critic(where: str, built: Critic) -> list[str]:
    lines = _positive(f"{where}.names", {"draws": built.names.draws})
    if not built.relations:
        lines.append(f"{where}.relations is empty; give the words of each relation")
    return lines


def _model(where: str, built: Trainable, params: Params) -> list[str]:
    lines = _positive(where, {"max_length": built.max_length})
    if (built.model is None) == (built.train is None):
        given = "neither" if built.model is None else "both"
        lines.append(f"{where} has {given} of `model` (hub id or local path) and `train`; give one")
    lines += _source(f"{where}.model", built.model)
    if isinstance(built, Classifier):
        lines += _inputs(where, built.inputs)
    if built.train is not None:
        lines += _training(f"{where}.train", built.train, isinstance(built, Preference), params.clean.labels)
    if isinstance(built, Critic):
        lines += _critic(where, built)
    if not isinstance(built, Preference) and built.train is not None and built.train.texts in params.clean.labels:
        lines += _classes(where, built, len(params.clean.labels[built.train.texts].classes))
    return lines


def _source(where: str, model: str | None) -> list[str]:
    if model and Path(model).is_relative_to(paths.raw("")):
        return []  # stage download brings it
    path = local(model) if model else None
    return [f"{where}: {path} does not exist"] if path is not None and not path.exists() else []


def _inputs(where: str, inputs: list[str]) -> list[str]:
    if not 1 <= len(inputs) <= 2:
        return [f"{where}.inputs has {len(inputs)} texts; a classifier reads one or two"]
    known = "known: prompt, response, context.<key>"
    bad = [name for name in inputs if name not in ("prompt", "response") and not name.startswith(CONTEXT)]
    return [f"{where}.inputs: unknown text '{name}'; {known}" for name in bad]


def _training(where: str, train: Training, pairs: bool, labels: dict[str, Any]) -> list[str]:
    sizes = ("layers", "width", "heads", "batch_size", "epochs", "lr")
    lines = _positive(where, {key: getattr(train, key) for key in sizes})
    if pairs and train.texts != PAIRS:
        lines.append(f"{where}.texts is '{train.texts}'; a preference model is trained on '{PAIRS}'")
    if not pairs and train.texts not in labels:
        listed = ", ".join(labels) or "none"
        lines.append(f"{where}.texts is '{train.texts}', which is no entry of clean.labels; known: {listed}")
    if train.init == "scratch":
        if train.heads > 0 and train.width % train.heads:
            lines.append(f"{where}.width is {train.width}, which {train.heads} heads do not divide")
        if train.vocabulary < SMALLEST_VOCABULARY:
            lines.append(f"{where}.vocabulary is {train.vocabulary}; it must be at least {SMALLEST_VOCABULARY}")
    lines += _source(f"{where}.init", None if train.init == "scratch" else train.init)
    if train.folds < 2:
        lines.append(f"{where}.folds is {train.folds}; it must be at least 2")
    if not 0 < train.holdout < 1:
        lines.append(f"{where}.holdout is {train.holdout:g}; it must be between 0 and 1")
    return lines


def _classes(where: str, built: Classifier | Critic, classes: int) -> list[str]:
    if built.output == "softmax" and (isinstance(built.label, str) or not 0 <= built.label < classes):
        return [f"{where}.label is {built.label!r}, but the trained classes are 0 to {classes - 1}"]
    if built.output == "sigmoid" and classes != 2:
        return [f"{where}.output is sigmoid, which needs 2 classes, but clean.labels.{built.train.texts} has {classes}"]
    return []


def _stored(where: str, built: Stored, params: Params) -> list[str]:
    lines = _positive(where, {"tolerance": built.tolerance})
    if not built.column:
        lines.append(f"{where}.column is not set; name the key of `context` that holds the score")
    if built.checked < 0:
        lines.append(f"{where}.checked is {built.checked}; it must not be negative")
    if built.scorer is None:
        return [*lines, f"{where}.scorer is not set; generations have no stored score, so name what scores them"]
    if built.scorer.get("kind") == "stored":
        return [*lines, f"{where}.scorer is itself stored; it must be a component that scores any text"]
    return lines + _component(f"{where}.scorer", parse(built.scorer, f"{where}.scorer"), params)
