"""Comparison of runs: which versions of a project count, how they are grouped and named, and the command for real."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from alol.base.errors import InputError
from alol.evaluation import (
    comparison,
    comparison_figures,
    comparison_points,
    experiments,
    known_runs,
    published_columns,
    results,
    revisions,
)
from alol.evaluation.comparison_figures import Line, Panel
from alol.evaluation.experiments import LeftOut, Unusable
from benchmarks import project
from stages import compare as command


def row(name: str, reward: float | str | None = 0.5, **changes: object) -> dict[str, object]:
    """A row of `experiments.collect`; `changes` use __ for the dots of keys."""
    base: dict[str, object] = {
        "name": name,
        "rev": name,
        "date": "2026-01-02",
        "state": None,
        "task": "demo",
        "algorithm": "a_lol",
        "seed": 1.0,
        "policy.all.reward": reward,
        "policy.all.reward_low": 0.1,
        "policy.all.reward_good": reward,
        "policy.all.length": 12.0,
        "reference.all.reward": 0.25,
        "delta.all.reward": 0.25,
        "value_mse": 0.125,
        "discarded": 0.5,
    }
    return base | {key.replace("__", "."): value for key, value in changes.items()}


PROJECT = project.parameters("demo")


def contents(name: str = "demo", **changes: object) -> dict[str, bytes]:
    """The YAML files of the project with leaves set by their dotted keys, as `project.parameters` has them."""
    raw = copy.deepcopy(PROJECT)
    raw["tasks"][name], raw["task"] = raw["tasks"]["demo"], name
    project.change(raw, {key.replace("__", "."): value for key, value in changes.items()})
    return {file: json.dumps(table).encode() for file, table in project.files(raw).items()}  # JSON is YAML


def revision(task: str = "demo", **changes: object) -> revisions.Revision:
    found = revisions.revision(contents(task, **changes), task)
    assert isinstance(found, revisions.Revision), found
    return found


def collect(*rows: dict[str, object], of: dict[str, object] | None = None, task: str = "demo"):
    """`of`: the revision of a row by its `rev`, where it is not that of the project."""
    usual = {str(row["rev"]): revision(task, algorithm=row["algorithm"]) for row in rows}
    runs, left_out = experiments.collect(rows, task, usual | (of or {}))
    return runs, [(one.name, one.reason) for one in left_out]


def test_a_run_that_appears_three_times_counts_once():
    runs, left_out = collect(row("workspace"), row("main", seed="1"), row("exp-a"))
    assert [run.name for run in runs] == ["workspace"]
    same = "same parameters and seed as workspace"
    assert left_out == [("main", same), ("exp-a", same)]


def test_a_repetition_with_other_results_is_said_to_be_one():
    _, left_out = collect(row("a", 0.5), row("b", 0.75))
    assert left_out[0][1].startswith("same parameters and seed as a, with other results")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": "queued", "policy__all__reward": None}, "queued"),
        ({"state": "failed", "policy__all__reward": None}, "failed"),
        ({"policy__all__reward": None}, "no metrics/summary.json"),
        ({"task": "hha"}, "task hha"),
        ({"task": None}, "it names no task"),
    ],
)
def test_rows_that_cannot_be_compared_are_named_with_the_reason(changes, reason):
    assert collect(row("x", **changes)) == ([], [("x", reason)])


def test_rows_whose_metrics_are_of_other_parameters_are_left_out():
    runs, left_out = collect(row("x"), row("y", seed=2), of={"y": Unusable("of old ones", "old")})
    assert [run.name for run in runs] == ["x"]
    assert left_out == [("y", "old")]


def test_seeds_of_one_setting_are_one_group_with_mean_and_deviation():
    groups = experiments.group(collect(row("a", 0.5), row("b", 0.75, seed=2), row("c", 1.0, seed=10))[0])
    assert len(groups) == 1
    assert groups[0].label == "a_lol"
    (line,) = comparison.csv_rows(groups)
    assert line["seeds"] == 3 and line["seed_list"] == "1 2 10"
    assert line["policy.all.reward_mean"] == 0.75
    assert line["policy.all.reward_std"] == 0.25  # sample deviation of 0.5, 0.75, 1
    assert line["value_mse_mean"] == 0.125


def test_one_seed_has_no_deviation():
    (line,) = comparison.csv_rows(experiments.group(collect(row("a"))[0]))
    assert line["policy.all.reward_std"] is None


def compared(**changes: object) -> bool:
    """Whether a run with other parameters counts as another run."""
    runs, _ = collect(row("a"), row("b"), of={"b": revision(**changes)})
    return len(runs) == 2


@pytest.mark.parametrize(
    ("changes", "matters"),
    [
        ({"launch__processes": 2}, False),
        ({"judge__rows": 9}, False),
        ({"tasks__demo__aggregate__samples": 1}, False),
        ({"algorithms__r_lol__clip": 0.1}, False),
        ({"algorithms__a_lol__clip": 0.1}, True),
        ({"defaults__train__epochs": 7}, False),  # which the task overrides
        ({"tasks__demo__train__epochs": 7}, True),
        ({"defaults__train__sampling": "uniform"}, True),
        ({"defaults__train__filter": "positive"}, True),
        ({"defaults__rewards__kinds__critic__max_length": 9}, False),
        ({"defaults__rewards__kinds__classifier__label": 0}, True),
        ({"defaults__rewards__training__layers": 1}, True),
        ({"defaults__rewards__training__width": 32}, False),  # which the component overrides
        ({"defaults__clean__formats__hha__drop_colon": False}, False),
        ({"tasks__demo__source__corpus__options__seed": 2}, True),
    ],
)
def test_what_a_run_learns_from_matters_and_nothing_else(changes, matters):
    assert compared(**changes) == matters


def test_labels_say_what_differs_under_the_shortest_clear_name():
    of = {
        "b": revision(algorithms__a_lol__clip=0.5),
        "c": revision(algorithm="nll", tasks__demo__train__epochs=4),
        "d": revision(
            algorithm="nll",
            tasks__demo__train__epochs=None,
            tasks__demo__train__updates=8,
            tasks__demo__value__epochs=2,
        ),
    }
    rows = [row("a", 0.9), row("b", 0.8), row("c", 0.7, algorithm="nll"), row("d", 0.6, algorithm="nll")]
    runs, _ = collect(*rows, of=of)
    assert [group.label for group in experiments.group(runs)] == [
        "a_lol clip=0.9 train.epochs=0.3 value.epochs=8",
        "a_lol clip=0.5 train.epochs=0.3 value.epochs=8",
        "nll train.epochs=4 value.epochs=8",
        "nll updates=8 value.epochs=2",
    ]


def test_parameters_that_this_version_cannot_read_are_named_by_their_kind():
    old = {"params.yaml": b"task: demo\ndefaults: {}\ntasks: {}\n", "tasks/defaults.yaml": None}
    assert revisions.revision(old, "demo") == "params.yaml is of an older layout"
    without = contents()
    del without["tasks/demo.yaml"]
    assert revisions.revision(without, "demo") == "it has no tasks/demo.yaml"
    other = "its parameters are of another version of the project, with other keys"
    assert revisions.revision(contents(tasks__demo__train__nope=1), "demo") == other
    assert revisions.revision({**contents(), "params.yaml": b"task: [1"}, "demo") == other


LOCKED = b"""
stages:
  evaluate:
    deps:
    - {path: data/clean/demo/test.parquet, md5: aaa}
    - {path: data/annotated/demo/settings.json, md5: bbb}
    - {path: models/demo/reward_model, md5: ccc.dir}
    - {path: custom, md5: ddd.dir}
  reference:
    outs: [{path: models/demo/reference, md5: 0123456789.dir}]
