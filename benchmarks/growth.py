"""Ten times the data: how much more time and memory the stages need that go through all of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import dialogues, project
from benchmarks.size import Size

TASK = "measured"
FACTOR = 10
FIRST, LATER = ("clean", "annotate"), ("advantage", "train")
BETWEEN = ("reference", "rollout", "baseline", "value")  # of a few updates and prompts, so that the later ones can run
SHORT = {"epochs": None, "updates": 1, "evaluations": 1}


def tenfold(size: Size) -> Iterator[dict[str, Any]]:
    """Seconds and peak memory of each stage's process over so many rows, and over ten times as many.

    The reward is a Python function and the model tiny, so that the data's share shows; advantage and one epoch of train
    (nll) go over a tenth of the rows.
    """
    texts = dialogues.load(size).train
    for stages, rows in ((FIRST, size.rows), (LATER, size.rows // FACTOR)):
        small, large = (_costs(texts, stages, count) for count in (rows, rows * FACTOR))
        for stage in stages:
            one, ten = small[stage], large[stage]
            yield {
                "name": f"ten times the data, {stage}",
                "rows": [rows, rows * FACTOR],
                "time": round(ten["seconds"] / max(one["seconds"], 0.01), 2),
                "memory": round(ten["peak_memory_mb"] / one["peak_memory_mb"], 3),
                "seconds": [one["seconds"], ten["seconds"]],
                "memory_mb": [one["peak_memory_mb"], ten["peak_memory_mb"]],
            }


def _costs(texts: list[dict[str, Any]], stages: tuple[str, ...], rows: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, count in (("train", rows), ("other", 24)):
            _file(folder / f"{name}.jsonl", texts, count, name)
        raw = project.parameters()
        raw["tasks"] = {TASK: _task(folder)}
        project.write(folder, raw)
        for stage in ("download", *(() if stages == FIRST else (*FIRST, *BETWEEN))):
            project.run(folder, stage, TASK)
        return {stage: project.run(folder, stage, TASK, "nll" if stage == "train" else None) for stage in stages}


def _file(path: Path, texts: list[dict[str, Any]], count: int, name: str) -> None:
    """So many rows, each with a prompt of its own."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            row = texts[i % len(texts)]
            prompt, response = f"{name} {i}. {row['prompt'][-200:]}", row["response"][:200] or "none"
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")


def _task(folder: Path) -> dict[str, Any]:
    """A task's file."""
    names = {"train": "train", "validation": "other", "test": "other"}
    source = {name: {"kind": "path", "location": str(folder / f"{name}.jsonl")} for name in set(names.values())}
    files = {split: f"{name}/{name}.jsonl" for split, name in names.items()}
    columns = {"prompt": "prompt", "response": "response", "id": None, "preference": None, "context": {}}
    concise = {"kind": "python", "function": "custom.example.concise", "low": -1.0, "high": 0.0}
    options = {**files, **columns, "shares": {"validation": 0.1, "test": 0.1}, "seed": 1}
    return {
        "source": source,
        "clean": {"format": "table", "options": options},
        "rewards": {"concise": concise},
        "test_rewards": {},
        "reward": {"shift": 1.0, "weights": {"concise": 1.0}},
        "policy": {
            "max_prompt": 32, "max_response": 16,
            "scratch": {"layers": 1, "width": 32, "heads": 4, "vocabulary": 400, "context": 64},
        },
        "reference": {**SHORT, "train_on": "preferred"},
        "generate": {"max_new_tokens": 4},
        "value": {"heads": 4, "epochs": 1, "folds": 3},
        "train": {"epochs": 1, "updates": None, "evaluations": 1, "batch_size": 16},
        "aggregate": {},
    }  # fmt: skip
