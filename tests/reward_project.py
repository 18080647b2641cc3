"""Parameters and tables for tests of the rewards: the project's own params.yaml with one task of few rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alol.config import params
from alol.data import schema
from benchmarks.project import parameters, write

SECTIONS = "source clean test_rewards reward policy reference generate value train aggregate".split()


def load(folder: Path, rewards: dict[str, dict[str, Any]], **sections: Any) -> params.Params:
    """The task `mine`, whose rewards stand merged over the project's defaults."""
    raw = parameters("demo")
    weights = {"reward": {"weights": dict.fromkeys(rewards, 1.0)}}
    raw["tasks"] = {"mine": {**{name: {} for name in SECTIONS}, **weights, **sections, "rewards": rewards}}
    raw["task"] = "mine"
    write(folder, raw)
    return params.load(root=folder)


def row(prompt: str, response: str, rank: int = 0, **context: Any) -> dict[str, Any]:
    return {
        "prompt_id": prompt,
        "subset": "test",
        "prompt": prompt,
        "cuts": [0],
        "turns": [{"role": "human", "text": prompt}],
        "context": context,
        "rank": rank,
        "response": response,
    }


def write_clean(folder: Path, **splits: Iterable[dict[str, Any]]) -> Path:
    """data/clean/<task>: the rows given for each split."""
    for split in schema.SPLITS:
        with schema.writing(folder / f"{split}.parquet", schema.RESPONSES) as writer:
            writer.write(splits.get(split, [row(f"{split} prompt", "a response")]))
    return folder


def write_labels(folder: Path, name: str, texts: Iterable[tuple[str, str, int]]) -> None:
    """(prompt, response, label) each."""
    with schema.writing(folder / "labels" / f"{name}.parquet", schema.LABELLED) as writer:
        writer.write({"prompt": p, "response": r, "context": {}, "label": label} for p, r, label in texts)
