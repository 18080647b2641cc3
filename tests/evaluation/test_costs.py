"""What runs took, by hand."""

from __future__ import annotations

from alol.evaluation import costs
from alol.evaluation.experiments import Group, Run


def run(gain: float, settings: dict[str, str], **seconds: float) -> Run:
    metrics = {"policy.all.reward": 1.0, "delta.all.reward": gain}
    return Run("", "", "", settings, metrics, {}, cost={stage: {"seconds": one} for stage, one in seconds.items()})


def test_a_run_has_its_own_seconds_and_those_of_who_made_what_it_shares():
    plain, sampled = {"train.epochs": "1"}, {"generate.rollout.train_samples": "4"}
    groups = [
        Group("a_lol", {}, [run(0.2, plain, train=10, evaluate=4, advantage=7), run(0.4, plain, train=20, evaluate=6)]),
        Group("nll", {}, [run(0.1, {"train.epochs": "2"}, train=50)]),
        Group("qrpo", {}, [run(0.3, sampled, train=5, rollout=90)]),
    ]
    rows = costs.table(groups)
    assert [list(row.values()) for row in rows] == [
        ["a_lol", 0.30000000000000004, None, 7, 15, 5],
        ["nll", 0.1, None, 7, 50, None],
        ["qrpo", 0.3, 90, None, 5, None],
    ]
    assert costs.cells(rows)[:2] == [
        ["run", "gain", "rollout, s", "advantage, s", "train, s", "evaluate, s"],
        ["a_lol", "0.300", "", "7", "15", "5"],
    ]


def test_runs_that_kept_no_time_have_no_table():
    assert costs.table([Group("a_lol", {}, [run(0.2, {})])]) == []
