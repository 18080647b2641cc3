"""Length of a run, evaluation points and draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alol.algorithms.sampling import draws, evaluation_points, run_length
from alol.base.errors import InputError


def test_share_of_positive_advantages_scales_the_run():
    assert run_length(9000, None, 1, 16, 0.677, "train") == 6093
    assert evaluation_points(6093, 10)[0] == 609
    assert run_length(None, 1, 144_000, 16, 1.0, "train") == 9000
    assert run_length(None, 0.5, 100, 16, 0.5, "train") == 1


def test_evaluation_points_are_even_and_end_at_the_end():
    assert evaluation_points(10, 4) == [2, 5, 7, 10]
    assert evaluation_points(2, 4) == [1, 2]


@pytest.mark.parametrize(("updates", "epochs"), [(None, None), (1, 1.0)])
def test_exactly_one_of_updates_and_epochs(updates, epochs):
    with pytest.raises(InputError, match=r"train sets (neither|both) of updates and epochs"):
        run_length(updates, epochs, 10, 2, 1.0, "train")


def test_a_run_of_nothing_is_refused():
    with pytest.raises(InputError, match="no update"):
        run_length(None, 1, 3, 16, 1.0, "train")


def test_priority_draws_are_proportional_to_the_weights():
    drawn = draws(3, 1000, 40, seed=1, weights=np.array([0.0, 1.0, 3.0]))
    share = torch.bincount(drawn.flatten(), minlength=3) / drawn.numel()
    assert share[0] == 0
    # 40,000 draws: four standard deviations are 0.0087
    assert share[1].item() == pytest.approx(0.25, abs=0.0087)
    assert share[2].item() == pytest.approx(0.75, abs=0.0087)


def test_uniform_draws_visit_every_index_once_an_epoch():
    drawn = draws(7, 7, 3, seed=1).flatten()
    counts = [torch.bincount(drawn[i : i + 7], minlength=7).tolist() for i in (0, 7, 14)]
    assert counts == [[1] * 7] * 3


def test_the_seed_decides_the_draws():
    weights = np.arange(1, 6)
    assert torch.equal(draws(5, 4, 3, 2, weights), draws(5, 4, 3, 2, weights))
    assert not torch.equal(draws(5, 4, 3, 2, weights), draws(5, 4, 3, 3, weights))
