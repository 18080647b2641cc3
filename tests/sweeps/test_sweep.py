"""A sweep for real: a small table through DVC, killed and gone on with, a run that fails, and the comparison of it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import project as projects
from tests import small
from tests.stages.test_dvc import Project

pytestmark = pytest.mark.slow
COMMAND = (sys.executable, "-m", "stages.sweep", "--algorithms", "nll,a_lol")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Project:
    """A repository with the tests' small demo, in which nothing has run."""
    project = Project(tmp_path_factory.mktemp("sweep"))
    raw = projects.parameters("demo")
    for path, values in small.SMALL.items():
        projects.change(raw["tasks"]["demo"], {f"{path}.{key}": value for key, value in values.items()})
    projects.write(project.folder, raw)
    project.commit()
    return project


def results(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder / "results/demo").glob("*.json")}


def logs(project: Project) -> str:
    return "".join(path.read_text() for path in (project.folder / ".cache/alol/sweeps/logs").glob("*.log"))


def test_a_sweep_that_is_killed_goes_on_and_runs_nothing_twice(made):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(COMMAND, cwd=made.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 300
        while not results(made) and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode == 128 + signal.SIGTERM
    (first,) = results(made).items()
    assert "nll-1-" in first[0]
    assert logs(made).count("> python -m stages.reference ") == 1
    said = made.run(*COMMAND, "--seeds", "1,2", "--jobs", "2", "--commit")
    assert "4 runs, 1 of them done" in said
    assert "all are done" in said
    assert results(made)[first[0]] == first[1]
    found = [json.loads(text) for text in results(made).values()]
    assert sorted((one["algorithm"], one["seed"]) for one in found) == [
        ("a_lol", 1), ("a_lol", 2), ("nll", 1), ("nll", 2),
    ]  # fmt: skip
    assert logs(made).count("> python -m stages.reference ") == 1
    assert len({json.dumps(one["basis"]) for one in found}) == 1
    for one in found:
        assert None not in one["basis"].values()
        assert {"train", "evaluate", "aggregate", "reference"} <= set(one["cost"])
        assert one["launch"]["train"][0]["torch"]
        assert one["code"]["changed"] == []
        assert "cores" in one["machine"]
        assert one["parameters"]["train"]["filter"] == "auto"
        for model in ("policy", "reference"):
            mean = one["summary"][model]["all"]["reward"]
            assert statistics.fmean(one["prompts"][model]) == pytest.approx(mean, rel=1e-5)
    # each commit has one file, and the workspace is as it was
    log = made.run("git", "log", "--name-only", "--format=", "-3").split()
    assert sorted(log) == sorted(f"results/demo/{name}" for name in results(made) if name != first[0])
    assert made.run("git", "status", "--short").split() == ["??", f"results/demo/{first[0]}"]
    assert not (made.folder / "models").exists()


def test_what_is_done_is_not_run_again(made):
    before = logs(made), results(made)
    assert "2 runs, 2 of them done" in made.run(*COMMAND)
    assert (logs(made), results(made)) == before


def test_the_numbers_are_those_of_a_run_in_the_workspace(made):
    made.run("dvc", "repro", "--quiet")
    (one,) = (json.loads(text) for name, text in results(made).items() if name.startswith("a_lol-1-"))
    assert json.loads((made.folder / "metrics/summary.json").read_text()) == one["summary"]
    said = made.run(sys.executable, "-m", "stages.compare", "--left-out", "--against", "nll")
    assert "over the reference" in said and "over nll" in said
    assert "left out: a_lol-1-" in said and ": same parameters and seed as workspace" in said
    assert "4 runs in 2 groups" in said
    assert (made.folder / "reports/frontier_demo.png").read_bytes().startswith(b"\x89PNG")
    page = (made.folder / "reports/compare_demo.md").read_text()
    assert "made by" in page and "##" not in page


def test_a_run_that_fails_is_named_and_the_others_go_on(made):
    lr = ("--set", "train.optimizer.lr=99,1e-3", "--set", "train.optimizer.clip_norm=null")
    before = set(results(made))
    said = made.run(*COMMAND[:4], "nll", *lr, code=1)
    assert "FAILED demo nll seed 1 train.optimizer.lr=99" in said
    assert "the loss is" in said and "lower the optimizer's lr" in said
    assert "Error: 1 of 2 runs failed: demo nll seed 1 train.optimizer.lr=99" in said
    assert len(set(results(made)) - before) == 1
