"""Text metrics, intervals, p-values and the summary, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alol.base.errors import InputError
from alol.config import params, sections
from alol.evaluation import metrics, summary, summary_tables
from tests.reward_project import load

SIZES = {"bootstrap": 200, "permutations": 1000, "seed": 3, "samples": 2, "examples": 2, "points": 10}
OPTIONS = dataclasses.replace(params.load("demo").aggregate, **SIZES)
REWARD = sections.Reward(shift=1.0, weights={"good": 2.0, "short": -1.0}, raw="identity")


def row(prompt_id: str, subset: str, response: str, good: float = 0.0, short: float = 0.0) -> dict:
    shared = {"prompt_id": prompt_id, "subset": subset, "prompt": "p", "turns": [], "context": {}}
    return {**shared, "response": response, "reward_good": good, "reward_short": short}


def test_distinct_pools_the_texts_and_lowers_case():
    # tokens a b a | a b: 2 of 5 unigrams; bigrams ab ba | ab: 2 of 3; trigrams aba: 1 of 1
    assert [metrics.distinct(["a B a", "A b"], n) for n in (1, 2, 3)] == pytest.approx([2 / 5, 2 / 3, 1.0])


def test_distinct_of_no_ngram_is_zero():
    assert metrics.distinct(["", "one"], 2) == 0.0


def test_meteor_of_identical_words_misses_one_only_by_the_chunk_penalty():
    # precision and recall are 1, one chunk over three matches: 1 - 0.5 x (1/3)^3
    assert metrics.meteor_stem(["one two three"], ["one two three"]) == pytest.approx([1 - 0.5 / 27])


def test_meteor_matches_stems_but_not_synonyms():
    # "dogs ran" against "dog ran": both match, one chunk over two: 1 - 0.5 x (1/2)^3
    assert metrics.meteor_stem(["dogs ran"], ["dog ran"]) == pytest.approx([1 - 0.5 / 8])
    assert metrics.meteor_stem(["big"], ["large"]) == [0.0]


def test_meteor_of_an_empty_text_is_zero():
    assert metrics.meteor_stem(["", "a"], ["a", ""]) == [0.0, 0.0]


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_metric_of_every_task_is_a_finite_number_for_each_response(name):
    values = metrics.METRICS[name](["one two three", "", "x x"], ["one two", "y", ""])
    assert len(values) == 3
    assert all(np.isfinite(value) for value in values)
    assert metrics.METRICS[name]([], []) == []


def test_interval_of_constant_rewards_is_the_constant():
    assert metrics.bootstrap_interval([np.full(7, 0.5)], 100, 1) == pytest.approx((0.5, 0.5))


def test_interval_is_the_same_for_the_same_seed_and_surrounds_the_mean():
    values = np.arange(50.0)
    first = metrics.bootstrap_interval([values], 500, 1)
    assert first == metrics.bootstrap_interval([values], 500, 1) != metrics.bootstrap_interval([values], 500, 2)
    assert first[0] < values.mean() < first[1]


def test_interval_of_two_rewards_spans_both():
    # A quarter of the resamples holds the 0 twice, a quarter the 1: more than the 2.5 % cut off at each end.
    assert metrics.bootstrap_interval([np.array([0.0, 1.0])], 500, 1) == (0.0, 1.0)


def test_groups_are_resampled_by_themselves():
    # Each group is constant, so that the mean over groups cannot vary although the pooled rewards do.
    assert metrics.bootstrap_interval([np.zeros(3), np.ones(9)], 50, 1) == pytest.approx((0.5, 0.5))


def test_chunks_do_not_change_the_size_of_the_sample(monkeypatch):
    monkeypatch.setattr(metrics, "CHUNK", 25)
    assert list(metrics._chunks(10, 10)) == [2, 2, 2, 2, 2]
    assert metrics.bootstrap_interval([np.ones(10)], 11, 1) == pytest.approx((1.0, 1.0))
    assert metrics.sign_flip_p([np.ones(30)], 99, 1) == 1 / 100


def test_p_value_is_one_without_any_difference():
    assert metrics.sign_flip_p([np.zeros(5)], 1000, 1) == 1.0


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([1.0, 1.0, 1.0], 2 / 8),  # +++ and ---
        ([0.3, 0.3, 0.3, 0.3], 2 / 16),
        ([1.0, 2.0], 2 / 4),  # |sum| 3: ++ and --
        ([3.0, -1.0], 1.0),  # |sum| is 2 or 4: never below 2
        ([0.0, 1.0], 1.0),
    ],
)
def test_p_value_of_few_prompts_is_exact(differences, expected):
    assert metrics.sign_flip_p([np.array(differences)], 1000, 1) == expected


def test_drawn_p_value_is_one_where_one_prompt_alone_differs():
    assert metrics.sign_flip_p([np.array([0.7] + [0.0] * 199)], 999, 1) == 1.0


def test_drawn_p_value_is_the_same_for_the_same_seed():
    differences = np.random.default_rng(0).normal(0.1, 1, 80)
    several = [metrics.sign_flip_p([differences], 999, seed) for seed in (1, 2, 3)]
    assert several == [metrics.sign_flip_p([differences], 999, seed) for seed in (1, 2, 3)]
    assert len(set(several)) > 1


def test_p_value_of_equal_differences_on_many_prompts_is_the_smallest_possible():
    assert metrics.sign_flip_p([np.full(200, -0.1)], 999, 1) == 1 / 1000


def test_values_that_are_clusters_by_themselves_give_the_numbers_of_values_to_the_bit():
    values = np.random.default_rng(0).normal(0.1, 1, 40)
    groups = [values[:17], values[17:]]
    index = np.random.default_rng(5).integers(0, 40, (300, 40))  # what is drawn without clusters
    expected = np.percentile(values[index].mean(axis=1), [2.5, 97.5])
    own = [np.array([30, *range(16)]), np.arange(50, 73)]  # names of clusters, in whatever order
    assert metrics.bootstrap_interval([values], 300, 5) == tuple(expected)
    assert metrics.bootstrap_interval(groups, 300, 5, own) == metrics.bootstrap_interval(groups, 300, 5)
    assert metrics.sign_flip_p(groups, 300, 5, own) == metrics.sign_flip_p(groups, 300, 5) < 1


def test_a_prompt_that_stands_three_times_in_its_conversation_tells_no_more_than_once():
    values = np.random.default_rng(0).normal(0.2, 1, 30)
    names = np.repeat(np.arange(30), 3)
    once, thrice = [values], [np.repeat(values, 3)]
    low, high = metrics.bootstrap_interval(once, 400, 1)
    assert metrics.bootstrap_interval(thrice, 400, 1, [names]) == pytest.approx((low, high))
    assert metrics.sign_flip_p(thrice, 400, 1, [names]) == metrics.sign_flip_p(once, 400, 1)
    pretended = metrics.bootstrap_interval(thrice, 400, 1)
    assert pretended[1] - pretended[0] < 0.7 * (high - low)


def test_conversations_of_unequal_length_count_by_their_prompts():
    # clusters (1, 1, 1) and (0): both drawn twice, or each once: means 1, 0 or 3/4
    assert metrics.bootstrap_interval([np.array([1.0, 1, 1, 0])], 500, 1, [np.array([0, 0, 0, 1])]) == (0.0, 1.0)
    found = {
        metrics.bootstrap_interval([np.array([1.0, 1, 1, 0])], 1, s, [np.array([0, 0, 0, 1])])[0] for s in range(30)
    }
    assert found == {0.0, 0.75, 1.0}


def test_differences_of_a_conversation_share_a_sign():
    # sums 3 and 1, as |+-3 +-1| = 4 or 2: half reach 4; of the four differences by themselves 2 of 16 would
    differences, names = np.array([1.0, 2.0, 0.5, 0.5]), np.array([7, 7, 3, 3])
    assert metrics.sign_flip_p([differences], 1000, 1, [names]) == 0.5
    assert metrics.sign_flip_p([differences], 1000, 1) == 0.125
    # in two subsets, of which each counts alike: 1/2 and 2/2 of one conversation, 0.5/2 and 0.5/2 of another
    halves = [differences[[0, 2]], differences[[1, 3]]]
    assert metrics.sign_flip_p(halves, 1000, 1, [names[[0, 2]], names[[1, 3]]]) == 0.5
    # what cancels within a conversation leaves nothing to flip
    assert metrics.sign_flip_p([np.array([0.1, -0.1])], 1000, 1, [np.array([0, 0])]) == 1.0


def test_the_summary_resamples_conversations_and_says_so():
    def measured(groups: list[str | None]) -> dict[str, summary.Measured]:
        rows = [row(str(i), "a", "x", good=good) for i, good in enumerate((1.0, 1.0, 0.0, 0.0))]
        for one, group in zip(rows, groups, strict=True):
            one["context"] = {} if group is None else {"group": group}
        reference = [{**one, "reward_good": 0.25} for one in rows]
        tables = {"gold": rows, "reference": reference, "policy": rows}
        return {name: summary.measure(table, rows, REWARD, {}) for name, table in tables.items()}

    apart, together = measured([None, "b", "c", None]), measured(["x", "x", "y", "y"])
    found = [summary.summarise(["a"] * 4, models, OPTIONS) for models in (apart, together)]
    # rewards 1 + 2 x good: two conversations of 3 and 1, of which both, or either twice, are drawn
    assert (found[1]["policy"]["all"]["reward_low"], found[1]["policy"]["all"]["reward_high"]) == (1.0, 3.0)
    # differences 1.5, 1.5, -0.5, -0.5: of |+-3 +-1| all reach their sum 2; alone, where the first two agree: 8 of 16
    assert found[1]["delta"]["all"] == {"reward": 0.5, "reward_low": -0.5, "reward_high": 1.5, "p_value": 1.0}
    assert found[0]["delta"]["all"] == {"reward": 0.5, "reward_low": -0.5, "reward_high": 1.5, "p_value": 0.5}
    assert [summary_tables.resampled(models["policy"].conversations) for models in (apart, together)] == [
        "prompts", "conversations"
    ]  # fmt: skip


def test_percentiles_of_eleven_numbers():
    assert metrics.percentiles(np.arange(11.0)) == pytest.approx([0, 1, 2.5, 5, 7.5, 9, 10])


def toy_models() -> tuple[list[str], dict[str, summary.Measured]]:
    """Two prompts of subset a, one of subset b. Rewards of the policy: 1 + 2 x good - short = 3, 1, 2."""
    ids = (("1", "a"), ("2", "a"), ("3", "b"))
    gold = [row(*i, response) for i, response in zip(ids, ("one two three", "x", "y z"), strict=True)]
    reference = [row(*i, "u v") for i in ids]  # rewards 1, 1, 1
    scores = (("one two three", 1.0, 0.0), ("x x", 0.5, 1.0), ("q", 0.5, 0.0))
    policy = [row(*i, *score) for i, score in zip(ids, scores, strict=True)]
    vowels = {"quality": lambda prompts, responses, contexts: [float(len(r)) for r in responses]}
    tables = {"gold": gold, "reference": reference, "policy": policy}
    summary.check_aligned(tables)
    measured = {name: summary.measure(rows, gold, REWARD, vowels) for name, rows in tables.items()}
    return ["a", "a", "b"], measured


def test_summary_has_every_split_and_metric():
    result = summary.summarise(*toy_models(), OPTIONS)
    assert list(result) == ["gold", "reference", "policy", "delta"]
    assert {name: set(splits) for name, splits in result.items()} == {
        name: {"a", "b", "all", "macro"} for name in result
    }
    rewards = {"reward", "reward_low", "reward_high", "reward_good", "reward_short"}
    texts = {*metrics.METRICS, "distinct_1", "distinct_2", "distinct_3", "quality"}
    assert {frozenset(values) for name in summary.MODELS for values in result[name].values()} == {
        frozenset(rewards | texts)
    }


def test_pooled_counts_prompts_and_macro_counts_subsets():
    policy = summary.summarise(*toy_models(), OPTIONS)["policy"]
    assert {name: values["reward"] for name, values in policy.items()} == {"a": 2.0, "b": 2.0, "all": 2.0, "macro": 2.0}
    assert policy["all"]["reward_good"] == pytest.approx(2 / 3, abs=1e-6)
    assert policy["macro"]["reward_good"] == pytest.approx((0.75 + 0.5) / 2)
    assert policy["all"]["length"] == 2.0  # (3 + 2 + 1) / 3
    assert policy["macro"]["length"] == 1.75  # ((3 + 2) / 2 + 1) / 2
    assert policy["all"]["quality"] == pytest.approx(17 / 3, abs=1e-4)
    assert policy["all"]["distinct_1"] == pytest.approx(5 / 6, abs=1e-6)
    assert policy["macro"]["distinct_1"] == pytest.approx((4 / 5 + 1) / 2)
    # "one two three" scores 1 - 0.5 / 27; "x x" has precision 1/2, recall 1: F = 0.5 / (0.9 x 0.5 + 0.1 x 1), half of
    # which is lost to the penalty of one chunk over one match; "q" matches nothing.
    assert policy["all"]["meteor_stem"] == pytest.approx((1 - 0.5 / 27 + 0.5 * 0.5 / 0.55) / 3, rel=1e-4)


def test_delta_is_policy_less_reference_with_its_p_value():
    delta = summary.summarise(*toy_models(), OPTIONS)["delta"]
    # differences 2, 0 | 1: pooled mean 1, of |+-2 +-1| 3 or 1, half reach 3
    assert delta["all"] == {"reward": 1.0, "reward_low": 0.0, "reward_high": 2.0, "p_value": 0.5}
    assert delta["b"] == {"reward": 1.0, "reward_low": 1.0, "reward_high": 1.0, "p_value": 1.0}
    assert delta["macro"]["reward"] == 1.0


def test_one_subset_stands_under_all_and_nowhere_else():
    assert {name: [rows.tolist() for rows in groups] for name, groups in summary.splits(["demo", "demo"]).items()} == {
        "all": [[0, 1]]
    }
    assert summary.splits(["all"])["all"][0].tolist() == [0]  # whatever it is called
    subsets, measured = toy_models()
    one = summary.summarise(["demo"] * 3, measured, OPTIONS)
    several = summary.summarise(subsets, measured, OPTIONS)
    assert all(set(splits) == {"all"} for splits in one.values())
    assert {name: splits["all"] for name, splits in one.items()} == {n: splits["all"] for n, splits in several.items()}


def test_subsets_called_like_a_split_are_refused():
    with pytest.raises(InputError, match="'all' or 'macro'"):
        summary.splits(["all", "other"])


@pytest.mark.parametrize(("gold", "success", "chosen"), [
    ("preferred", "reward", ["a", "c"]), ("best", "reward", ["b", "c"]), ("best", "reward_short", ["a", "d"]),
])  # fmt: skip
def test_gold_is_the_preferred_response_or_the_best(tmp_path, gold, success, chosen):
    given = load(
        tmp_path, {name: {"kind": "python", "function": "custom.example.concise"} for name in ("good", "short")},
        reward={"weights": {"good": 2.0, "short": -1.0}}, train={"success": success}, aggregate={"gold": gold},
    )  # fmt: skip
    scores = {"a": ("1", 0, 0.5, 0.25), "b": ("1", 1, 0.75, 0.0), "c": ("2", 0, 1.0, 0.0), "d": ("2", 1, 1.0, 0.5)}
    rows = [
        {"prompt_id": prompt, "rank": rank, "response": text, "reward_good": good, "reward_short": short}
        for text, (prompt, rank, good, short) in scores.items()
    ]
    assert [row["response"] for row in summary.gold_rows(rows, given)] == chosen


def test_validation_has_the_metrics_without_intervals_and_spreads():
    measured = summary.Measured(["a b", "a"], {"reward": np.array([1.0, 2.0]), "q": np.array([0.0, 0.5])}, ("q",))
    found = summary.validation({"gold": measured})["gold"]
    assert found == {
        "reward": 1.5, "q": 0.25, "q_std": 0.25, "distinct_1": 0.666667, "distinct_2": 1.0, "distinct_3": 0.0
    }  # fmt: skip


def test_best_and_worst_checkpoint_are_the_first_of_equals_after_the_start():
    points = [(0, 9.0), (5, 0.5), (10, 0.25), (15, 0.5), (20, 0.25)]
    history = [{"update": update, "reward": value, "epoch": update / 20} for update, value in points]
    assert summary.checkpoints(history) == {
        "best": {"update": 5, "epoch": 0.25, "value": 0.5},
        "worst": {"update": 10, "epoch": 0.5, "value": 0.25},
    }
    assert summary.checkpoints(history[:1]) == {}


def test_the_filter_is_measured_against_the_human_label():
    good, advantage = np.array([1, 1, 1, 0, 0]) > 0, np.array([0.5, 0.25, -1.0, 0.125, 0.0])
    assert summary.filtered(good, advantage) == {"precision": 0.666667, "recall": 0.666667, "base_rate": 0.6}
    assert summary.filtered(good, -np.ones(5)) == {"precision": 0.0, "recall": 0.0, "base_rate": 0.6}


def test_tables_of_different_prompts_are_refused_by_name():
    gold, other = [row("1", "a", "x"), row("2", "a", "x")], [row("1", "a", "x"), row("7", "a", "x")]
    with pytest.raises(InputError, match=r"policy: row 1 is prompt '7' but '2' in gold"):
        summary.check_aligned({"gold": gold, "policy": other})
    with pytest.raises(InputError, match="policy has 1 rows but gold has 2"):
        summary.check_aligned({"gold": gold, "policy": other[:1]})
    with pytest.raises(InputError, match="gold holds no test row"):
        summary.check_aligned({"gold": [], "policy": []})


def test_a_reward_that_is_not_a_number_is_refused_with_its_prompt():
    rows = [row("1", "a", "x"), row("2", "a", "x", good=float("nan"))]
    with pytest.raises(InputError, match="prompt '2'"):
        summary.measure(rows, rows, REWARD, {})


def test_numbers_have_six_digits_and_are_finite():
    assert summary.number(0.123456789) == 0.123457
    with pytest.raises(InputError):
        summary.number(float("nan"))


def test_results_have_one_row_per_model_and_split_and_terminal_columns_line_up():
    result = summary.summarise(*toy_models(), OPTIONS)
    rows = summary_tables.tidy(result, {"task": "toy"})
    assert len(rows) == 3 * 4
    assert [r["delta"] for r in rows if r["split"] == "all"] == [None, None, 1.0]
    lines = summary_tables.terminal_table(result).splitlines()
    assert len(lines) == 2 + 4 * 3
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:5] == ["split", "model", "reward", "95", "%"]


def test_one_subset_of_an_earlier_version_is_shown_once():
    assert summary_tables.split_names({"policy": dict.fromkeys(["demo", "all", "macro"])}) == ["all"]
