"""A reward that the source already holds for its own texts; another component scores what the source cannot know.

Before the stored numbers are trusted, some of them are compared with the scorer's: numbers of another model, on another
scale, would make a policy look better or worse than the data for no reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alol.base.errors import InputError
from alol.config.sections import Launch
from alol.rewards.components import Origin
from alol.rewards.options import Stored


class StoredReward:
    """context[column] of the source's own texts; generated texts and rows without the column go to the scorer."""

    def __init__(self, where: str, options: Stored, folder: Path, launch: Launch) -> None:
        from alol.rewards import component

        if options.scorer is None or not options.column:
            raise InputError(f"{where} needs both `column` and `scorer`")
        self._where, self._options, self._compared = where, options, options.checked == 0
        self._scorer = component("scorer", options.scorer, folder, launch, f"{where}.scorer")

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> np.ndarray:
        """float64 [N]; raises InputError when stored and scored numbers differ by more than the tolerance."""
        column = self._options.column
        logged = origin in ("source", "train")
        known = [i for i, c in enumerate(contexts) if c.get(column) is not None] if logged else []
        unknown = sorted(set(range(len(prompts))) - set(known))
        scores = np.zeros(len(prompts))
        scores[known] = [self._stored(i, contexts[i][column]) for i in known]

        def scorer(rows: list[int]) -> np.ndarray:
            picked = ([texts[i] for i in rows] for texts in (prompts, responses, contexts))
            return np.asarray(self._scorer.score(*picked, origin), np.float64)

        if unknown:
            scores[unknown] = scorer(unknown)
        if known and not self._compared:
            rows = known[: self._options.checked]
            self._compare(float(np.abs(scores[rows] - scorer(rows)).mean()), len(rows))
        return scores

    def _stored(self, row: int, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{self._where}: context.{self._options.column} of row {row} is {value!r}, not a number")
        if self._options.output == "none":
            return float(value)
        return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))

    def _compare(self, difference: float, rows: int) -> None:
        if not difference <= self._options.tolerance:
            raise InputError(
                f"{self._where}: the stored scores (context.{self._options.column}) differ from those of "
                f"{self._where}.scorer by {difference:.4f} on average over {rows} rows, more than the tolerance "
                f"{self._options.tolerance:g}; use the scorer that made the stored scores, or the scorer alone"
            )
        self._compared = True
