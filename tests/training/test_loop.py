"""The training loop: what is drawn, accumulation, the first step's weights, checkpoint choice, and what is refused."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator

from alol.algorithms.offline import OFFLINE
from alol.algorithms.registry import FROM_DATA
from alol.algorithms.rivals import RIVALS
from alol.base.errors import InputError
from alol.compute.batching import Batch
from alol.compute.launch import Machine
from alol.compute.logprob import ResponseLogp, response_logp
from alol.config import params
from alol.data import schema
from alol.data.row_store import Source
from alol.training import loop, planning
from tests.conftest import tiny_model
from tests.registered import constants

SINGLE = {**OFFLINE, **RIVALS}  # that learn from single responses


@pytest.fixture(scope="module")
def loaded():
    return params.load("demo")


@torch.no_grad()
def table(model, rewards, values, ranks=None) -> pa.Table:
    """An advantage table over random tokens, with the model's own log-probabilities as the reference's."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i, (reward, value) in enumerate(zip(rewards, values, strict=True)):
        prompt, response = (
            torch.randint(3, 300, (int(n),), generator=generator).tolist()
            for n in torch.randint(2, 9, (2,), generator=generator)
        )
        logp = response_logp(model, Batch([prompt], [response], 0, "cpu"))[0]
        rows.append(
            {
                "prompt_id": str(i),
                "rank": 0 if ranks is None else ranks[i],
                "prompt_ids": prompt,
                "response_ids": response,
                "ref_logp": logp.tolist(),
                "reward": reward,
                "raw_reward": reward,
                "value": value,
                "advantage": reward - value,
                "ref_rewards": [value - 0.1, value + 0.1],
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.COMPARED)


def plan(data, name, loaded, seed=1, **changes):
    settings = dataclasses.replace(loaded.train, train_on="all", batch_size=8, updates=6, epochs=None, evaluations=3)
    settings = dataclasses.replace(settings, **changes)
    return planning.plan(Source.of(data), FROM_DATA[name], settings, seed, pad_id=0)


def run(model, data, name, loaded, *, launch=None, scores=(1.0, 3.0, 2.0), bar=0.0, seed=1, lr=1e-3, **changes):
    """Trains and returns the history with the update numbers at which a checkpoint was kept."""
    examples, drawn = plan(data, name, loaded, seed, **changes)
    remaining, kept = iter(scores), []
    optimizer = dataclasses.replace(loaded.train.optimizer, lr=lr, schedule="constant", warmup=0)
    machine = Machine(Accelerator(cpu=True), dataclasses.replace(loaded.launch, **(launch or {})))
    recipe = loop.Recipe(FROM_DATA[name], constants(name), optimizer)
    checkpointing = loop.Checkpointing(lambda: next(remaining), lambda: kept.append(1), bar)
    history = loop.fit(model, examples, drawn, recipe, machine, checkpointing)
    return history, kept


REWARDS, VALUES = np.linspace(0.0, 1.0, 24), np.full(24, 0.4)


@pytest.mark.parametrize("name", SINGLE)
def test_every_parameter_moves_and_importance_weights_start_at_1(model, architecture, tokenizer, loaded, name):
    policy = tiny_model(architecture, tokenizer)
    before = {key: value.clone() for key, value in policy.named_parameters()}
    history, _ = run(policy, table(model, REWARDS, VALUES), name, loaded, updates=3)
    assert [key for key, value in policy.named_parameters() if torch.equal(value, before[key])] == []
    assert len(history.curve) == (3 if SINGLE[name].priority != "advantage" else 1)
    if "ref_logp" in SINGLE[name].columns:
        assert history.curve[0]["abs_log_ratio"] < 1e-3


def test_groups_are_prompts_with_two_responses_or_more_by_rank():
    rows = [("a", 1), ("b", 0), ("a", 0), ("c", 0), ("c", 2), ("c", 1)]
    data = pa.Table.from_pylist(
        [
            {
                "prompt_id": name, "rank": rank, "prompt_ids": [3, 4], "response_ids": [10 + i] * (rank + 1),
                "ref_logp": [-float(i)] * (rank + 1), "reward": 0.0, "raw_reward": float(i), "value": 0.0,
                "advantage": 0.0,
            }
            for i, (name, rank) in enumerate(rows)
        ],
        schema=schema.ADVANTAGES,
    )  # fmt: skip
    groups = planning.Groups(data, 0)
    assert ([groups.members(i) for i in range(len(groups))], groups.responses) == ([[2, 0], [3, 5, 4]], 3)
    assert groups.lengths.tolist() == [(2 + 2) * 3, (2 + 3) * 3]
    batch, extra = groups.batch([0, 1], ("ref_logp", "raw_reward"), torch.device("cpu"))
    mask = groups.shaped(batch.response_mask)
    assert mask.tolist() == [[[1, 0, 0], [1, 1, 0], [0, 0, 0]], [[1, 0, 0], [1, 1, 0], [1, 1, 1]]]
    assert extra["raw_reward"].tolist() == [[2, 0, 0], [3, 5, 4]]
    assert extra["ref_logp"].tolist() == [
        [[-2, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[-3, 0, 0], [-5, -5, 0], [-4, -4, -4]],
    ]


def test_algorithms_over_groups_need_a_second_response(model, loaded):
    with pytest.raises(InputError, match="none of the 24 training rows has a second response"):
        plan(table(model, REWARDS, VALUES), "dpo", loaded)


@pytest.mark.parametrize("name", ["dpo", "pro"])
def test_micro_batches_do_not_change_a_run_over_groups(model, architecture, tokenizer, loaded, name):
    data = grouped(table(model, REWARDS, VALUES, ranks=[i % 3 for i in range(24)]))
    first, again = (
        losses(run(tiny_model(architecture, tokenizer), data, name, loaded, launch=launch)[0])
        for launch in ({"micro_batch": 24}, {"micro_batch": 1})
    )
    assert np.abs(first - again).max() < 1e-4 * np.abs(first).max()
    assert first[0] == pytest.approx(np.log(2), rel=1e-4) if name == "dpo" else first[0] > 0


def grouped(data: pa.Table) -> pa.Table:
    """Three rows in turn belong to one prompt."""
    ids = pa.array([str(i // 3) for i in range(len(data))])
    return data.set_column(0, "prompt_id", ids)


def losses(history):
    return np.array([entry["loss"] for entry in history.curve])


@pytest.mark.parametrize("name", ["nll", "a_lol", "a_lol_seq"])
def test_micro_batches_do_not_change_the_run(model, architecture, tokenizer, loaded, name):
    data = table(model, REWARDS, VALUES)
    histories = [
        run(tiny_model(architecture, tokenizer), data, name, loaded, launch=launch, updates=12)[0]
        for launch in ({"micro_batch": 8}, {"micro_batch": 1}, {"micro_batch": 8, "tokens": 20})
    ]
    for other in histories[1:]:
        residual = losses(other) - losses(histories[0])
        assert np.abs(residual).max() < 1e-4 * np.abs(losses(histories[0])).max()
        # a lost accumulation factor is a drift to one side, not an outlier
        assert abs(residual.mean()) < 1e-5 * np.abs(losses(histories[0])).max()


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_by_length_hold_what_was_drawn_as_often_as_it_was_drawn(
    model, tokenizer, architecture, loaded, monkeypatch, processes
):
    """Rows are ordered by length within an update alone, so that the frequencies stay those of the advantages."""
    data = table(model, REWARDS, VALUES)
    computed: list[list[int]] = []

    def recorded(self, rows, *arguments):
        computed[-1].extend(rows)
        return original(self, rows, *arguments)

    original = planning.Examples.batch
    monkeypatch.setattr(planning.Examples, "batch", recorded)
    examples, drawn = plan(data, "a_lol", loaded, updates=400)
    accelerator = Accelerator(cpu=True)
    shares = [SimpleNamespace(process_index=i, num_processes=processes, device=accelerator.device,
                              backward=lambda loss: None,
                              reduce=lambda sums, reduction: sums) for i in range(processes)]  # fmt: skip
    scorer = ResponseLogp(tiny_model(architecture, tokenizer))
    launch = dataclasses.replace(loaded.launch, micro_batch=3, tokens=24)
    recipe = loop.Recipe(FROM_DATA["a_lol"], constants("a_lol"), loaded.train.optimizer)
    for rows in drawn.draws:
        computed.append([])
        for main in shares:
            loop.Step(scorer, examples, recipe, Machine(main, launch))(rows)
    assert [sorted(rows) for rows in computed] == [sorted(rows) for rows in drawn.draws.tolist()]
    share = np.bincount(np.concatenate(computed), minlength=len(examples)) / drawn.draws.numel()
    expected = examples.column("advantage") / examples.column("advantage").sum()
    # four standard deviations of a binomial proportion
    assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / drawn.draws.numel())).all()


def test_the_first_loss_is_the_mean_over_what_was_drawn(model, tokenizer, architecture, loaded):
    data = table(model, REWARDS, VALUES)
    history, _ = run(tiny_model(architecture, tokenizer), data, "nll", loaded)
    _, drawn = plan(data, "nll", loaded)
    nll = [-sum(row) for row in data["ref_logp"].to_pylist()]
    assert history.curve[0]["loss"] == pytest.approx(np.mean([nll[i] for i in drawn.draws[0]]), rel=1e-5)


def test_the_seed_decides_every_number(model, tokenizer, architecture, loaded):
    data = table(model, REWARDS, VALUES)
    first, again, other = (
        losses(run(tiny_model(architecture, tokenizer), data, "a_lol", loaded, seed=seed)[0]) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_only_checkpoints_above_the_best_are_kept(model, tokenizer, architecture, loaded):
    data = table(model, REWARDS, VALUES)
    history, kept = run(tiny_model(architecture, tokenizer), data, "nll", loaded, scores=(1.0, 3.0, 2.0), bar=0.5)
    assert (history.selected, len(kept)) == (1, 2)
    assert [entry["reward"] for entry in history.validation] == [0.5, 1.0, 3.0, 2.0]
    assert [entry["update"] for entry in history.validation] == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("scores", "bar", "kept", "selected"),
    [
        ((1.0, 1.00009, 1.00019), 0.5, 2, 1),  # 1.00019 is above 1.0 by more than 1e-4, though not above the second
        ((1.0, 1.00005, 1.0001), 0.5, 1, 1),
        ((0.50009, 0.4, 0.50005), 0.5, 1, 0),
        ((0.5002, 0.4, 0.50025), 0.5, 1, 1),
    ],
)
def test_a_later_checkpoint_is_kept_only_when_it_is_better_by_more_than_rounding(
    model, tokenizer, architecture, loaded, scores, bar, kept, selected
):
    data = table(model, REWARDS, VALUES)
    history, found = run(tiny_model(architecture, tokenizer), data, "nll", loaded, scores=scores, bar=bar)
    assert (len(found), history.selected) == (kept, selected)


def test_the_last_checkpoint_is_kept_when_none_beats_the_reference(model, tokenizer, architecture, loaded):
    data = table(model, REWARDS, VALUES)
    history, kept = run(tiny_model(architecture, tokenizer), data, "nll", loaded, bar=3.0)
    assert (history.selected, len(kept)) == (0, 1)


@pytest.mark.parametrize("sampling", ["priority", "uniform"])
@pytest.mark.parametrize("name", [name for name, a in SINGLE.items() if a.priority == "advantage"])
def test_advantage_algorithms_see_only_positive_advantages(model, loaded, name, sampling):
    data = table(model, REWARDS, VALUES)
    examples, drawn = plan(data, name, loaded, sampling=sampling)
    assert drawn.discarded == pytest.approx(10 / 24)
    assert (examples.column("advantage") > 0).all()
    assert len(examples) == 14
    # 6 updates x 14/24, truncated, under priority sampling alone
    assert len(drawn.draws) == (3 if sampling == "priority" else 6)


def test_uniform_epochs_count_the_rows_that_are_left(model, loaded):
    _, drawn = plan(table(model, REWARDS, VALUES), "a_lol", loaded, sampling="uniform", updates=None, epochs=2)
    assert len(drawn.draws) == 3  # 2 x 14 / 8


def test_priority_by_reward_draws_no_zero_reward(model, loaded):
    data = table(model, [0.0, 1.0, 3.0], [0.0, 0.0, 0.0])
    examples, drawn = plan(data, "wbc", loaded, updates=500)
    share = torch.bincount(drawn.draws.flatten(), minlength=3) / drawn.draws.numel()
    assert len(examples) == 3
    assert share[0] == 0
    assert share[2].item() == pytest.approx(0.75, abs=0.03)


FILTERED = {"filter": "positive", "sampling": "priority"}


@pytest.mark.parametrize("name", SINGLE)
def test_any_algorithm_of_single_responses_takes_the_filter_and_the_priority_of_a_lol(model, loaded, name):
    data = table(model, REWARDS, VALUES)
    (examples, drawn), (same, own) = plan(data, name, loaded, **FILTERED), plan(data, "a_lol", loaded)
    tokens, expected = (one.rows.take(range(14)).select(planning.TOKENS) for one in (examples, same))
    assert tokens.equals(expected)
    assert len(examples) == len(same) == 14
    assert torch.equal(drawn.draws, own.draws)
    assert len(drawn.draws) == 3  # 6 updates x 14/24, truncated


def test_the_filter_alone_leaves_the_algorithms_own_draws(model, loaded):
    data = table(model, [0.0, 2.0, 4.0, 12.0], [1.0, 1.0, 1.0, 1.0])
    _, uniform = plan(data, "nll", loaded, filter="positive", updates=300)
    assert torch.bincount(uniform.draws.flatten()).tolist() == [800, 800, 800]  # 300 x 8 over three, not shortened
    _, rewards = plan(data, "wbc", loaded, filter="positive", updates=400)
    share = torch.bincount(rewards.draws.flatten(), minlength=3) / rewards.draws.numel()
    assert len(rewards.draws) == 300  # 400 x 3/4
    assert share[2].item() == pytest.approx(12 / 18, abs=0.03)
    _, priority = plan(data, "wbc", loaded, **FILTERED, updates=400)
    share = torch.bincount(priority.draws.flatten(), minlength=3) / priority.draws.numel()
    assert share[2].item() == pytest.approx(11 / 15, abs=0.03)  # A = 1, 3, 11


@pytest.mark.parametrize("name", [name for name, a in SINGLE.items() if a.filter == "positive"])
def test_no_filter_trains_on_every_response(model, loaded, name):
    examples, drawn = plan(table(model, REWARDS, VALUES), name, loaded, filter="none", sampling="uniform")
    assert (len(examples), len(drawn.draws)) == (24, 6)
    assert drawn.discarded == pytest.approx(10 / 24)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nll", {"sampling": "priority"}, r"train\.sampling is priority, but the algorithm has no number of its own"),
        (
            "nll",
            {"filter": "none", "sampling": "priority"},
            r"train\.sampling is priority, but the algorithm has no numb",
        ),
        ("a_lol", {"filter": "none"}, r"train\.filter is none, but the algorithm draws by the advantage"),
        (
            "dpo",
            {"filter": "positive"},
            r"train\.filter is positive, but the algorithm learns from all responses to a p",
        ),
        ("pro", {"sampling": "priority"}, r"train\.sampling is priority, but the algorithm learns from all responses"),
    ],
)
def test_a_selection_that_would_say_one_thing_and_do_another_is_refused(model, loaded, name, changes, message):
    with pytest.raises(InputError, match=message):
        plan(table(model, REWARDS, VALUES, ranks=[i % 3 for i in range(24)]), name, loaded, **changes)


def test_a_baseline_under_the_filter_learns_and_refuses_what_a_lol_does(model, tokenizer, architecture, loaded):
    data = table(model, REWARDS, VALUES)
    policy = tiny_model(architecture, tokenizer)
    history, _ = run(policy, data, "nll", loaded, scores=(1.0, 2.0, 3.0), **FILTERED)
    assert np.isfinite(losses(history)).all()
    with pytest.raises(InputError, match="none of the 24 training examples has a positive advantage"):
        plan(table(model, VALUES, VALUES), "nll", loaded, **FILTERED)
    with pytest.raises(InputError, match="this algorithm needs rewards >= 0"):
        plan(table(model, np.linspace(-1, 1, 24), VALUES), "wbc", loaded, **FILTERED)


def test_train_on_preferred_takes_rank_0(model, loaded):
    data = table(model, REWARDS, VALUES, ranks=[i % 3 for i in range(24)])
    examples, _ = plan(data, "nll", loaded, train_on="preferred")
    assert len(examples) == 8


def test_negative_rewards_suit_a_lol_and_not_wbc(model, tokenizer, architecture, loaded):
    data = table(model, np.linspace(-3, 1, 24), np.full(24, -1.0))
    history, _ = run(tiny_model(architecture, tokenizer), data, "a_lol", loaded)
    assert np.isfinite(losses(history)).all()
    for name in ("wbc", "r_gold", "r_lol"):
        with pytest.raises(InputError, match=r"lowest is -3; raise reward\.shift by at least 3"):
            plan(data, name, loaded)


def test_no_positive_advantage_is_refused(model, loaded):
    with pytest.raises(InputError, match="none of the 24 training examples has a positive advantage"):
        plan(table(model, VALUES, VALUES), "a_lol", loaded)


NOTHING = (
    "all 24 training rewards are 0.5, so that they tell no example from another; check what the reward's components"
)


@pytest.mark.parametrize("name", sorted({*FROM_DATA} - {"nll", "dpo", "dpo_ref_free", "ipo", "simpo", "orpo"}))
def test_equal_rewards_are_said_to_be_equal(model, loaded, name):
    data = grouped(table(model, np.full(24, 0.5), VALUES, ranks=[i % 3 for i in range(24)]))
    _, drawn = plan(data, name, loaded)
    assert drawn.warning.startswith(NOTHING)
    assert plan(grouped(table(model, REWARDS, VALUES, ranks=[i % 3 for i in range(24)])), name, loaded)[1].warning == ""


@pytest.mark.parametrize("name", ["nll", "dpo"])
def test_what_reads_no_reward_takes_equal_ones(model, loaded, name):
    data = grouped(table(model, np.full(24, 0.5), VALUES, ranks=[i % 3 for i in range(24)]))
    assert plan(data, name, loaded)[1].warning == ""


@pytest.mark.parametrize(
    ("rewards", "values", "message"),
    [
        (np.full(24, 0.5), np.full(24, 0.6), "none of the 24 .* no reward is above V.x.; " + NOTHING),
        (np.full(24, 0.5), [0.4] + [0.6] * 23, r"batch_size is 8, which gives no update of 24 examples \(" + NOTHING),
        (
            [0.5] + [0.1] * 23,
            np.full(24, 0.4),
            r"no update of 24 examples \(only 1 of the 24 training rewards are above V\(x\), the others teach nothing; "
            r"check .*\); lower it, or raise updates",
        ),
        (
            [0.5] * 12 + [0.1] * 12,
            np.full(24, 0.4),
            r"no update of 24 examples, of which 12 have a reward above V\(x\); ",
        ),
    ],
)
def test_too_few_rewards_above_the_value_are_said_to_be_few(model, loaded, rewards, values, message):
    with pytest.raises(InputError, match=message):
        plan(table(model, rewards, values), "a_lol", loaded, updates=1)


def test_a_run_on_fewer_rewards_above_the_value_than_a_batch_has_is_warned_of(model, loaded):
    _, drawn = plan(table(model, [0.5] * 7 + [0.1] * 17, np.full(24, 0.4)), "a_lol", loaded, updates=400)
    assert drawn.warning.startswith("only 7 of the 24 training rewards are above V(x), the others teach nothing; check")
    assert len(drawn.draws) == 116
    _, drawn = plan(table(model, [0.5] * 7 + [0.0] * 17, np.full(24, 0.4)), "wbc", loaded)
    assert drawn.warning.startswith("only 7 of the 24 training rewards are above 0, the others teach nothing; check")
    for rewards in ([0.5] * 8 + [0.1] * 16, [0.5, 0.6, 0.7]):
        assert plan(table(model, rewards, np.full(len(rewards), 0.4)), "a_lol", loaded, updates=400)[1].warning == ""


def test_a_run_that_diverges_is_stopped(model, tokenizer, architecture, loaded):
    policy = tiny_model(architecture, tokenizer)
    with torch.no_grad():
        next(policy.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is nan at update 1"):
        run(policy, table(model, REWARDS, VALUES), "nll", loaded)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.0, 0.5, 1.0, 0.85355339, 0.5, 0.14644661]),
    ],
)
def test_learning_rates_by_hand(loaded, schedule, expected):
    settings = dataclasses.replace(loaded.train.optimizer, lr=1.0, schedule=schedule, warmup=2)
    optimizer = loop.make_optimizer(torch.nn.Linear(1, 1), settings)
    scheduler = loop.make_schedule(optimizer, settings, updates=6)
    rates = []
    for _ in range(6):
        rates += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, expected, atol=1e-8)
