"""DVC for real: the README's own task and reward through `dvc repro`, and what re-runs when something changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import ROOT

pytestmark = pytest.mark.slow
COPIED = ("alol", "stages", "custom", "params.yaml", "dvc.yaml", ".dvcignore", ".gitignore")
FROM_TRAIN = ["train", "evaluate", "aggregate"]


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, from the section about a task of one's own."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own task and reward")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


class Project:
    """A git and DVC repository in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        self.run("git", "init", "--quiet")
        self.run("git", "config", "user.email", "nobody@example.org")
        self.run("git", "config", "user.name", "Nobody")
        self.run("dvc", "init", "--quiet")
        self.run("dvc", "config", "core.analytics", "false")

    def run(self, *command: str, code: int = 0) -> str:
        python = Path(sys.executable).parent
        environment = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        environment["LOGS"] = str(self.folder / "logs")
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "A run")

    def ran(self, *command: str) -> list[str]:
        """The stages that a DVC command ran, in order."""
        return re.findall(r"Running stage '(\w+)'", self.run("dvc", *command))

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    def summary(self) -> dict:
        return json.loads((self.folder / "metrics/summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The README's section followed to the letter, then one `dvc repro`."""
    project = Project(tmp_path_factory.mktemp("project"))
    entry = next(block for block in blocks("yaml") if block.startswith("  answers:"))
    project.edit("params.yaml", "\ntasks:\n", "\ntasks:\n" + entry + "\n")
    (project.folder / "custom" / "answers.py").write_text(blocks("python")[0], encoding="utf-8")
    (project.folder / "logs").mkdir()
    products = ["kettle", "lamp", "chair"]
    rows = [
        {"question": f"Is the {product} number {i} any good?", "answer": answer, "product": product}
        for i in range(30)
        for product in products
        for answer in (f"Yes, the {product} is fine.", "I cannot say.")
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (project.folder / "logs" / "answers.jsonl").write_text(lines, encoding="utf-8")
    project.edit("params.yaml", "task: demo", "task: answers")
    project.edit(".gitignore", "/data/", "/logs/\n/data/")
    assert "params.yaml is fine" in project.run("python", "-m", "stages.check")
    project.commit()
    assert len(project.ran("repro")) == 12
    project.commit()
    return project


def test_a_task_of_ones_own_runs_to_the_report(project):
    summary = project.summary()
    assert summary["gold"]["all"]["reward"] == 1.0
    assert 0 <= summary["policy"]["all"]["reward_on_topic"] <= 1
    assert (project.folder / "metrics/report.html").stat().st_size > 10_000


def test_with_nothing_changed_nothing_runs(project):
    assert project.ran("repro") == []


def test_launch_changes_re_run_nothing(project):
    before = (project.folder / "params.yaml").read_text(encoding="utf-8")
    project.edit("params.yaml", "  micro_batch: 64", "  micro_batch: 8")
    assert project.ran("repro") == []
    (project.folder / "params.yaml").write_text(before, encoding="utf-8")


def test_another_algorithm_runs_train_and_later_and_going_back_runs_nothing(project):
    before = project.summary()
    assert project.ran("exp", "run", "-S", "algorithm=wbc") == FROM_TRAIN
    diff = project.run("dvc", "metrics", "diff", "--all", "--md")
    old, new = (summary["policy"]["all"]["distinct_1"] for summary in (before, project.summary()))
    row = next(line for line in diff.splitlines() if "| policy.all.distinct_1 " in line)
    assert [float(cell) for cell in row.split("|")[3:5]] == pytest.approx([old, new], rel=1e-3)
    assert project.ran("exp", "run", "-S", "algorithm=a_lol") == []
    assert project.summary() == before


def test_a_weight_scores_nothing_again(project):
    ran = project.ran("exp", "run", "-S", "tasks.answers.reward.weights.on_topic=2.0")
    assert ran == ["value", "advantage", *FROM_TRAIN]
    assert project.summary()["gold"]["all"]["reward"] == 2.0
    assert project.ran("exp", "run", "-S", "tasks.answers.reward.weights.on_topic=1.0") == []


def test_the_seed_runs_train_and_later(project):
    assert project.ran("exp", "run", "-S", "seed=2") == FROM_TRAIN
    assert project.ran("exp", "run", "-S", "seed=1") == []


def test_an_edited_reward_is_scored_again(project):
    project.edit("custom/answers.py", "float(c[", "0.5 * float(c[")
    ran = project.ran("repro")
    assert {"annotate", "baseline", "value", "advantage", *FROM_TRAIN} <= set(ran)
    assert not {"download", "clean", "reference", "rollout"} & set(ran)
    assert project.summary()["gold"]["all"]["reward"] == 0.5
    project.edit("custom/answers.py", "0.5 * float(c[", "float(c[")
    assert project.ran("repro") == []


def test_leaves_set_through_dvc_arrive(project):
    project.run("dvc", "exp", "run", "-S", "defaults.train.optimizer.lr=0.125", "-S", "algorithms.a_lol.clip=0.5")
    curve = json.loads((project.folder / "models/answers/a_lol/training.json").read_text(encoding="utf-8"))["curve"]
    assert curve[0]["lr"] == 0.125
    assert "clip: 0.5" in (project.folder / "dvc.lock").read_text(encoding="utf-8")
    project.run("git", "checkout", "--quiet", "params.yaml", "dvc.lock", "metrics")
    project.run("dvc", "checkout")
