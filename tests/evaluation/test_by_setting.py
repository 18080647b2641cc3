"""Gains by the value of a setting, by hand."""

from __future__ import annotations

import dataclasses

import pytest

from alol.base.errors import InputError
from alol.evaluation import by_setting, chosen, comparison_figures
from alol.evaluation.experiments import Run
from alol.evaluation.revisions import Basis

KEY = "source.corpus.options.bad_share"


def run(algorithm: str, seed: int, gain: float, **settings: str) -> Run:
    names = {"share": KEY, "noise": "source.corpus.options.label_noise"}
    summary = {"policy.all.reward": 0.5 + gain, "reference.all.reward": 0.5, "policy.all.quality": 0.1}
    metrics = {"policy.all.reward": 0.5 + gain}
    return Run("", algorithm, str(seed), {names[key]: value for key, value in settings.items()}, metrics, summary)


RUNS = [
    run("a_lol", 1, 0.1, noise="0.05"), run("a_lol", 2, 0.3, noise="0.05"),
    run("a_lol", 1, 0.4, noise="0.05", share="0.9"), run("a_lol", 1, 0.0, noise="0.05", share="0.25"),
    run("nll", 1, -0.1, noise="0.05", share="0.9"), run("nll", 1, 0.0, noise="0.05"),
    run("nll", 1, 0.7, noise="0.4"),  # another line, of one value
]  # fmt: skip


def test_lines_have_the_gain_at_each_value_and_those_of_one_value_are_left_out():
    found = by_setting.gains(RUNS, chosen.key(RUNS, "bad_share"), "reward")
    assert by_setting.cells(found, "+-") == [
        ["run", "null", "0.25", "0.9"],
        ["a_lol", "0.200 +- 0.141", "0.000", "0.400"],
        ["nll", "0.000", "", "-0.100"],
    ]
    picture = comparison_figures.by_setting(found, by_setting.values(found), "reward", KEY, "demo")
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_of_the_same_run_under_two_references_one_counts():
    other = dataclasses.replace(
        RUNS[0], basis=Basis("elsewhere", "test"), summary={**RUNS[0].summary, "policy.all.reward": 9.0}
    )
    many = [
        dataclasses.replace(one, name=name) for name, one in zip(("1", "11", "1", "", "", "", ""), RUNS, strict=True)
    ]
    assert by_setting.gains([other, *many], KEY, "reward") == by_setting.gains(RUNS, KEY, "reward")


def test_only_runs_that_meet_all_conditions_are_shown():
    other = dataclasses.replace(RUNS[0], basis=Basis("0123abcd", "test"))
    found = chosen.only([*RUNS, other], ["label_noise=0.05", "bad_share=null"])
    assert found == [RUNS[0], RUNS[1], RUNS[5], other]
    assert chosen.only([*RUNS, other], ["reference=0123"]) == [other]
    assert chosen.only([other, *RUNS], ["reference=0123", "test=tes"]) == [other]
    elsewhere = dataclasses.replace(RUNS[0], basis=Basis(other.basis.reference, "another"))
    assert chosen.only([other, elsewhere], ["test=anoth"]) == [elsewhere]
    assert chosen.only(RUNS, []) == RUNS
    known = {run.settings.get(KEY, "null") for run in RUNS}
    every = ",".join(sorted(known))
    assert len(known) > 1 and chosen.only(RUNS, [f"{KEY}={every}"]) == RUNS
    between = dataclasses.replace(RUNS[0], settings={"clean.where.stars": "[9, null]"})
    assert chosen.only([*RUNS, between], ["stars=[9.0,null]"]) == [between]
    for conditions, message in (
        (["bad_share"], "--only bad_share: write KEY=VALUE"),
        (["bad_share=[1"], "its values are not valid YAML"),
        (["shares=1"], "--only shares: none of these runs has set"),
        (["bad_share=7", "label_noise=0.05"], "no run meets bad_share=7 and label_noise=0.05"),
    ):
        with pytest.raises(InputError, match=message):
            chosen.only(RUNS, conditions)


def test_numbers_stand_by_size():
    assert by_setting.values({"x": {"10": [], "9": [], "word": [], "null": [], "1e-3": []}}) == [
        "null", "1e-3", "9", "10", "word",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("noises", "reward", "--by noises: none of these runs has set"),
        ("seed", "reward", "none of these runs"),
        ("bad_share", "quality", "has no 'quality' of both policy and reference"),
    ],
)
def test_what_cannot_be_shown_is_refused(name, metric, message):
    with pytest.raises(InputError, match=message):
        by_setting.gains(RUNS, chosen.key(RUNS, name), metric)


def test_an_end_that_two_keys_have_and_a_setting_that_never_varies_are_refused():
    two = [Run("", "nll", "1", {"train.lr": "1", "value.lr": "2"}, {"policy.all.reward": 1.0}, {})]
    with pytest.raises(InputError, match=r"--by lr may be train\.lr, value\.lr; name one of them"):
        chosen.key(two, "lr")
    nested = [dataclasses.replace(two[0], settings={"train.lr": "1", "rewards.good.train.lr": "1"})]
    assert chosen.key(nested, "train.lr") == "train.lr"
    with pytest.raises(InputError, match=r"no two of these runs differ in train\.lr"):
        by_setting.gains(two, "train.lr", "reward")
