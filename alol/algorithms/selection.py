"""Which examples an algorithm trains on and how they are drawn: its own way, unless `train` says otherwise.

A baseline may have A-LoL's filter (A > 0) and draw in proportion to A, and A-LoL may do without, so that a comparison
can tell what the filter does from what the loss does. Light on purpose: checking parameters loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alol.algorithms.offline import Algorithm
from alol.base.errors import ParameterError
from alol.config.sections import Train


@dataclass(frozen=True)
class Selection:
    """`positive`: examples with A <= 0 are left out. `by`: what weighs the draws; None: uniform."""

    positive: bool
    by: Literal["reward", "advantage", "abs_advantage"] | None


def check_columns(algorithm: Algorithm | None, samples: int | None) -> None:
    """Raises ParameterError where the loss compares with the reference's answers to training prompts, and none is made.

    `samples` is generate.rollout.train_samples.
    """
    if algorithm is not None and "ref_rewards" in algorithm.columns and samples is None:
        raise ParameterError(
            "generate.rollout.train_samples",
            "is null, but the algorithm compares rewards with those of the reference's own answers to the training "
            "prompts; set it to 4, say",
        )


def of(algorithm: Algorithm | None, settings: Train) -> Selection:
    """The selection of a run; `algorithm` is None for an online one. ParameterError where the settings make no sense.

    `sampling: priority` draws by the advantage where `filter: positive` asks for A-LoL's filter, else by the
    algorithm's own column.
    """
    if algorithm is None or algorithm.group:
        return _whole(
            "answers prompts itself" if algorithm is None else "learns from all responses to a prompt", settings
        )
    positive = (algorithm.filter if settings.filter == "auto" else settings.filter) == "positive"
    by = algorithm.priority
    if settings.sampling == "uniform":
        by = None
    elif settings.sampling == "priority" and positive:
        by = "advantage"
    elif settings.sampling == "priority" and by is None:
        raise ParameterError(
            "train.sampling",
            "is priority, but the algorithm has no number of its own to draw by; set train.filter to positive, which "
            "draws by the advantage, or train.sampling to auto",
        )
    if by == "advantage" and not positive:
        raise ParameterError(
            "train.filter",
            "is none, but the algorithm draws by the advantage, which leaves out A <= 0 as well; set train.sampling to "
            "uniform, or train.filter to auto",
        )
    return Selection(positive, by)


def _whole(why: str, settings: Train) -> Selection:
    """The selection of an algorithm that takes no single responses: everything, drawn uniformly."""
    for key, value in (("filter", "positive"), ("sampling", "priority")):
        if getattr(settings, key) == value:
            raise ParameterError(
                f"train.{key}", f"is {value}, but the algorithm {why}, so that there is none to choose; set it to auto"
            )
    return Selection(positive=False, by=None)
