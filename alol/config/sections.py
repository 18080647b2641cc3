"""The sections of params.yaml and of the task files, as frozen dataclasses: names, types and ranges, no values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from alol.config.ranges import (
    BelowOne,
    Count,
    Epochs,
    Evaluations,
    Interval,
    Layers,
    Length,
    NotEmpty,
    NotNegative,
    Number,
    Passes,
    Positive,
    Range,
    Rate,
    Resamples,
    Seconds,
    Seed,
    Shown,
    Size,
    Text,
    Tokens,
    Updates,
    UpToOne,
    at_least,
    between,
)


@dataclass(frozen=True)
class Launch:
    """How a stage uses the machine; never part of a stage's hash, so no score may depend on its batches."""

    processes: Annotated[int, between(1, 1024)]
    cluster: str | None
    actors: Annotated[int, between(1, 100_000)] | None
    device: Literal["auto", "cpu"]
    precision: Literal["fp32", "bf16"]
    micro_batch: Count
    tokens: Count
    generate_batch: Count
    recompute: bool
    shard: bool
    checkpoint_minutes: Annotated[float, between(0, 10_000)]
    wait_minutes: Annotated[float, Range(0, 100_000, low_open=True)]


@dataclass(frozen=True)
class Source:
    """One thing to fetch into data/raw/<task>/<name>/."""

    kind: Literal["demo", "path", "package", "url", "hub"]
    location: str | None
    revision: str | None
    sha256: str | None
    origin: str | None
    max_gib: Annotated[float, Range(0, 1_000_000, low_open=True)]
    tries: Annotated[int, between(1, 10_000)]
    options: dict[str, Any]


@dataclass(frozen=True)
class Labels:
    """Labelled texts to train a reward on, or texts with scores: a raw file and the meaning of its columns."""

    file: Text
    prompt: str | None
    response: str
    context: dict[str, str]
    label: str | None
    classes: list[list[Any]]
    score: str | None


@dataclass(frozen=True)
class Quoting:
    """What double quotes enclose in a kind of file: cells of several lines, cells within a line, or nothing."""

    csv: Literal["lines", "line", "none"]
    tsv: Literal["lines", "line", "none"]


@dataclass(frozen=True)
class NearDuplicates:
    """From which similarity on a training prompt counts as a held-out one; None: none is looked for."""

    similarity: Annotated[float, Range(0, 1, low_open=True)] | None
    words: Count


@dataclass(frozen=True)
class Clean:
    format: str
    where: dict[str, Interval]  # a number of a training response's context -> its lowest and highest value
    limit: Count | None
    near_duplicates: NearDuplicates
    max_line: Annotated[int, between(1_000, 1_000_000_000)]
    quoting: Quoting
    labels: dict[str, Labels]
    options: dict[str, Any]


@dataclass(frozen=True)
class Reward:
    """The total reward: shift + the weighted sum of the components."""

    shift: Number
    weights: dict[str, Number]
    raw: Literal["identity", "logit"]


@dataclass(frozen=True)
class Scratch:
    """A small model trained from nothing on the task's own text."""

    architecture: Literal["gpt2", "llama", "t5"]
    layers: Layers
    width: Size
    heads: Size
    context: Tokens
    vocabulary: Annotated[int, between(258, 10_000_000)]
    init_scale: Annotated[float, Range(0, 1000, low_open=True)]


@dataclass(frozen=True)
class Lora:
    r: Size
    alpha: Count
    targets: Text | Annotated[list[Text], NotEmpty()]


@dataclass(frozen=True)
class Scoring:
    """How responses go through the rewards; what is scored together decides how scores are rounded."""

    part_rows: Annotated[int, between(1, 2048)]  # at most alol.data.schema.BATCH_ROWS


