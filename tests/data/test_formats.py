"""The six published tasks, from raw files in their original formats to a summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alol.checks import parameters
from alol.data import schema
from tests import task_project

TASKS = {
    "comet": {"p_valid_model"},
    "reddit_pos": {"fluency", "depth", "updown", "safe", "tfidf"},
    "reddit_neg": {"fluency", "depth", "updown", "safe", "tfidf"},
    "wow": {"fluency", "faithdial", "depth", "tfidf"},
    "faithdial": {"fluency", "faithdial", "depth", "tfidf"},
    "faithdial_wow": {"fluency", "faithdial", "depth", "tfidf"},
}
SUBSETS = {"reddit_pos": {"positive", "negative"}, "reddit_neg": {"positive", "negative"}}


@pytest.mark.parametrize("task", TASKS)
def test_a_published_task_runs_the_whole_graph(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task_project.write(tmp_path, task)
    assert parameters.problems() == []
    task_project.run(task_project.BEFORE_TRAIN, task, "a_lol")
    for algorithm in ("a_lol", "wbc"):
        task_project.run(task_project.FROM_TRAIN, task, algorithm)
        summary = json.loads(Path("metrics/summary.json").read_text())
        policy = summary["policy"]["all"]
        assert {name.removeprefix("reward_") for name in policy if name.startswith("reward_")} - {
            "low",
            "high",
        } == TASKS[task]
        several = SUBSETS.get(task, set())
        assert set(summary["policy"]) == {"all", *several, *(["macro"] if several else [])}
        assert ("coverage_std" in policy) == (task not in ("comet", *SUBSETS))
        assert 0 <= policy["reward"] <= len(TASKS[task])
        assert set(summary["validation"]) == {"gold", "reference", "policy"}
    rows = schema.rows(Path(f"data/clean/{task}/train.parquet"))
    assert len({row["prompt_id"] for row in rows if row["rank"] == 0}) == sum(row["rank"] == 0 for row in rows)
    if task == "comet":  # no end of text behind the responses
        ids = schema.table(Path("data/advantages/comet/train.parquet"))["response_ids"].to_pylist()
        assert all(row[-1] != 0 for row in ids)
        gold = schema.rows(Path("data/annotated/comet/test.parquet"))
        best: dict[str, float] = {}
        for row in gold:
            best[row["prompt_id"]] = max(best.get(row["prompt_id"], 0.0), row["reward_p_valid_model"])
        assert summary["gold"]["all"]["reward"] == pytest.approx(sum(best.values()) / len(best), rel=1e-5)
