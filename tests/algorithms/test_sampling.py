"""Length of a run, evaluation points and draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from alol.algorithms.sampling import LIMIT, by_cumulative_sums, draws, evaluation_points, run_length
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


def test_small_tables_are_drawn_as_torch_draws_them():
    weights = np.array([0.5, 0.0, 2.0, 1.5], dtype=np.float32)
    sampler = WeightedRandomSampler(weights.tolist(), 60, generator=torch.Generator().manual_seed(7))
    assert draws(4, 20, 3, 7, weights).flatten().tolist() == list(sampler)


def test_more_weights_than_multinomial_takes_are_drawn_by_their_sums():
    weights = np.zeros(LIMIT + 1)
    weights[[0, 9, LIMIT]] = 1.0, 2.0, 5.0
    drawn = draws(len(weights), 1000, 40, 1, weights)
    assert drawn.shape == (1000, 40)
    rows, counts = drawn.unique(return_counts=True)
    assert rows.tolist() == [0, 9, LIMIT]  # and none of weight 0
    # chi-square with two degrees of freedom exceeds 13.8 once in a thousand seeds
    expected = 40_000 * torch.tensor([1, 2, 5]) / 8
    assert ((counts - expected) ** 2 / expected).sum() < 13.8
    assert torch.equal(drawn, draws(len(weights), 1000, 40, 1, weights))
    assert not torch.equal(drawn, draws(len(weights), 1000, 40, 2, weights))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    # the sums are 0, 1, 1, 4, 4: a number on a border belongs to the next weight that is above 0
    [([0.0, 0.24, 0.25, 0.5, 0.999], [1, 1, 3, 3, 3]), ([1.0], [3])],
)
def test_a_number_falls_on_the_weight_whose_part_of_the_total_it_lies_in(monkeypatch, numbers, expected):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(numbers, dtype=torch.float64))
    weights = np.array([0, 1, 0, 3, 0], dtype=np.float32)
    assert by_cumulative_sums(weights, len(numbers), torch.Generator()).tolist() == expected
