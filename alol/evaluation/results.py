"""What is left of a finished run, small enough for Git: results/<task>/<algorithm>-<seed>-<settings>.json.

DVC's experiments and its cache stay on the machine; this file says with which settings, code, machine and reference the
summary was made, so that a comparison on another machine has it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from alol.base import machine
from alol.base.errors import InputError
from alol.base.files import read_json, write_json
from alol.config import params, paths
from alol.config.params import Params
from alol.evaluation import experiments, paired, revisions
from alol.evaluation.experiments import DAMAGED, LeftOut, Run
from alol.evaluation.paired import Prompts
from alol.evaluation.revisions import Basis

PER_RUN = ("train", "evaluate")  # stages that each run has to itself
TRAINING = ("train.", "algorithms.")  # settings on which no stage before training depends


class Code(TypedDict):
    """The commit, and the files of the code that differed from it."""

    commit: str | None
    changed: list[str]


class Result(TypedDict):
    """`parameters` are the effective ones, `basis` what it may be compared under, `cost` of stages that ran for it."""

    task: str
    algorithm: str
    seed: int
    digest: str
    parameters: dict[str, Any]
    summary: dict[str, Any]
    basis: dict[str, str | None]
    prompts: NotRequired[Prompts]
    cost: dict[str, dict[str, float]]
    launch: dict[str, list[dict[str, Any]]]
    code: Code
    machine: str
    date: str


def digest(found: Params) -> str:
    """Of the settings that a run learns from, but for its seed."""
    return _digest(revisions.settings(found))


def shared_digest(found: Params) -> str:
    """Of those that the stages before training depend on."""
    return _digest({key: value for key, value in revisions.settings(found).items() if not key.startswith(TRAINING)})


def _digest(settings: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def path(found: Params) -> Path:
    return paths.results(found.task) / f"{found.algorithm}-{found.seed}-{digest(found)[:8]}.json"


def finished(found: Params, root: Path = Path()) -> bool:
    """Whether a run with these settings has left its result; one that cannot be read is none."""
    try:
        return read_json(root / path(found), Result)["digest"] == digest(found)
    except InputError:
        return False


def write(folder: Path, found: Params, code: Code, cost: dict[str, dict[str, float]], target: Path) -> Result:
    """The result of the run that `dvc repro` has ended in `folder`; `cost`: stage -> seconds and memory."""
    lock = folder / "dvc.lock"
    launch = {one.stem: read_json(one) for one in sorted((folder / paths.launch("x")).parent.glob("*.json"))}
    devices = [one["device"] for name in PER_RUN for one in launch.get(name, [])]
    result = Result(
        task=found.task,
        algorithm=found.algorithm,
        seed=found.seed,
        digest=digest(found),
        parameters=params.plain({key: value for key, value in vars(found).items() if key not in revisions.IGNORED}),
        summary=read_json(folder / experiments.SUMMARY, dict[str, Any]),
        basis=vars(revisions.basis(lock.read_bytes() if lock.exists() else None, found)),
        prompts=paired.prompts(folder, found),
        cost=cost,
        launch=launch,
        code=code,
        machine=machine.words(devices),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_json(target, result)
    return result


def runs(task: str, root: Path = Path()) -> tuple[list[Run], list[LeftOut]]:
    """The task's results as runs, and those that cannot be read."""
    found: list[Run] = []
    left_out: list[LeftOut] = []
    for file in sorted((root / paths.results(task)).glob("*.json")):
        try:
            found.append(_run(file, read_json(file, Result)))
        except InputError as error:
            left_out.append(LeftOut(str(file), DAMAGED, str(error)))
    return found, left_out


def _run(file: Path, result: Result) -> Run:
    rows = revisions.flat(result["summary"])
    metrics = experiments.metrics(rows)
    if experiments.FIRST[0] not in metrics:
        raise InputError(f"it has no {experiments.FIRST[0]}")
    commit, changed = (result["code"]["commit"] or "no commit")[:7], result["code"]["changed"]
    return Run(
        file.stem,
        result["algorithm"],
        str(result["seed"]),
        revisions.settings_of(result["parameters"], result["algorithm"]),
        metrics,
        experiments.numbers(rows),
        Basis(result["basis"].get("reference"), result["basis"].get("test")),
        commit + (" with changes" if changed else ""),
        result["date"],
        result["cost"],
        paired.checked(result["prompts"]) if "prompts" in result else None,
    )
