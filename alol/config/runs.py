"""What makes a run of the training loop senseless: its length, and a warm-up that it would not outlast.

The checks ask before anything runs, training asks again when the data has said how long the run is.
"""

from __future__ import annotations

from alol.base.errors import ParameterError
from alol.config.sections import Optimizer


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
