"""DVC for real: the README's own task and reward through `dvc repro`, and what re-runs when something changes.

In place of the model that the README names, which `make models` installs, there is a tiny one with a chat template.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alol.config import model_names
from alol.config.yaml_files import parse
from tests import tokenizers
from tests.closure import RENDERING
from tests.conftest import tiny_model
from tests.small import ROOT

pytestmark = pytest.mark.slow
COPIED = ("alol", "stages", "custom", "tasks", "templates", "params.yaml", "dvc.yaml", ".dvcignore", ".gitignore")
FROM_TRAIN = ["train", "evaluate", "aggregate"]


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, from the section about a task of one's own."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own task and reward")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


class Project:
    """A git and DVC repository in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.logs = folder / "project", folder / "logs"
        self.folder.mkdir()
        folder = self.folder
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
        environment["LOGS"] = str(self.logs)
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

    def micro_batch(self, stage: str) -> int:
        """What a stage says that it ran with."""
        return json.loads((self.folder / f"metrics/launch/{stage}.json").read_text(encoding="utf-8"))[0]["micro_batch"]

    def summary(self) -> dict:
        return json.loads((self.folder / "metrics/summary.json").read_text(encoding="utf-8"))


def tiny(folder: Path) -> Path:
    """A model that answers a chat, and takes a moment to train."""
    tokenizer = tokenizers.qwen()
    model = tiny_model("llama", tokenizer)
    model.config.max_position_embeddings = 1024
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The README's section followed to the letter, but for the model: two files, and nothing else is touched."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.commit()
    task, *_ = blocks("yaml")
    (project.folder / "tasks" / "answers.yaml").write_text(task, encoding="utf-8")
    (project.folder / "custom" / "answers.py").write_text(blocks("python")[0], encoding="utf-8")
    (project.logs).mkdir()
    products = ["kettle", "lamp", "chair"]
    rows = [
        {"question": f"Is the {product} number {i} any good?", "answer": answer, "product": product}
        for i in range(30)
        for product in products
        for answer in (f"Yes, the {product} is fine.", "I cannot say.")
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (project.logs / "answers.jsonl").write_text(lines, encoding="utf-8")
    policy = parse(task.encode(), Path("README.md"))["policy"]
    assert (policy["template"], policy["tuning"]) == ("chat", "lora")
    installed = model_names.find(policy["model"])[1] is None
    checked = project.run("python", "-m", "stages.check", "--task", "answers", code=0 if installed else 1)
    line = (
        "params.yaml and tasks/answers.yaml are fine" if installed else f"policy.model is '{policy['model']}', but no"
    )
    assert line in checked
    if installed:
        model_names.check_sha256(policy["model"], policy["sha256"], "policy.sha256")
    project.edit("tasks/answers.yaml", policy["model"], str(tiny(project.logs.with_name("model"))))
    project.edit("tasks/answers.yaml", f"sha256: {policy['sha256']}", "sha256:")
    checked = project.run("python", "-m", "stages.check", "--task", "answers")
    assert "params.yaml and tasks/answers.yaml are fine: task answers" in checked
    assert "Git does not track custom/answers.py, tasks/answers.yaml, so queued" in checked
    assert project.run("git", "status", "--short").split() == ["??", "custom/answers.py", "??", "tasks/answers.yaml"]
    assert len(project.ran("exp", "run", "-S", "task=answers")) == 12
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
    assert project.ran("exp", "run", "-S", "algorithm=wbc", "-S", "launch.micro_batch=8") == FROM_TRAIN
    assert [project.micro_batch(stage) for stage in ("value", "train", "evaluate")] == [64, 8, 8]
    diff = project.run("dvc", "metrics", "diff", "--all", "--md")
    old, new = (summary["policy"]["all"]["distinct_1"] for summary in (before, project.summary()))
    row = next(line for line in diff.splitlines() if "| policy.all.distinct_1 " in line)
    assert [float(cell) for cell in row.split("|")[3:5]] == pytest.approx([old, new], rel=1e-3)
    # DVC's table begins with the reward, and leaves out what does not fit a terminal from the right
    columns = project.run("dvc", "exp", "show", "--csv").splitlines()[0].split(",")
    assert columns.index("reward") <= 10
    assert len(columns) <= 450
    assert "micro_batch" not in project.run("dvc", "metrics", "show")
    assert project.ran("exp", "run", "-S", "algorithm=a_lol") == []
    assert project.summary() == before
    # restored with what was made so, though launch is another now
    assert [project.micro_batch(stage) for stage in ("value", "train", "evaluate")] == [64, 64, 64]
    assert project.ran("exp", "run", "-S", "launch.micro_batch=64") == []


def test_a_weight_scores_nothing_again(project):
    ran = project.ran("exp", "run", "-S", "tasks/answers.yaml:reward.weights.on_topic=2.0")
    assert ran == ["value", "advantage", *FROM_TRAIN]
    assert project.summary()["gold"]["all"]["reward"] == 2.0
    assert project.ran("exp", "run", "-S", "tasks/answers.yaml:reward.weights.on_topic=1.0") == []


def test_the_seed_and_other_leaves_run_train_and_later_and_arrive(project):
    leaves = ("seed=2", "tasks/defaults.yaml:train.optimizer.lr=0.125", "algorithms.a_lol.clip=0.5")
    assert project.ran("exp", "run", *(word for leaf in leaves for word in ("-S", leaf))) == FROM_TRAIN
    curve = json.loads((project.folder / "models/answers/a_lol/training.json").read_text(encoding="utf-8"))["curve"]
    assert curve[0]["lr"] == 0.125
    lock = (project.folder / "dvc.lock").read_text(encoding="utf-8")
    assert "clip: 0.5" in lock and "seed: 2" in lock
    project.run("git", "checkout", "--quiet", "params.yaml", "tasks")
    assert project.ran("repro") == []


def test_an_edited_reward_is_scored_again(project):
    project.edit("custom/answers.py", "float(c[", "0.25 + 0.25 * float(c[")
    ran = project.ran("repro")
    assert {"annotate", "baseline", "value", "advantage", *FROM_TRAIN} <= set(ran)
    assert not {"download", "clean", "reference", "rollout"} & set(ran)
    assert project.summary()["gold"]["all"]["reward"] == 0.5
    project.edit("custom/answers.py", "0.25 + 0.25 * float(c[", "float(c[")
    assert project.ran("repro") == []


def test_an_edited_template_runs_what_reads_templates_and_no_more_where_that_stays_the_same(project):
    (project.folder / "templates/mine.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert sorted(project.ran("repro")) == sorted(RENDERING)
    (project.folder / "templates/mine.jinja").unlink()
    assert project.ran("repro") == []


def changed(project) -> list[str]:
    """The lines that Git says were added to parameter files."""
    diff = project.run("git", "diff", "--unified=0", "--", "params.yaml", "tasks")
    return [line[1:].strip() for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)]


def test_setting_a_key_changes_one_line_and_a_plus_adds_one(project):
    """Queued, since DVC edits the files of the experiment and not those of the workspace then."""
    for override, line in (
        ("tasks/demo.yaml:train.optimizer.lr=1e-4", "optimizer: {lr: 0.0001, schedule: linear}"),
        ("tasks/demo.yaml:+train.batch_size=8", "batch_size: 8"),
        ("tasks/defaults.yaml:policy.max_prompt=9", "max_prompt: 9           # tokens; from 1 to 1,000,000"),
        ("algorithms.a_lol.clip=0.5", "clip: 0.5             # as for r_lol; at least 0"),
    ):
        file, _, assignment = override.rpartition(":")
        apply(project.folder / (file or "params.yaml"), assignment)
        assert changed(project) == [line]
        project.run("git", "checkout", "--quiet", ".")
    failed = project.run("dvc", "exp", "run", "--queue", "-S", "tasks/demo.yaml:train.batch_size=8", code=255)
    assert "Key 'batch_size' is not in struct" in failed


def apply(path: Path, assignment: str) -> None:
    """What `dvc exp run -S` does to a file."""
    from dvc.utils.hydra import apply_overrides

    apply_overrides(path, [assignment])


def test_a_name_that_no_task_can_have_runs_no_stage(project):
    before = (project.folder / "params.yaml").read_text(encoding="utf-8")
    for name in ('"x; touch pwned"', "null"):
        project.edit("params.yaml", "task: answers", f"task: {name}")
        assert not re.findall(r"Running stage", project.run("dvc", "repro", code=255))
        assert "task name" in project.run("python", "-m", "stages.check", code=1)
        (project.folder / "params.yaml").write_text(before, encoding="utf-8")
    assert not (project.folder / "pwned").exists()
