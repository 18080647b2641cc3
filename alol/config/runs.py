"""What makes a run of the training loop senseless: its length, its warm-up, and shards of what cannot be split.

The checks ask before anything runs, training asks again when the data has said how long the run is.
"""

from __future__ import annotations

from alol.base.errors import ParameterError
from alol.config.sections import Launch, Optimizer


def check_length(updates: int | None, epochs: float | None, where: str) -> None:
    """Raises ParameterError unless the section `where` sets exactly one of the two."""
    if (updates is None) == (epochs is None):
        given = "neither" if updates is None else "both"
        raise ParameterError(where, f"sets {given} of updates and epochs; set one of them, and the other to null")


def check_warmup(settings: Optimizer, updates: int, where: str) -> None:
    """Raises ParameterError for a warm-up that a run of so many updates (of the section `where`) would not outlast."""
    if settings.warmup >= updates:
        raise ParameterError(
            f"{where}.optimizer.warmup", f"is {settings.warmup}, but must be below the run's {updates} updates"
        )


def check_shards(launch: Launch, tuning: str, settings: Optimizer, where: str) -> None:
    """Raises ParameterError where `launch.shard` is set and a run (of the section `where`) cannot be split.

    4-bit weights are packed in blocks, and bitsandbytes' optimizers compute on plain tensors alone.
    """
    if not launch.shard:
        return
    if tuning == "qlora":
        raise ParameterError("launch.shard", "is true, but policy.tuning is qlora, whose 4-bit base cannot be split")
    if settings.name != "adamw":
        raise ParameterError("launch.shard", f"is true, but {where}.optimizer.name is {settings.name}; use adamw")
