"""What a run took, and when, where and by which commit it was made, as text: all that varies between equal runs.

It lies beside the costs of the stages, outside of what DVC hashes.
"""

from __future__ import annotations

import datetime

from alol.base import machine
from alol.base.files import read_json
from alol.base.text import align
from alol.config import paths
from alol.config.params import Params
from alol.evaluation.repository import git

FILE = paths.cost("run").with_suffix(".txt")
CODE = ("alol", "stages", "custom", "tasks", "params.yaml", "dvc.yaml")
GRAPH = (
    "download", "clean", "reward_model", "annotate", "reference", "rollout", "baseline", "value", "advantage", "train",
    "evaluate",
)  # fmt: skip


def text(p: Params) -> str:
    """The lines of FILE. A stage that DVC had in its cache has the cost of the last time that it ran here."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    lines = [f"{p.task}, {p.algorithm}, seed {p.seed}", f"report written {now}, {commit()}", machine.words(), ""]
    return "\n".join([*lines, costs() or "no stage ran here"]) + "\n"


def commit() -> str:
    """The commit of the checkout, and how many of its files of code and parameters are not as committed."""
    found = (git("rev-parse", "--short", "HEAD") or "").strip()
    if not found:
        return "no commit"
    changed = (git("status", "--porcelain", "--", *CODE) or "").splitlines()
    return f"commit {found}" + (f" with {len(changed)} changed files" if changed else "")


def costs() -> str:
    """Time and peak memory of each stage, as it last ran in this folder; nothing where none did."""
    rows = []
    for stage in GRAPH:
        if (path := paths.cost(stage)).exists():
            found = read_json(path, dict[str, float])
            accelerator = found.get("peak_accelerator_memory_mb")
            rows.append([
                stage, f"{found['seconds']:,.1f}", f"{found['peak_memory_mb']:,.0f}",
                "" if accelerator is None else f"{accelerator:,.0f}",
            ])  # fmt: skip
    if not rows:
        return ""
    header = ["stage, when it last ran here", "seconds", "peak memory, MB", "of the accelerator, MB"]
    used = 4 if any(row[3] for row in rows) else 3
    return align([line[:used] for line in (header, *rows)], left=1)
