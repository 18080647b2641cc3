"""Where every table, model and metric lies: a pure function of the task's and the algorithm's names."""

import os
from pathlib import Path

METRICS = Path("metrics")
PLOTS = METRICS / "plots"
REPORTS = Path("reports")  # of commands that are no stages


def raw(task: str) -> Path:
    return Path("data/raw", task)


def clean(task: str) -> Path:
    return Path("data/clean", task)


def annotated(task: str) -> Path:
    return Path("data/annotated", task)


def logged(task: str) -> Path:
    """The test split's own responses, scored by the rewards of training."""
    return annotated(task) / "logged.parquet"


def rollouts(task: str) -> Path:
    return Path("data/rollouts", task)


def baselines(task: str) -> Path:
    return Path("data/baselines", task)


def samples(folder: Path) -> Path:
    """Sampled answers, one table a split, within the folder of rollouts or of baselines."""
    return folder / "samples"


def advantages(task: str) -> Path:
    return Path("data/advantages", task)


def generations(task: str, algorithm: str) -> Path:
    return Path("data/generations", task, algorithm)


def reward_model(task: str) -> Path:
    return Path("models", task, "reward_model")


def reference(task: str) -> Path:
    return Path("models", task, "reference")


def value(task: str) -> Path:
    return Path("models", task, "value")


def policy(task: str, algorithm: str) -> Path:
    return Path("models", task, algorithm)


def results(task: str) -> Path:
    """What finished runs of a sweep have left, for Git."""
    return Path("results", task)


def checkpoints(task: str) -> Path:
    """Models that others trained, evaluated on the task."""
    return REPORTS / "checkpoints" / task


def cost(stage: str) -> Path:
    return METRICS / "cost" / f"{stage}.json"


def launch(stage: str) -> Path:
    """What a stage's outputs were made with, beyond what DVC hashes; one of these outputs itself."""
    return METRICS / "launch" / f"{stage}.json"


def work(name: str) -> Path:
    """A folder for unfinished work that must outlive its stage, below the main checkout also from an experiment's copy.

    DVC runs experiments in copies of the checkout below `.dvc/tmp/exps`, which go away. The environment variable
    ALOL_STATE names another place, such as a disk that several machines share.
    """
    if state := os.environ.get("ALOL_STATE"):
        return Path(state).absolute() / name
    here = Path.cwd()
    for parent in here.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            here = parent.parents[2]
            break
    return here / ".cache" / "alol" / name