"""


@pytest.mark.parametrize(
    ("lock", "changes", "same"),
    [
        (LOCKED, {"seed": 2, "algorithm": "nll", "tasks__demo__train__epochs": 4}, True),
        (LOCKED.replace(b"aaa", b"other"), {}, False),
        (LOCKED.replace(b"bbb", b"other"), {}, False),
        (LOCKED.replace(b"ccc", b"other"), {}, False),
        (LOCKED.replace(b"ddd", b"other"), {}, False),  # the demo has a reward in Python
        (LOCKED, {"tasks__demo__reward__shift": 0.5}, False),
        (LOCKED, {"tasks__demo__reward__weights__concise": 0.5}, False),
    ],
)
def test_what_scores_the_test_responses_is_part_of_the_basis(lock, changes, same):
    first = revisions.basis(LOCKED, revision().params)
    other = revisions.basis(lock, revision(**changes).params)
    assert first.reference == other.reference == "0123456789.dir"
    assert (first.test == other.test) == same


def test_what_a_lock_does_not_say_is_not_known():
    assert revisions.basis(None, revision().params) == revisions.Basis(None, None)
    without = revisions.basis(LOCKED.replace(b"custom", b"x"), revision().params)
    assert without == revisions.Basis("0123456789.dir", None)
    assert without.label == "reference 01234567, test set and rewards not known"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1", "1"),
        ([9.0, None], "[9, null]"),
        ([0.9, 0.999], "[0.9, 0.999]"),
        ([[0], [1]], "[[0], [1]]"),
        (["a", 1], "['a', 1]"),
        ([True], "[True]"),
    ],
)
def test_a_value_has_one_notation(value, text):
    assert revisions.text(value) == text


def made(*rows: dict[str, object], **basis: tuple[str, str]) -> list[experiments.Run]:
    """Runs, each with the Basis that is given under its name."""
    runs, _ = collect(*rows)
    return [dataclasses.replace(run, basis=revisions.Basis(*basis[run.name])) for run in runs]


def test_runs_of_different_references_get_a_heading_each():
    rows = [row("a", 0.5), row("b", 0.75, algorithm="nll"), row("c", 0.25, algorithm="wbc")]
    runs = made(*rows, a=("ref1", "test"), b=("ref2", "test"), c=("ref1", "test"))
    first, second = comparison.sections(runs, [])
    assert [group.label for group in first.groups] == ["a_lol [ref1-test]", "wbc [ref1-test]"]
    assert [group.label for group in second.groups] == ["nll [ref2-test]"]
    assert (first.title, second.title) == (
        "Reference ref1, test set and rewards test",
        "Reference ref2, test set and rewards test",
    )
    assert (first.suffix, second.suffix) == ("", "_ref2-test")
    assert "ref2" in second.note
    text = comparison.markdown([first, second], "demo", [])
    assert comparison.APART in text and "## Reference ref1" in text and "(compare_demo_ref2-test.png)" in text
    found = comparison.csv_rows([*first.groups, *second.groups])
    assert [one["reference"] for one in found] == ["ref1", "ref1", "ref2"]


def test_runs_of_one_reference_have_no_heading():
    runs = made(row("a", 0.5), row("b", 0.75, algorithm="nll"), a=("ref1", "test"), b=("ref1", "test"))
    (only,) = comparison.sections(runs, [])
    assert [group.label for group in only.groups] == ["nll", "a_lol"]
    assert (only.suffix, only.note) == ("", "")
    assert "##" not in comparison.markdown([only], "demo", [])


def test_a_heading_says_which_settings_made_the_references_differ():
    other = revision(tasks__demo__reference__seed=9)
    runs, _ = collect(row("a"), row("b"), of={"b": other})
    bases = {"a": "ref1", "b": "ref2"}
    runs = [dataclasses.replace(run, basis=revisions.Basis(bases[run.name], "test")) for run in runs]
    titles = [one.title for one in comparison.sections(runs, [])]
    assert titles[1] == "Reference ref2, test set and rewards test (seed=9)"


def test_a_checkpoint_stands_beside_the_runs_of_its_reference():
    rows = [row("a", reference__all__reward=0.25), row("b", algorithm="nll", reference__all__reward=0.375)]
    runs = made(*rows, a=("ref1", "t"), b=("ref2", "t"))
    for reference, places in (
        (0.375, [["a_lol [ref1-t]"], ["nll [ref2-t]", "x [ref2-t]"]]),
        (0.9, [["a_lol [ref1-t]"], ["nll [ref2-t]"], ["x [unknown-unknown]"]]),
    ):
        of = {"policy": {"all": {"reward": 0.1}}, "reference": {"all": {"reward": reference}}}
        found = comparison.sections(runs, [experiments.checkpoint("x", of)])
        assert [[group.label for group in one.groups] for one in found] == places


def test_a_run_that_dvc_and_a_file_know_counts_once():
    (run,) = made(row("a"), a=("ref1", "test"))
    file = dataclasses.replace(run, name="a_lol-1-abc")
    same = LeftOut("a_lol-1-abc", experiments.REPEATED, "same parameters and seed as a")
    assert experiments.together([run], [file]) == ([run], [same])
    other = dataclasses.replace(file, metrics={**file.metrics, "policy.all.reward": 0.9})
    (different,) = experiments.together([run], [other])[1]
    assert different.kind == "repeated with other results" and "with other results" in different.reason
    elsewhere = dataclasses.replace(file, basis=revisions.Basis("ref2", "test"))
    assert experiments.together([run], [elsewhere]) == ([run, elsewhere], [])
    unknown = dataclasses.replace(run, basis=revisions.Basis())
    assert experiments.together([unknown], [file])[0] == [unknown]


def test_the_frontier_has_a_line_for_each_algorithm_by_its_distance():
    distances = {"a": 0.5, "b": 0.25, "c": 0.125, "e": 0.75, "f": 0.375, "g": 0.0625}
    rows = [row(name, 0.5, policy__all__kl_per_token=x) for name, x in distances.items()]
    rows[2]["algorithm"] = "nll"
    of = {"b": revision(algorithms__a_lol__clip=0.5), "e": revision(algorithms__a_lol__clip=0.2)}
    smaller = {"tasks__demo__train__batch_size": 8}
    of |= {
        "c": revision(algorithm="nll", **smaller),
        "f": revision(**smaller),
        "g": revision(tasks__demo__train__filter="none"),
    }
    runs, _ = collect(*rows, row("d", algorithm="wbc"), of=of)
    groups = experiments.group(runs)
    found = comparison_points.frontier(groups)
    assert {name: [(one.x, one.label, one.joined) for one in points] for name, points in found.items()} == {
        "a_lol": [
            (0.25, "clip=0.5", True), (0.375, "batch_size=8", False), (0.5, "clip=0.9", True), (0.75, "clip=0.2", True)
        ],
        "a_lol filter=none": [(0.0625, "", True)],
        "nll": [(0.125, "batch_size=8", True)],
    }  # fmt: skip
    assert comparison_points.reference(groups) == 0.25
    assert comparison_figures.frontier(found, 0.25, "demo").startswith(b"\x89PNG")
    assert comparison_points.frontier(experiments.group(made(row("d"), d=("r", "t")))) == {}


def test_columns_start_with_reward_reference_and_difference():
    groups = experiments.group(collect(row("a"))[0])
    assert comparison.columns(groups) == [
        "policy.all.reward",
        "reference.all.reward",
        "delta.all.reward",
        "policy.all.reward_good",
        "policy.all.length",
        "discarded",
        "value_mse",
    ]
    header = comparison.terminal_table(groups).splitlines()[0].split()
    assert header == ["run", "seeds", "reward", "reference", "delta", "good", "length", "discarded", "value_mse"]


def test_macro_has_a_column_where_it_is_another_number_than_all():
    def header(**macro: float) -> list[str]:
        rows = [row("a", 0.5, policy__macro__reward=0.5), row("b", 0.75, seed=2, **macro)]
        return comparison.terminal_table(experiments.group(collect(*rows)[0])).splitlines()[0].split()

    assert "macro.reward" not in header()  # the first is of an earlier version, with one subset
    assert "macro.reward" in header(policy__macro__reward=0.625)


def test_markdown_has_a_line_for_each_group():
    groups = experiments.group(collect(row("a"), row("b", 0.75, seed=2), row("c", algorithm="nll"))[0])
    text = comparison.markdown([comparison.Section("", groups)], "demo", [])
    assert "| a_lol | 2 | 0.625 ± 0.177 |" in text
    assert "| nll | 1 | 0.500 |" in text


LOCK = b"""
schema: '2.0'
stages:
  train:
    params:
      params.yaml:
        seed: 1
        algorithms.a_lol: {clip: 0.9, other: null}
      tasks/demo.yaml:
        reward: {shift: 0.2, weights: {helpful: 1.0, concise: 0.2, informative: 0.1}}
      tasks/defaults.yaml:
        clean.format: table
    outs: [{path: models/demo, md5: aaa.dir}]
  aggregate:
    deps: [{path: models/demo, md5: aaa.dir}, {path: alol/x.py, md5: bbb}]
