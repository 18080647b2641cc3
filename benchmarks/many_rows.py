"""Ten million rows of 220 tokens through the stages that read all of them: seconds and peak memory, a stage at a time.

`python -m benchmarks.many_rows 1000000 10000000 --folder FOLDER` takes an hour, and 20 GB of disk for the larger one.
The texts are words that are one token each; the reward is a Python function, the policy tiny, and what it computes of a
response is drawn instead (`--measured`: computed): what is measured is how rows are read, encoded, kept and written.
"""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alol.base import memory
from alol.data import schema
from benchmarks import measure, project
from benchmarks.growth import BETWEEN, SHORT, TASK
from benchmarks.rows import BATCH, started

PROMPT, RESPONSE = 44, 176  # tokens
WORDS = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in "lmnrst"]  # 240
SHARD = 500_000  # rows of a raw file
POOL = 4096  # different responses; a prompt is different each time
SMALL = 2_000  # rows with which the policy and its value are made
UPDATES = 100
VOCABULARY = 700
GIVEN = "def score(prompt, response, context):\n    return [one['score'] for one in context]\n"


@click.command()
@click.argument("counts", type=click.IntRange(min=SMALL), nargs=-1, required=True)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where it takes the disk.")
@click.option("--only-texts", is_flag=True, help="Stages clean and annotate alone.")
@click.option("--measured", is_flag=True, help="The policy reads each response, as it does for a user: hours.")
def main(counts: Sequence[int], folder: Path | None, only_texts: bool, measured: bool) -> None:
    """Measure clean, annotate, advantage and the first 100 updates of train over COUNTS rows each."""
    for count in counts:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for found in stages(Path(place), count, only_texts, measured):
                click.echo(json.dumps({"rows": count, **found}))


def stages(folder: Path, count: int, only_texts: bool, measured: bool) -> list[dict[str, Any]]:
    """What each stage took; the folder holds the project."""
    raw = project.parameters()
    raw["tasks"] = {TASK: _task()}
    raw["launch"]["device"] = "cpu"
    project.write(folder, raw)
    (folder / "custom").mkdir()
    (folder / "custom/__init__.py").touch()
    (folder / "custom/given.py").write_text(GIVEN, encoding="utf-8")
    found: list[dict[str, Any]] = []
    _raw(folder, SMALL)
    for stage in () if only_texts else ("clean", "annotate", *BETWEEN):
        project.run(folder, stage, TASK)
    _raw(folder, count)
    for stage in ("clean", "annotate"):
        found.append({"stage": stage, **_run(folder, stage)})
        click.echo(json.dumps(found[-1]), err=True)
    if only_texts:
        return found
    if measured:
        found.append({"stage": "advantage", **_run(folder, "advantage")})
    else:
        found.append({"stage": "advantage, drawn", **measure.in_process(drawn, folder)})
    click.echo(json.dumps(found[-1]), err=True)
    found[-1]["gb"] = round(sum(path.stat().st_size for path in (folder / "data").rglob("*.parquet")) / 1e9, 1)
    table = folder / "data/advantages" / TASK / "train.parquet"
    for algorithm in ("nll", "a_lol"):
        found.append(
            {"stage": f"train, {algorithm}", **measure.in_process(started, table, algorithm, UPDATES, VOCABULARY)}
        )
        click.echo(json.dumps(found[-1]), err=True)
    found.append({"stage": "train, the whole stage", **_run(folder, "train", "a_lol")})
    return found


def _run(folder: Path, stage: str, algorithm: str | None = None) -> dict[str, float]:
    """A stage in a process of its own; with the processor's seconds, which other work on the machine changes less."""
    before = _processor()
    cost = project.run(folder, stage, TASK, algorithm)
    return {**cost, "processor_seconds": round(_processor() - before, 1)}


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def drawn(folder: Path) -> dict[str, float]:
    """Stage advantage with numbers that are drawn where the policy would read, in this process."""
    import contextlib

    from alol.training import advantage
    from stages.advantage import main as stage

    generator = np.random.default_rng(0)

    def read(model: Any, head: Any, prompts: list, responses: list, *others: Any) -> tuple[list, list[float]]:
        pool = generator.standard_normal(RESPONSE + 4).astype(np.float32)
        return [pool[: len(one)] for one in responses], generator.uniform(0, 1, len(prompts)).tolist()

    advantage._measure = read
    start = time.monotonic()
    with contextlib.chdir(folder):
        stage.main(["--task", TASK], standalone_mode=False)
    seconds = {"seconds": round(time.monotonic() - start, 2), "processor_seconds": round(time.process_time(), 1)}
    return {**seconds, "peak_memory_mb": round(memory.peak(), 1)}


def _raw(folder: Path, count: int) -> None:
    """Raw tables: so many training rows, and a few others."""
    shutil.rmtree(folder / "data/raw", ignore_errors=True)
    for name, rows in (("train", count), ("other", 24)):
        place = folder / "data/raw" / TASK / name
        place.mkdir(parents=True)
        generator = np.random.default_rng(0)
        words = np.array(WORDS)
        texts = [" ".join(words[one]) for one in generator.integers(0, len(words), (POOL, RESPONSE))]
        starts = [" ".join(words[one]) for one in generator.integers(0, len(words), (POOL, PROMPT - 4))]
        for first in range(0, rows, SHARD):
            with pq.ParquetWriter(place / f"part-{first // SHARD:05d}.parquet", RAW, compression="zstd") as writer:
                for start in range(first, min(first + SHARD, rows), schema.BATCH_ROWS):
                    numbers = range(start, min(start + schema.BATCH_ROWS, first + SHARD, rows))
                    prompts = [f"{_name(i)} {starts[i * 7 % POOL]}" for i in numbers]
                    responses = [texts[(i * 31 + start) % POOL] for i in numbers]
                    scores = generator.uniform(-1, 0, len(numbers))
                    columns = [pa.array([f"{name}{i}" for i in numbers]), prompts, responses, scores]
                    writer.write_table(pa.table(dict(zip(RAW.names, columns, strict=True)), RAW))


RAW = pa.schema([("id", pa.string()), ("prompt", pa.string()), ("response", pa.string()), ("score", pa.float64())])


def _name(i: int) -> str:
    """Four words that tell a prompt from all others."""
    return " ".join(WORDS[i // len(WORDS) ** k % len(WORDS)] for k in range(4))


def _task() -> dict[str, Any]:
    """A task's file."""
    columns = {
        "prompt": "prompt",
        "response": "response",
        "id": "id",
        "preference": None,
        "context": {"score": "score"},
    }
    files = {"train": "train", "validation": "other", "test": "other"}
    given = {"kind": "python", "function": "custom.given.score", "low": -1.0, "high": 0.0}
    return {
        "source": {},
        "clean": {"format": "table", "options": {**files, **columns}},
        "rewards": {"given": given},
        "test_rewards": {},
        "reward": {"shift": 1.0, "weights": {"given": 1.0}},
        "policy": {
            "max_prompt": PROMPT + 4, "max_response": RESPONSE + 4,
            "scratch": {"layers": 1, "width": 32, "heads": 4, "vocabulary": VOCABULARY, "context": 256},
        },
        "reference": {**SHORT, "train_on": "preferred"},
        "generate": {"max_new_tokens": 4},
        "value": {"heads": 4, "epochs": 1, "folds": 3},
        "train": {"epochs": None, "updates": UPDATES, "evaluations": 1, "batch_size": BATCH},
        "aggregate": {},
    }  # fmt: skip


if __name__ == "__main__":
    main()
