"""The runs of a task that Git has: of the workspace, of commits and of DVC's experiments, read from their files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.evaluation import experiments, repository, revisions
from alol.evaluation.experiments import OLDER, STALE, SUMMARY, LeftOut, Run, Unusable
from alol.evaluation.revisions import Revision

LOCK = "dvc.lock"


def runs(task: str) -> tuple[list[Run], list[LeftOut]]:
    """Each finished run once, and what was left out; InputError outside of a Git repository."""
    files = [*revisions.files_of(task), LOCK, SUMMARY]
    rows: list[experiments.Row] = []
    of: dict[str, Revision | Unusable] = {}
    known: dict[tuple[bytes | None, ...], tuple[dict[str, Any], Revision | Unusable]] = {}
    for version in repository.versions(files):
        key = tuple(map(version.files.get, files))
        if key not in known:  # most commits have the files of the one before
            known[key] = _read(version.files, task)
        values, of[version.revision] = known[key]
        rows.append({**values, "name": version.name, "rev": version.revision, "date": version.date})
    rows += [{"name": name, "rev": "", "state": state} for name, state in repository.unfinished()]
    return experiments.collect(rows, task, of)


def _read(files: Mapping[str, bytes], task: str) -> tuple[dict[str, Any], Revision | Unusable]:
    """What one version says: `task`, `algorithm`, `seed` and its summary; and its parameters, or why they do not count.

    Parameters are read of a version with metrics alone.
    """
    own, *_ = revisions.files_of(task)
    if SUMMARY not in files or own not in files:
        return {"task": task}, Unusable(experiments.WITHOUT, f"no {SUMMARY}")
    try:
        table = revisions.parsed(files[own], Path(own))
        summary = revisions.flat(json.loads(files[SUMMARY]))
    except (InputError, ValueError):  # a file that was committed with a mistake in it
        return {"task": task}, Unusable(experiments.DAMAGED, f"its {own} or {SUMMARY} cannot be read")
    values = {**summary, **{name: table.get(name) for name in ("task", "algorithm", "seed")}}
    why = experiments.unusable(values, task, experiments.metrics(values))
    return values, why or _revision(files, task)


def _revision(files: Mapping[str, bytes], task: str) -> Revision | Unusable:
    revision = revisions.revision(files, task)
    if isinstance(revision, str):
        return Unusable(OLDER, revision)
    lock = files.get(LOCK)
    if not lock:
        return revision
    if reason := revisions.stale(revision, lock):
        return Unusable(STALE, reason)
    return dataclasses.replace(revision, basis=revisions.basis(lock, revision.params))
