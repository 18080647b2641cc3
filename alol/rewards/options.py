"""The keys of each reward kind in tasks/shared/rewards.yaml, as dataclasses, and the class that scores for each kind.

Light on purpose: checking parameters must not import a deep-learning library, so the classes are named, not imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from alol.base.errors import ParameterError
from alol.config.build import build
from alol.config.ranges import (
    BelowOne,
    Count,
    Layers,
    NotNegative,
    Number,
    Part,
    Passes,
    Positive,
    Rate,
    Resamples,
    Seed,
    Size,
    Text,
    Tokens,
    at_least,
    between,
)
from alol.models.templates import TEXT

SMALLEST_VOCABULARY = 300  # 256 bytes, the special tokens and a few merges
SHORTEST = 4  # tokens of a text: two of a pair, and what stands around them
CONVERSATION = ["prompt", "response"]  # inputs of a classifier that a chat template can write
PAIRS = "pairs"  # of Training.texts: the task's own response pairs
RESPONSES = "responses"  # of Training.texts: its own responses, each with a number in its context
FULL = "full"  # folder of the model that is trained on every training row


Objective = Literal["pairs", "labels", "scores"]


@dataclass(frozen=True)
class Lora:
    """Adapters on the linear layers of the model that training starts from."""

    r: Annotated[int, between(1, 65_536)]
    alpha: Positive
    dropout: BelowOne


@dataclass(frozen=True)
class Measured:
    """How a trained component is measured on the examples that it has not seen."""

    resamples: Resamples
    bins: Annotated[int, between(1, 1000)]
    words: Count


@dataclass(frozen=True)
class Training:
    """How a component is trained; the numbers' meanings stand in tasks/shared/rewards.yaml."""

    texts: str
    init: str
    init_revision: str | None
    init_sha256: str | None
    pooling: Literal["auto", "last", "mean"]
    layers: Layers
    width: Size
    heads: Size
    vocabulary: Annotated[int, between(SMALLEST_VOCABULARY, 10_000_000)]
    batch_size: Count
    epochs: Passes
    lr: Rate
    weight_decay: NotNegative
    dropout: BelowOne
    folds: Annotated[int, between(2, 1000)]
    holdout: Part
    seed: Seed
    objective: Literal["auto", "pairs", "labels", "scores"]
    column: str | None
    mismatched: Annotated[float, between(0, 100)]
    tuning: Literal["full", "lora", "head"]
    l2: Positive | None
    lora: Lora
    precision: Literal["fp32", "bf16"]
    measured: Measured


@dataclass(frozen=True)
class Python:
    kind: str
    function: str | None
    low: Number | None
    high: Number | None


@dataclass(frozen=True)
class Classifier:
    kind: str
    model: str | None
    revision: str | None
    sha256: str | None
    template: Text
    inputs: list[str]
    output: Literal["softmax", "sigmoid", "logit"]
    label: Annotated[int, at_least(0)] | str
    max_length: Annotated[int, at_least(SHORTEST)]
    precision: Literal["fp32", "bf16"]
    batch_size: Count
    batch_tokens: Count
    low: Number | None
    high: Number | None
    train: Training | None


@dataclass(frozen=True)
class Names:
    """First names for the placeholders of a triple."""

    placeholders: list[str]
    draws: Annotated[int, between(1, 1000)]
    seed: Seed


@dataclass(frozen=True)
class Critic:
    """A classifier with one logit; its two texts are made of context.head, context.relation and the response."""

    kind: str
    model: str | None
    revision: str | None
    sha256: str | None
    relations: dict[str, str]
    names: Names
    max_length: Annotated[int, at_least(SHORTEST)]
    precision: Literal["fp32", "bf16"]
    batch_size: Count
    batch_tokens: Count
    low: Number | None
    high: Number | None
    train: Training | None

    inputs: ClassVar[tuple[str, ...]] = ("context.head", "response")
    template: ClassVar[str] = "text"
    output: ClassVar[str] = "sigmoid"
    label: ClassVar[int] = 1


