"""The keys of each reward kind in params.yaml, as frozen dataclasses, and the class that scores for each kind.

Light on purpose: checking parameters must not import a deep-learning library, so the classes are named, not imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from alol.base.errors import known
from alol.config.build import build

PAIRS = "pairs"  # of Training.texts: the task's own response pairs
FULL = "full"  # folder of the model that is trained on every training row


@dataclass(frozen=True)
class Training:
    """How a component is trained; the numbers' meanings stand in params.yaml."""

    texts: str
    init: str
    init_revision: str | None
    pooling: Literal["last", "mean"]
    layers: int
    width: int
    heads: int
    vocabulary: int
    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    dropout: float
    folds: int
    holdout: float
    seed: int


@dataclass(frozen=True)
class Python:
    kind: str
    function: str | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Classifier:
    kind: str
    model: str | None
    revision: str | None
    inputs: list[str]
    output: Literal["softmax", "sigmoid", "logit"]
    label: int | str
    max_length: int
    low: float | None
    high: float | None
    train: Training | None


@dataclass(frozen=True)
class Names:
    """First names for the placeholders of a triple."""

    placeholders: list[str]
    draws: int
    seed: int


@dataclass(frozen=True)
class Critic:
    """A classifier with one logit; its two texts are made of context.head, context.relation and the response."""

    kind: str
    model: str | None
    revision: str | None
    relations: dict[str, str]
    names: Names
    max_length: int
    low: float | None
    high: float | None
    train: Training | None

    inputs: ClassVar[tuple[str, ...]] = ("context.head", "response")
    output: ClassVar[str] = "sigmoid"
    label: ClassVar[int] = 1


@dataclass(frozen=True)
class Toxichat:
    kind: str
    model: str | None
    revision: str | None
    label: int
    max_length: int
    low: float | None
    high: float | None

    train: ClassVar[None] = None  # published checkpoints only; train a `classifier` instead


@dataclass(frozen=True)
class Preference:
    kind: str
    model: str | None
    revision: str | None
    human: str
    assistant: str
    output: Literal["sigmoid", "logit"]
    max_length: int
    low: float | None
    high: float | None
    train: Training | None


@dataclass(frozen=True)
class Stored:
    kind: str
    column: str | None
    output: Literal["none", "sigmoid"]
    scorer: dict[str, Any] | None
    checked: int
    tolerance: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Tfidf:
    kind: str
    texts: str | None
    few: int
    divisor: int
    low: float | None
    high: float | None


Options = Python | Classifier | Critic | Toxichat | Preference | Stored | Tfidf
Trainable = Classifier | Critic | Preference

# kind -> (its options, module:class that scores)
KINDS: dict[str, tuple[type, str]] = {
    "python": (Python, "alol.rewards.python:PythonReward"),
    "classifier": (Classifier, "alol.rewards.classifier:ClassifierReward"),
    "critic": (Critic, "alol.rewards.critic:CriticReward"),
    "toxichat": (Toxichat, "alol.rewards.toxichat:ToxichatReward"),
    "preference": (Preference, "alol.rewards.preference:PreferenceReward"),
    "stored": (Stored, "alol.rewards.stored:StoredReward"),
    "tfidf": (Tfidf, "alol.rewards.tfidf:TfidfReward"),
}


def parse(table: dict[str, Any], where: str) -> Any:
    """The dataclass of the table's kind; raises InputError naming `where` (`rewards.safe`) and the key."""
    if table.get("kind") not in KINDS:
        raise known(f"reward kind at {where}:", table.get("kind"), KINDS)
    return build(KINDS[table["kind"]][0], table, where)


def fitted(specs: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(component, options) of what may keep fitted state: each component, or the scorer behind a stored one."""
    for name, table in specs.items():
        built = parse(table, f"rewards.{name}")
        if isinstance(built, Stored) and built.scorer is not None:
            built = parse(built.scorer, f"rewards.{name}.scorer")
        yield name, built


def local(name: str) -> Path | None:
    """The path that `name` of a model stands for (environment variables expanded), None for a hub id."""
    path = Path(os.path.expandvars(name)).expanduser()
    written_as_path = path.is_absolute() or name.startswith((".", "$", "~")) or name.count("/") > 1
    return path if written_as_path or path.exists() else None