@dataclass(frozen=True)
class Policy:
    model: Text
    revision: str | None
    sha256: str | None
    adapter: str | None
    adapter_revision: str | None
    adapter_sha256: str | None
    tokenizer: str | None
    tokenizer_revision: str | None
    template: Text
    tuning: Literal["full", "lora", "qlora"]
    dropout: BelowOne
    max_prompt: Tokens
    max_response: Tokens
    end_of_text: bool
    long_prompt: Literal["shorten", "refuse"]
    scratch: Scratch
    lora: Lora


@dataclass(frozen=True)
class Optimizer:
    name: Literal["adamw", "paged_adamw_32bit"]
    lr: Rate
    betas: Annotated[list[BelowOne], Length(2)]
    eps: Positive
    weight_decay: NotNegative
    clip_norm: Positive | None
    schedule: Literal["constant", "linear", "cosine"]
    warmup: Annotated[int, at_least(0)]


@dataclass(frozen=True)
class Run:
    """A run of the training loop: as long as `updates` or `epochs` say, of which exactly one is set."""

    batch_size: Count
    updates: Updates | None
    epochs: Epochs | None
    evaluations: Evaluations
    optimizer: Optimizer


@dataclass(frozen=True)
class Pretrain(Run):
    """How the scratch base of an adapter is trained."""


@dataclass(frozen=True)
class Reference(Run):
    train: bool
    seed: Seed
    pretrain: Pretrain
    train_on: Literal["preferred", "all"]


@dataclass(frozen=True)
class Rollout:
    """Sampled answers of the reference, beside the one to each prompt that the rest of `generate` asks for.

    V(x) is fitted to the first `samples` of those to the validation prompts, where there are any, and judged by the
    first `judge_samples`. `train_samples` are to each training prompt, for losses that compare with them.
    """

    samples: Annotated[int, between(0, 1000)]
    judge_samples: Annotated[int, between(2, 1000)]
    judge_always: bool
    train_samples: Annotated[int, between(1, 1000)] | None

    @property
    def judged(self) -> bool:
        """Whether V(x) is judged by sampled answers."""
        return self.samples > 0 or self.judge_always

    @property
    def drawn(self) -> int:
        """How many answers are sampled to each prompt: fitting and judging share them."""
        return max(self.samples, self.judge_samples) if self.judged else 0


@dataclass(frozen=True)
class Generate:
    max_new_tokens: Tokens
    beams: Annotated[int, between(1, 1000)]
    sample: bool
    temperature: Positive
    top_p: UpToOne
    repetition_penalty: Positive
    stop: list[Text]
    stop_ids: list[Annotated[int, at_least(0)]]
    cut: list[Text]
    seed: Seed
    part_rows: Count
    rollout: Rollout


@dataclass(frozen=True)
class Value:
    head: Literal["linear", "mlp"]
    start: Literal["random", "constant"]
    heads: Size
    dropout: BelowOne
    batch_size: Count
    epochs: Passes
    lr: Rate
    weight_decay: NotNegative
    folds: Annotated[int, between(3, 1000)]
    seed: Seed
    part_rows: Count


@dataclass(frozen=True)
class Train(Run):
    train_on: Literal["preferred", "all"]
    filter: Literal["auto", "none", "positive"]
    sampling: Literal["auto", "uniform", "priority"]
    success: str


@dataclass(frozen=True)
class Aggregate:
    gold: Literal["preferred", "best"]
    label: str | None
    bootstrap: Resamples
    permutations: Resamples
    seed: Seed
    samples: Shown
    examples: Shown
    points: Count
    questions: list[Text]  # alol.evaluation.judge.questions


@dataclass(frozen=True)
class Judge:
    """The `judge` section of params.yaml; times are in seconds."""

    url: Text
    model: Text
    key: str | None
    max_tokens: Count | None
    length_key: Literal["max_tokens", "max_completion_tokens"]
    temperature: NotNegative | None
    rows: Count | None
    requests: Annotated[int, between(1, 1024)]
    retries: Annotated[int, between(0, 1000)]
    wait: Seconds
    longest_wait: Seconds
    timeout: Annotated[float, Range(0, 86_400, low_open=True)]
    give_up: Count
    bootstrap: Resamples
    seed: Seed