@dataclass(frozen=True)
class Toxichat:
    kind: str
    model: str | None
    revision: str | None
    sha256: str | None
    label: Annotated[int, between(0, 1)]
    max_length: Annotated[int, at_least(SHORTEST)]
    precision: Literal["fp32", "bf16"]
    batch_size: Count
    batch_tokens: Count
    low: Number | None
    high: Number | None

    train: ClassVar[None] = None  # published checkpoints only; train a `classifier` instead


@dataclass(frozen=True)
class Preference:
    kind: str
    model: str | None
    revision: str | None
    sha256: str | None
    template: Text
    human: str
    assistant: str
    output: Literal["sigmoid", "logit"]
    max_length: Annotated[int, at_least(SHORTEST)]
    precision: Literal["fp32", "bf16"]
    batch_size: Count
    batch_tokens: Count
    low: Number | None
    high: Number | None
    train: Training | None


@dataclass(frozen=True)
class Stored:
    kind: str
    column: str | None
    output: Literal["none", "sigmoid"]
    scorer: dict[str, Any] | None
    checked: Annotated[int, at_least(0)]
    tolerance: NotNegative
    low: Number | None
    high: Number | None


@dataclass(frozen=True)
class Tfidf:
    kind: str
    texts: str | None
    few: Count
    divisor: Count
    low: Number | None
    high: Number | None


@dataclass(frozen=True)
class Likelihood:
    """A language model, and how it reads prompts and responses: as a policy does, with the same keys."""

    kind: str
    model: str | None
    revision: str | None
    sha256: str | None
    template: str
    max_prompt: Tokens
    max_response: Tokens
    output: Literal["logprob", "probability"]
    precision: Literal["fp32", "bf16"]
    batch_size: Count
    batch_tokens: Count
    low: Number | None
    high: Number | None

    long_prompt: ClassVar[str] = "shorten"
    end_of_text: ClassVar[bool] = True  # that a response ends where it does is part of what is likely


Options = Python | Classifier | Critic | Toxichat | Preference | Stored | Tfidf | Likelihood
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
    "likelihood": (Likelihood, "alol.rewards.likelihood:LikelihoodReward"),
}


def objective(options: Trainable) -> Objective:
    """What a component with a `train` section learns: `auto` is pairs of a preference model and labels of others."""
    if options.train.objective != "auto":
        return options.train.objective
    return "pairs" if isinstance(options, Preference) else "labels"


def parse(table: dict[str, Any], where: str) -> Any:
    """The dataclass of the table's kind; raises ParameterError naming the key below `where` (`rewards.safe`)."""
    if table.get("kind") not in KINDS:
        reason = f"is {table.get('kind')!r:.80}, which has no entry in KINDS of alol/rewards/options.py"
        raise ParameterError(f"{where}.kind", f"{reason}; known: {', '.join(sorted(KINDS))}")
    built = build(KINDS[table["kind"]][0], table, where)
    if isinstance(built, Classifier | Preference) and built.template != TEXT:
        _check_template(built, f"{where}.template")
    return built


def _check_template(built: Classifier | Preference, key: str) -> None:
    """A template writes the whole conversation, with marks that a tokenizer from scratch has not."""
    if built.train is not None and built.train.init == "scratch":
        raise ParameterError(
            key, f"is {built.template}, but train.init is scratch; start from a model whose tokenizer has its marks"
        )
    if isinstance(built, Classifier) and built.inputs != CONVERSATION:
        inputs, wanted = ", ".join(built.inputs), ", ".join(CONVERSATION)
        raise ParameterError(key, f"is {built.template}, which writes the inputs {wanted}, not {inputs}")


def fitted(specs: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(component, options) of what may keep fitted state: each component, or the scorer behind a stored one."""
    for name, table in specs.items():
        built = parse(table, f"rewards.{name}")
        if isinstance(built, Stored) and built.scorer is not None:
            built = parse(built.scorer, f"rewards.{name}.scorer")
        yield name, built
