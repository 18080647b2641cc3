"""The table of what V(x) of several answers is worth, on a small project: it says what the pipeline's stages say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import value_answers
from tests import small


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path, tasks__demo__generate__rollout__samples=2, tasks__demo__generate__rollout__judge_samples=3)
    small.run([*small.BEFORE_TRAIN, "train"])
    return tmp_path


def test_the_table_has_the_numbers_of_the_stages(here):
    before = content(here)
    options = ["--task", "demo", "--answers", "1,2", "--judge", "3", "--fits", "1", "--out", "rows.json"]
    done = CliRunner().invoke(value_answers.main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = {row["answers"]: row for row in json.loads((here / "rows.json").read_text())}
    assert list(rows) == ["best constant", "1 greedy", "1 sampled", "2 sampled"]
    found = json.loads((here / "metrics/value.json").read_text())
    expected = {name: found[f"value_{name}"] for name in ("noise", "learnable")} | {"error": found["value_judged_mse"]}
    expected |= {"answers": "2 sampled", "discarded": small.read_training()["discarded"]}
    expected |= {f"{name}_of_fits": [expected[name]] for name in value_answers.SPREAD}
    assert rows["2 sampled"] == {key: pytest.approx(one) for key, one in expected.items()}
    assert rows["best constant"]["error"] == pytest.approx(found["value_judged_mse_constant"])
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["V(x)", "-------------", "best", "1", "1", "2"]
    (here / "rows.json").unlink()
    assert content(here) == before


def test_more_answers_than_judge_are_refused():
    done = CliRunner().invoke(value_answers.main, ["--task", "demo", "--answers", "1,16"])
    assert done.exit_code == 2
    assert "1,16 must be numbers from 1 to 8, the number of those that judge" in done.output
