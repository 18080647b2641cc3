"""The tutorial's files: its task is a task, its log is what it says, its rewards are what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

from alol.config import params
from tests.closure import ROOT

TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_its_task_is_one(tmp_path):
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "tasks/shop.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    found = params.load("shop", root=tmp_path)
    assert (found.reward.weights, found.clean.options["response"]) == ({"names_product": 1.0, "short": 0.5}, "answer")


def test_its_log_has_three_answers_to_each_customer(tmp_path):
    environment = {**os.environ, "LOGS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", blocks("python")[0]], env=environment, check=True)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (len(rows), len({row["prompt"] for row in rows})) == (1800, 600)
    named = sum(row["product"] in row["answer"] for row in rows)
    assert 0.15 < named / len(rows) < 0.25  # two of ten


def test_its_rewards_are_what_they_say():
    found: dict = {}
    exec(blocks("python")[1], found)  # the page's own code
    responses, contexts = ["Keep the kettle.", "I do not know."], [{"product": "kettle"}] * 2
    assert found["names_product"](["?"] * 2, responses, contexts) == [1.0, 0.0]
    assert found["short"](["?"] * 2, ["one two", "word " * 20], contexts) == [1.0, 0.5]
