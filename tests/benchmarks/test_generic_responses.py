"""What generic responses get, on a small project whose responses belong to their prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import generic_responses
from tests.reward_project import load, write_clean, write_labels
from tests.rewards.test_reward_training import LABELS, SMALL


def test_the_area_counts_how_often_a_good_one_scores_higher():
    """Of 2 x 3 pairs: 3 above none but ties count half: (0.5: above 0.1, ties 0.5) 1.5; (0.9: above all) 3."""
    assert generic_responses.area(np.array([0.5, 0.9]), np.array([0.1, 0.5, 0.7])) == pytest.approx(4.5 / 6)


def test_the_table_has_a_column_for_each_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [(f"of {i}", "fine" if i % 4 == 0 else f"r {i}", 1) for i in range(48)]
    texts += [(f"of {i}", f"bad {i}", 0) for i in range(24)]
    write_clean(tmp_path / "data/clean/mine")
    write_labels(tmp_path / "data/clean/mine", "tone", texts)
    train = {"texts": "tone", **SMALL, "epochs": 2}
    load(tmp_path, {"it": {"kind": "classifier", "max_length": 24, "train": train}}, clean={"labels": LABELS})
    options = ["--task", "mine", "--component", "it", "--shares", "0,1", "--count", "1", "--holdout", "0.5"]
    done = CliRunner().invoke(generic_responses.main, [*options, "--out", "rows.json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    none, one = json.loads((tmp_path / "rows.json").read_text())
    assert (none["share"], one["share"]) == (0, 1)
    assert none["accuracy_mismatched"] is None or np.isnan(none["accuracy_mismatched"])
    assert 0 <= one["accuracy_mismatched"] <= 1
    sides = ("generic_own", "generic_other", "specific_own", "specific_other", "bad", "area")
    assert all(0 < row[name] < 1 for row in (none, one) for name in sides)
    assert done.output.count("generic, other prompt") == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "preference", "train": {}}, "training.texts is pairs, no entry of clean.labels"),
        ({"kind": "tfidf"}, "rewards.it is no component with a `train` section"),
    ],
)
def test_other_components_are_refused_in_one_line(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    load(tmp_path, {"it": spec})
    write_clean(tmp_path / "data/clean/mine")
    done = CliRunner().invoke(generic_responses.main, ["--task", "mine", "--component", "it"])
    assert done.exit_code == 1 and message in done.output