"""


def test_metrics_that_match_their_parameters_are_current():
    assert revisions.stale(revision(), LOCK) is None


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 2}, "seed"),
        ({"algorithms__a_lol__clip": 0.8}, "algorithms.a_lol"),
        ({"tasks__demo__reward__shift": 0.25}, "reward"),
        ({"defaults__clean__format": "hha"}, "clean.format"),
    ],
)
def test_parameters_edited_after_the_run_are_noticed(changes, key):
    reason = revisions.stale(revision(**changes), LOCK)
    assert reason is not None and f"another value of {key};" in reason


def test_a_shared_file_edited_after_the_run_is_noticed():
    lock = b"stages: {clean: {deps: [{path: tasks/shared/clean.yaml, md5: 123}]}}"
    assert "another tasks/shared/clean.yaml; run" in str(revisions.stale(revision(), lock))


def test_metrics_of_another_task_are_noticed():
    lock = b"stages:\n  evaluate:\n    outs:\n    - path: data/generations/hha/a_lol\n      md5: x\n"
    assert "another task or algorithm" in revisions.stale(revision(), lock)
    assert revisions.stale(revision(), lock.replace(b"hha", b"demo")) is None


RESULTS = {
    "validation__policy__reward_good": 0.625,
    "validation__reference__reward_good": 0.5,
    "validation__gold__length": 3.0,
    "reference__all__reward_good": 0.375,
    "gold__all__reward": 1.0,
    "checkpoints__best__epoch": 0.5,
    "checkpoints__best__update": 20.0,
    "checkpoints__best__value": 0.625,
    "checkpoints__worst__value": 0.25,
}


def test_results_have_the_published_columns():
    changed = revision(tasks__demo__train__success="reward_good", tasks__demo__policy__model="some/model")
    runs, _ = collect(
        row("b", 0.5, seed=2.0, **RESULTS), row("a", 0.4375, **RESULTS), row("old", 0.25, algorithm="nll"),
        of={"a": changed, "b": changed},
    )  # fmt: skip
    found = published_columns.table([run for run in runs if run.algorithm == "a_lol"], "demo")
    assert list(found[0])[:14] == [
        "task_name", "baseline_model", "algorithm", "best e", "best s", "best V good", "worst e", "worst s",
        "worst V good", "val_good", "test_good", "val_gen reward", "val_gen reward_good", "val_gen length",
    ]  # fmt: skip
    assert [(one["algorithm"], one["seed"], one["run"]) for one in found] == [
        ("reference", "", ""), ("a_lol", "1", "a"), ("a_lol", "2", "b"),
    ]  # fmt: skip
    reference, first, second = found
    assert [first[name] for name in list(first)[:11]] == [
        "demo", "some/model", "a_lol", "0.500", "20", "0.625", "NA", "NA", "0.250", "0.625", "0.438",
    ]  # fmt: skip
    assert second["test_good"] == "0.500"
    assert [reference[name] for name in ("best e", "val_good", "test_good", "val_gen reward")] == [
        "NA", "0.500", "0.375", "NA",
    ]  # fmt: skip
    assert (first["val_gold length"], first["test_gold reward"], first["val_gen length"]) == ("3", "1", "NA")
    mixed = published_columns.table(runs, "demo")
    assert "val_success" in mixed[0]
    assert mixed[-1]["val_success"] == "NA"


def test_several_tasks_stand_in_one_table():
    def groups(task: str, **rewards: float) -> list[experiments.Group]:
        rows = [
            row(f"{task}{name}{i}", reward + i / 10, task=task, algorithm=name, seed=i, delta__all__reward=reward)
            for name, reward in rewards.items()
            for i in (0, 1)
        ]
        return experiments.group(collect(*rows, task=task)[0])

    rows = comparison.across({"pos": groups("pos", a_lol=0.5, nll=0.75), "neg": groups("neg", a_lol=0.25, wbc=0.125)})
    assert [one["run"] for one in rows] == ["nll", "a_lol", "wbc"]
    assert rows[1] == {
        "run": "a_lol",
        "pos reward": pytest.approx(0.55), "pos std": pytest.approx(0.0707107), "pos reference": 0.25,
        "pos delta": 0.5, "neg reward": pytest.approx(0.3), "neg std": pytest.approx(0.0707107),
        "neg reference": 0.25, "neg delta": 0.25, "first less last": pytest.approx(0.25),
    }  # fmt: skip
    assert (rows[0]["neg reward"], rows[0]["first less last"]) == (None, None)
    cells = comparison.across_cells(rows, "±")
    assert cells[0] == [
        "run", "pos reward", "pos reference", "pos delta", "neg reward", "neg reference", "neg delta",
        "first less last",
    ]  # fmt: skip
    assert cells[1] == ["nll", "0.800 ± 0.071", "0.250", "0.750", "", "", "", ""]
    assert comparison.table(cells).splitlines()[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"


def test_a_checkpoint_stands_among_the_runs():
    summary = {"policy": {"all": {"reward": 0.75, "length": 9.0}}, "reference": {"all": {"reward": 0.25}}}
    groups = experiments.ranked(
        [*experiments.group(collect(row("one"))[0]), experiments.checkpoint("published", summary)]
    )
    assert [group.label for group in groups] == ["published", "a_lol"]
    assert comparison.csv_rows(groups)[0]["policy.all.reward_mean"] == 0.75
    with pytest.raises(InputError, match="checkpoint 'broken' has no"):
        experiments.checkpoint("broken", {})


def test_a_stage_that_did_not_follow_is_noticed():
    lock = LOCK.replace(b"deps: [{path: models/demo, md5: aaa.dir}", b"deps: [{path: models/demo, md5: old.dir}")
    assert "stage aggregate did not run after models/demo" in str(revisions.stale(revision(), lock))


def test_figure_is_drawn_with_shared_and_with_several_references():
    for other in (0.2, 0.3, None):
        lines = [Line("a", [0.5, 0.6], 0.2), Line("b", [0.5], other, (0.4, 0.7))]
        assert comparison_figures.comparison([Panel("demo", lines)]).startswith(b"\x89PNG")
        assert comparison_figures.comparison([Panel("demo", lines), Panel("x", lines[:1])], "t").startswith(b"\x89PNG")


def drawn(monkeypatch, *panels: Panel) -> list[tuple[list[str], list[tuple[float, ...]]]]:
    """For each panel the labels of its lines and the ends of every bar, whisker and mark that lies across it."""
    found = []

    def keep(figure) -> bytes:
        for axes in figure.axes:
            axes_lines = [line.get_xdata() for line in axes.lines] + [
                path.vertices[:, 0] for bars in axes.collections for path in bars.get_paths()
            ]
            ends = [tuple(map(float, line)) for line in axes_lines if len(line) == 2 and line[0] != line[1]]
            found.append(([label.get_text() for label in axes.get_yticklabels()], ends))
        return b""

    monkeypatch.setattr(comparison_figures, "png", keep)
    comparison_figures.comparison(panels, "t")
    return found


def test_one_seed_has_the_interval_over_test_prompts_and_several_have_their_range(monkeypatch):
    one, none = Line("one", [0.5], 0.2, (0.4, 0.7)), Line("none", [0.25], 0.2)
    several = Line("several", [0.5, 0.625, 0.75], 0.2, None)
    ((labels, ends),) = drawn(monkeypatch, Panel("demo", [one]))
    assert (labels, ends) == (["one"], [(0.4, 0.7)])
    ((_, ends),) = drawn(monkeypatch, Panel("demo", [none]))
    assert ends == []
    ((_, ends),) = drawn(monkeypatch, Panel("demo", [several]))
    assert ends == [(0.5, 0.75)]


def test_the_line_of_one_seed_has_the_interval_of_its_summary():
    groups = experiments.group(collect(row("a", policy__all__reward_high=0.75))[0])
    (line,) = comparison_points.panel(groups, "demo").lines
    assert line == Line("a_lol", [0.5], 0.25, (0.1, 0.75))
    groups = experiments.group(collect(row("a", policy__all__reward_high=0.75), row("b", 0.75, seed=2))[0])
    assert comparison_points.panel(groups, "demo").lines == [Line("a_lol", [0.5, 0.75], 0.25, None)]
    (without,) = comparison_points.panel(experiments.group(collect(row("a"))[0]), "demo").lines  # of an earlier version
    assert without.interval is None


def test_runs_of_two_references_share_no_axes(monkeypatch):
    rows = [row("a", 0.5), row("b", 0.75, algorithm="nll")]
    found = comparison.sections(made(*rows, a=("ref1", "test"), b=("ref2", "test")), [])
    assert [one.label for one in found] == [f"reference {ref}, test set and rewards test" for ref in ("ref1", "ref2")]
    panels = drawn(monkeypatch, *(comparison_points.panel(one.groups, one.label) for one in found))
    assert [labels for labels, _ in panels] == [["a_lol [ref1-test]"], ["nll [ref2-test]"]]


def test_what_is_left_out_is_one_line():
    left_out = [LeftOut("a", "repeated", "x"), LeftOut("b", "unfinished", "y"), LeftOut("c", "repeated", "z")]
    assert comparison.counts(left_out) == "Left out: 3 commits, experiments or files (2 repeated, 1 unfinished)."
    assert comparison.counts([]) == "Nothing is left out."


def test_a_page_says_what_made_each_run_and_what_it_took():
    (run,) = made(row("a"), a=("ref1", "test"))
    cost = {"train": {"seconds": 5400.0, "peak_memory_mb": 2000.0}, "evaluate": {"seconds": 1800.0}}
    run = dataclasses.replace(run, cost=cost)
    text = comparison.markdown(comparison.sections([run], []), "demo", [])
    assert "| a_lol | 1 | a | a | 2026-01-02 | 2.00 | 2,000 |" in text
    assert comparison.CAPTION in text


def test_outside_a_repository_there_is_one_clear_line(tmp_path, monkeypatch):
    project.write(tmp_path, PROJECT)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command.main, ["--task", "demo"])
    assert done.exit_code == 1
    assert done.output == "Error: there is no Git repository here; run from a Git repository with DVC\n"


def test_an_unknown_task_is_named_before_anything_is_read(tmp_path, monkeypatch):
    project.write(tmp_path, PROJECT)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command.main, ["--task", "demo,nope"])
    assert done.exit_code == 1
    assert "unknown task 'nope'; known: demo" in done.output


SCRIPT = """
import json, pathlib, sys
pathlib.Path("metrics").mkdir(exist_ok=True)
reward = {"1": 0.5, "2": 0.75}[sys.argv[1]]
metrics = {"policy": {"all": {"reward": reward}}, "reference": {"all": {"reward": 0.25}}}
pathlib.Path("metrics/summary.json").write_text(json.dumps(metrics))
"""
PIPELINE = {
    "cmd": "python run.py ${seed}",
    "params": ["seed", "algorithm", "algorithms.${algorithm}", {"tasks/${task}.yaml": ["train"]}],
    "metrics": [{"metrics/summary.json": {"cache": False}}],
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Three commits, of an older layout, with a key that is no more, and of today; an experiment, one queued, and a
    params.yaml that was edited without a run."""
    folder = tmp_path_factory.mktemp("repository")
    today = copy.deepcopy(PROJECT)
    other = copy.deepcopy(PROJECT)
    other["tasks"]["demo"]["reward"]["old"] = 1
    (folder / "run.py").write_text(SCRIPT)
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"aggregate": PIPELINE}}))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    environment = {**os.environ, **who, "PATH": path, "DVC_NO_ANALYTICS": "1"}

    def run(*lines: str) -> None:
        for line in lines:
            subprocess.run(line.split(), cwd=folder, env=environment, check=True, capture_output=True)

    run("git init -q", "dvc init -q")
    older = {**{key: value for key, value in today.items() if key != "defaults"}, "defaults": {}}
    (folder / "params.yaml").write_text(json.dumps(older))
    (folder / "dvc.yaml").write_text(
        json.dumps({"stages": {"aggregate": {**PIPELINE, "params": ["seed", "algorithm"]}}})
    )
    run("dvc repro -q", "git add -A", "git commit -qm ancient", "git tag ancient")
    (folder / "dvc.yaml").write_text(json.dumps({"stages": {"aggregate": PIPELINE}}))
    project.write(folder, other)
    run("dvc repro -q", "git add -A", "git commit -qm old", "git tag old")
    project.write(folder, today)
    run("dvc repro -q", "git commit -qam first", "dvc exp run -q -n second -S seed=2")
    run("dvc exp run -q -n third -S seed=2 --queue", "git checkout -q .")
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("\nseed: 1", "\nseed: 2"))
    return folder


