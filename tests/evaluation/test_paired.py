"""Runs compared prompt by prompt: by hand, with conversations, and out of result files."""

from __future__ import annotations

import dataclasses

import pytest

from alol.base.errors import InputError
from alol.config import params
from alol.evaluation import comparison, experiments, paired
from alol.evaluation.paired import Prompts
from alol.evaluation.revisions import UNKNOWN, Basis
from tests.evaluation.test_experiments import collect, made, revision, row

OPTIONS = params.load("demo").aggregate
FIRST = Prompts(policy=[1.0, 2.0, 3.0], reference=[1.0, 1.0, 2.0], conversation=[0, 1, 2])
SECOND = Prompts(policy=[3.0, 2.0, 1.0], reference=[1.0, 1.0, 2.0], conversation=[0, 1, 2])
OTHER = Prompts(policy=[0.0, 2.0, 2.0], reference=[1.0, 1.0, 2.0], conversation=[0, 1, 2])


def test_of_several_seeds_a_prompt_has_its_mean():
    found = paired.over_reference([FIRST, SECOND], OPTIONS)  # 2, 2, 2 less 1, 1, 2: 1, 1, 0
    assert found.mean == pytest.approx(2 / 3)
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.p_value == 0.5  # of the 8 combinations of signs, those where both ones agree


def test_a_conversation_keeps_its_sign():
    both = [{**run, "conversation": [0, 0, 1]} for run in (FIRST, SECOND)]
    assert paired.over_reference(both, OPTIONS).p_value == 1.0


def test_a_group_is_compared_with_another():
    found = paired.over([FIRST, SECOND], [OTHER], OPTIONS)  # 2, 2, 2 less 0, 2, 2
    assert (found.mean, found.p_value) == (pytest.approx(2 / 3), 1.0)
    assert paired.over([OTHER], [FIRST, SECOND], OPTIONS).mean == pytest.approx(-2 / 3)


def test_the_smallest_p_value_is_multiplied_by_all_the_next_by_one_less():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 (not below the one before), 0.9 x 1
    assert paired.holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert paired.holm([0.5, 0.6]) == [1.0, 1.0]
    assert paired.holm([]) == []


def test_every_two_runs_are_compared_and_what_is_shown_is_counted():
    """60 prompts, of which `best` is always 1 better than `low` and, in turn, better and worse than `other`."""
    wave = [float(i % 2) for i in range(60)]
    rewards = {"low": [-1.0] * 60, "best": [0.0 + i % 2 for i in range(60)], "other": [1.0 - one for one in wave]}
    groups = [
        (name, [Prompts(policy=values, reference=[0.0] * 60, conversation=list(range(60)))])
        for name, values in rewards.items()
    ]
    compared = paired.every_pair(groups, OPTIONS)
    assert [(one.first, one.second) for one in compared] == [("low", "best"), ("low", "other"), ("best", "other")]
    assert [one.difference.mean for one in compared] == [-1.5, -1.5, 0.0]
    # 1 / 10,001 of the first two, times 3 and 2 but not below the first; the last is 1
    assert [one.corrected for one in compared] == pytest.approx([3 / 10_001, 3 / 10_001, 1.0])
    assert paired.tally(compared) == [
        ["run", "better than", "worse than", "not shown"],
        ["best", "1", "0", "1"],
        ["other", "1", "0", "1"],
        ["low", "0", "2", "0"],
    ]
    labels, differences, shown = paired.matrix(compared)
    assert labels == ["best", "other", "low"]
    assert differences.tolist() == [[0, 0, 1.5], [0, 0, 1.5], [-1.5, -1.5, 0]]
    assert shown.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_the_table_leaves_a_group_against_itself_empty():
    groups = [("a_lol", [FIRST, SECOND]), ("nll", [OTHER])]
    assert paired.lines(groups, ["nll"], OPTIONS) == [
        ["run", "seeds", "over the reference", "over nll"],
        ["a_lol", "2", "+0.667 [+0.000, +1.000], p = 0.500", "+0.667 [+0.000, +2.000], p = 1.000"],
        ["nll", "1", "+0.000 [-1.000, +1.000], p = 1.000", ""],
    ]
    assert paired.lines([], [], OPTIONS) == []


def test_a_page_has_the_table_of_the_runs_whose_rewards_are_known():
    runs = [dataclasses.replace(one, prompts=FIRST) for one in made(row("a"), a=("ref1", "test"))]
    sections = comparison.with_pairs(comparison.sections(runs, []), [], OPTIONS)
    assert "| a_lol | 1 | +0.667 [+0.000, +1.000], p = 0.500 |" in comparison.markdown(sections, "demo", 0)
    with pytest.raises(InputError, match=r"in --against: 'wbc'; known: \"a_lol\""):
        comparison.with_pairs(sections, ["wbc"], OPTIONS)
    elsewhere = [dataclasses.replace(runs[0], basis=UNKNOWN), dataclasses.replace(runs[0], basis=UNKNOWN, seed="2")]
    elsewhere[1] = dataclasses.replace(elsewhere[1], prompts={**FIRST, "policy": [1.0]})  # of other prompts, perhaps
    assert comparison.with_pairs(comparison.sections(elsewhere, []), [], OPTIONS)[0].pairs == []
    unknown = comparison.sections(made(row("a"), a=("ref1", "test")), [])
    with pytest.raises(InputError, match=r"--against compares runs that `python -m stages\.sweep` has left"):
        comparison.with_pairs(unknown, ["nll"], OPTIONS)
    assert comparison.BY_PROMPT not in comparison.markdown(comparison.with_pairs(unknown, [], OPTIONS), "demo", 0)


def test_an_algorithm_alone_names_its_only_run():
    rows = row("a"), row("b"), row("c", algorithm="nll")
    of = {"b": revision(algorithms__a_lol__clip=0.5)}
    runs = [dataclasses.replace(one, prompts=FIRST, basis=Basis("r", "t")) for one in collect(*rows, of=of)[0]]
    sections = comparison.sections(runs, [])
    (found,) = comparison.with_pairs(sections, ["nll", "a_lol clip=0.5"], OPTIONS)
    assert found.pairs[0] == ["run", "seeds", "over the reference", "over nll", "over a_lol clip=0.5"]
    with pytest.raises(InputError, match=r"'a_lol'; known: \"a_lol clip=0.5\", \"a_lol clip=0.9\", \"nll\""):
        comparison.with_pairs(sections, ["a_lol"], OPTIONS)


def test_rewards_of_another_number_of_prompts_are_refused():
    with pytest.raises(InputError, match="not of one length"):
        paired.checked({**FIRST, "reference": [1.0]})


def test_a_run_of_dvc_takes_the_rewards_of_its_file():
    (run,) = made(row("a"), a=("ref1", "test"))
    file = dataclasses.replace(run, name="a_lol-1-abc", prompts=FIRST)
    assert [one.prompts for one in experiments.together([run], [file])[0]] == [FIRST]
    unknown = dataclasses.replace(run, basis=experiments.UNKNOWN)
    assert [one.prompts for one in experiments.together([unknown], [file])[0]] == [FIRST]
    differs = dataclasses.replace(file, metrics={**file.metrics, "policy.all.reward": 0.9})
    assert [one.prompts for one in experiments.together([run], [differs])[0]] == [None]
