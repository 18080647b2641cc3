"""What is drawn for training, and for how long: the run's length, its evaluation points and the indices of every batch.

Drawn once for the global batch from the seed alone; processes then split what was drawn.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alol.base.errors import ParameterError
from alol.config.runs import check_length

LIMIT = 2**24  # weights that torch.multinomial takes, with which smaller tables have always been drawn


def run_length(
    updates: int | None, epochs: float | None, rows: int, batch_size: int, share: float, where: str, why: str = ""
) -> int:
    """Optimizer steps of a run: `updates`, or `epochs` over `rows`, times `share`, truncated.

    `share` is the share of rows with a positive advantage under priority sampling, else 1; `where` is the section of
    these parameters. Raises ParameterError unless exactly one of `updates` and `epochs` is given, or when nothing
    would be left to run; `why` then says what beside the batch size may be at fault.
    """
    check_length(updates, epochs, where)
    steps = updates if updates is not None else epochs * rows / batch_size
    length = int(steps * share + 1e-9)  # 1e-9: 9000 x 0.677 is 6093, whatever the binary fraction
    if length < 1:
        raise ParameterError(
            f"{where}.batch_size",
            f"is {batch_size}, which gives no update of {rows} examples{why}; lower it, or raise "
            + ("epochs" if updates is None else "updates"),
        )
    return length


def evaluation_points(updates: int, evaluations: int) -> list[int]:
    """The updates after which to evaluate: evenly spaced, the last one at the end."""
    return sorted({max(1, updates * i // evaluations) for i in range(1, evaluations + 1)})


def draws(count: int, updates: int, batch_size: int, seed: int, weights: np.ndarray | None = None) -> Tensor:
    """Indices [updates, batch_size] below `count`.

    With `weights` [count]: with replacement, proportional to the weights (>= 0, not all 0). Up to 2^24 of them they are
    torch.multinomial's, as they always were, so that runs keep their numbers; it takes no more than that, and more are
    drawn by `by_cumulative_sums`. Without: shuffled epochs, one after the other, so that every index is drawn equally
    often to within one.
    """
    generator = torch.Generator().manual_seed(seed)
    needed = updates * batch_size
    if weights is None:
        order = torch.empty(needed, dtype=torch.int32 if count < 2**31 else torch.long)  # half of the memory
        for epoch in order.split(count):
            epoch.copy_(torch.randperm(count, generator=generator)[: len(epoch)])
    elif count > LIMIT:
        order = by_cumulative_sums(weights, needed, generator)
    else:
        order = torch.multinomial(torch.tensor(weights, dtype=torch.float64), needed, True, generator=generator)
    return order.view(updates, batch_size)


def by_cumulative_sums(weights: np.ndarray, count: int, generator: torch.Generator) -> Tensor:
    """`count` indices of `weights`, with replacement and in proportion to them; any number of weights will do.

    Inverse transform sampling: index i is drawn for the numbers u of [0, total) with sums[i - 1] <= u < sums[i], of
    which there are none where a weight is 0. Sums and numbers are float64.
    """
    sums = np.cumsum(weights, dtype=np.float64)
    last = int(np.searchsorted(sums, sums[-1]))  # the last weight above 0, should u be rounded up to the total
    numbers = torch.rand(count, dtype=torch.float64, generator=generator) * float(sums[-1])
    return torch.searchsorted(torch.from_numpy(sums), numbers, right=True).clamp_(max=last)