def test_command_compares_what_dvc_knows(repository, monkeypatch):
    monkeypatch.chdir(repository)
    done = CliRunner().invoke(command.main, [])
    assert done.exit_code == 0, done.output
    *_, left_out, files = done.output.splitlines()
    assert left_out == (
        "Left out: 4 commits, experiments or files (2 of other versions of the project, 1 unfinished, "
        "1 whose metrics are not of their parameters). --left-out lists them."
    )
    assert done.output.startswith("Reference not known, test set and rewards not known:\n")
    assert "2 runs in 1 groups: reports/compare_demo.md, .csv and .png" in files
    assert "left out:" not in done.output
    listed = CliRunner().invoke(command.main, ["--left-out"]).output
    assert "left out: third: queued\n" in listed
    assert "left out: old: its parameters are of another version of the project, with other keys\n" in listed
    assert "left out: ancient: params.yaml is of an older layout\n" in listed
    assert "left out: workspace: its metrics were made with another value of seed; run `dvc repro`\n" in listed
    with Path("reports/compare_demo.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["algorithm"], line["seed_list"], line["policy.all.reward_mean"]) == ("a_lol", "1 2", "0.625")
    assert Path("reports/compare_demo.png").stat().st_size > 1000
    assert "a_lol" in Path("reports/compare_demo.md").read_text()


def test_a_run_of_git_has_its_commit_and_its_date(repository, monkeypatch):
    monkeypatch.chdir(repository)
    runs, _ = known_runs.runs("demo")
    commits = dict(
        line.split("\t")
        for line in subprocess.run(
            ["git", "log", "--format=%h%x09%cI", "--all"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    )
    assert [(run.seed, run.name) for run in runs] == [("1", git_branch()), ("2", "second")]
    assert all(commits[run.made[:7]] == run.date for run in runs)


def git_branch() -> str:
    found = subprocess.run(["git", "branch", "--show-current"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def test_a_file_of_parameters_that_is_no_yaml_counts_for_nothing(repository, monkeypatch):
    monkeypatch.chdir(repository)
    text = Path("params.yaml").read_text()
    try:
        Path("params.yaml").write_text("task: [demo")
        _, left_out = known_runs.runs("demo")
    finally:
        Path("params.yaml").write_text(text)
    (found,) = [one for one in left_out if one.name == "workspace"]
    assert found.kind == experiments.DAMAGED


def test_several_tasks_get_a_figure_in_which_each_has_axes_of_its_own(repository, monkeypatch):
    monkeypatch.chdir(repository)
    other = Path("tasks/other.yaml")
    other.write_text(Path("tasks/demo.yaml").read_text())
    folder = Path("results/other")
    folder.mkdir(parents=True)
    summary = {"policy": {"all": {"reward": 0.25}}, "reference": {"all": {"reward": 0.125}}}
    kept = {"task": "other", "algorithm": "nll", "seed": 1, "digest": "d", "summary": summary, "cost": {}, "launch": {}}
    parameters = {"hyperparameters": {}}
    more = {"basis": {"reference": "r", "test": "t"}, "code": {"commit": None, "changed": []}, "machine": "m"}
    (folder / "nll-1.json").write_text(json.dumps({**kept, **more, "parameters": parameters, "date": "2026"}))
    try:
        done = CliRunner().invoke(command.main, ["--task", "demo,other"])
    finally:
        other.unlink()
        shutil.rmtree("results")
    assert done.exit_code == 0, done.output
    assert "2 rows over 2 tasks: reports/compare_demo_other.md, .csv and .png" in done.output
    assert comparison.CAPTION in Path("reports/compare_demo_other.md").read_text()


def test_a_damaged_result_is_left_out_by_name(tmp_path):
    (tmp_path / "results/demo").mkdir(parents=True)
    (tmp_path / "results/demo/a_lol-1.json").write_text("{}")
    runs, (left_out,) = results.runs("demo", tmp_path)
    assert runs == []
    assert left_out.kind == "that cannot be read" and "a_lol-1.json" in left_out.reason
