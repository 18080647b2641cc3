"""The sections of params.yaml and of the task files, as frozen dataclasses: names and types, no values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Number = int | float | bool | None


@dataclass(frozen=True)
class Launch:
    """How a stage uses the machine; never part of a stage's hash."""

    processes: int
    device: Literal["auto", "cpu"]
    precision: Literal["fp32", "bf16"]
    micro_batch: int
    tokens: int
    generate_batch: int
    score_batch: int
    recompute: bool


@dataclass(frozen=True)
class Source:
    """One thing to fetch into data/raw/<task>/<name>/."""

    kind: Literal["demo", "path", "url", "hub"]
    location: str | None
    revision: str | None
    sha256: str | None
    origin: str | None
    options: dict[str, Any]


@dataclass(frozen=True)
class Labels:
    """Labelled texts for training a classifier: a raw file and the meaning of its columns."""

    file: str
    prompt: str | None
    response: str
    context: dict[str, str]
    label: str
    classes: list[list[Any]]


@dataclass(frozen=True)
class Clean:
    format: str
    limit: int | None
    labels: dict[str, Labels]
    options: dict[str, Any]


@dataclass(frozen=True)
class Reward:
    """The total reward: shift + the weighted sum of the components."""

    shift: float
    weights: dict[str, float]
    raw: Literal["identity", "logit"]


@dataclass(frozen=True)
class Scratch:
    """A small model trained from nothing on the task's own text."""

    architecture: Literal["gpt2", "llama", "t5"]
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    init_scale: float


@dataclass(frozen=True)
class Lora:
    r: int
    alpha: int
    targets: str | list[str]


@dataclass(frozen=True)
class Policy:
    model: str
    revision: str | None
    adapter: str | None
    adapter_revision: str | None
    tokenizer: str | None
    tokenizer_revision: str | None
    tuning: Literal["full", "lora", "qlora"]
    dropout: float
    max_prompt: int
    max_response: int
    end_of_text: bool
    long_prompt: Literal["shorten", "refuse"]
    scratch: Scratch
    lora: Lora


@dataclass(frozen=True)
class Optimizer:
    name: Literal["adamw", "paged_adamw_32bit"]
    lr: float
    betas: list[float]
    eps: float
    weight_decay: float
    clip_norm: float | None
    schedule: Literal["constant", "linear", "cosine"]
    warmup: int


@dataclass(frozen=True)
class Pretrain:
    """How the scratch base of an adapter is trained."""

    batch_size: int
    updates: int | None
    epochs: float | None
    evaluations: int
    optimizer: Optimizer


@dataclass(frozen=True)
class Reference:
    train: bool
    seed: int
    pretrain: Pretrain
    train_on: Literal["preferred", "all"]
    batch_size: int
    updates: int | None
    epochs: float | None
    evaluations: int
    optimizer: Optimizer


@dataclass(frozen=True)
class Generate:
    max_new_tokens: int
    beams: int
    sample: bool
    temperature: float
    top_p: float
    repetition_penalty: float
    stop: list[str]
    stop_ids: list[int]
    cut: list[str]
    seed: int


@dataclass(frozen=True)
class Value:
    head: Literal["linear", "mlp"]
    heads: int
    dropout: float
    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    folds: int
    seed: int


@dataclass(frozen=True)
class Train:
    train_on: Literal["preferred", "all"]
    sampling: Literal["priority", "uniform"]
    batch_size: int
    updates: int | None
    epochs: float | None
    evaluations: int
    success: str
    optimizer: Optimizer


@dataclass(frozen=True)
class Aggregate:
    gold: Literal["preferred", "best"]
    label: str | None
    bootstrap: int
    permutations: int
    seed: int
    samples: int
    examples: int
    points: int


@dataclass(frozen=True)
class Judge:
    """The `judge` section of params.yaml; times are in seconds."""

    url: str
    model: str
    key: str | None
    max_tokens: int
    temperature: float
    rows: int | None
    requests: int
    retries: int
    wait: float
    longest_wait: float
    timeout: float
    give_up: int
    bootstrap: int
    seed: int
