"""Training from very many rows: memory and time of planning a run and of its first updates, over ten times the rows.

`python -m benchmarks.rows 10000000 --tokens 220` does it once for any table; that one has more tokens than an Arrow
array of lists can hold (2^31), and takes 20 GB of disk.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from alol.algorithms import registry
from alol.base import memory
from alol.compute import launch
from alol.compute.kernels import fused
from alol.compute.logprob import ResponseLogp
from alol.config import params
from alol.data import schema
from alol.data.row_store import Place, Source
from alol.training import loop, planning
from benchmarks import dialogues, measure
from benchmarks.size import Size

TOKENS, UPDATES, BATCH, WORDS = 40, 20, 16, 400
FACTOR = 10
ALGORITHMS = ("nll", "a_lol", "dpo_ref_free")


def tenfold(size: Size) -> Iterator[dict[str, Any]]:
    """Seconds and peak memory of a process that plans an epoch and makes its first updates, over so many rows."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        counts = (size.trained, size.trained * FACTOR)
        for count in counts:
            write(folder / f"{count}.parquet", count, TOKENS)
        for algorithm in ALGORITHMS:
            one, ten = (
                measure.in_process(started, folder / f"{count}.parquet", algorithm, UPDATES) for count in counts
            )
            yield {
                "name": f"ten times the rows, {algorithm}",
                "rows": list(counts),
                "memory": round(ten["memory_mb"] / one["memory_mb"], 3),
                **{name: [one[name], ten[name]] for name in one},
            }


def write(path: Path, count: int, tokens: int) -> None:
    """An advantage table of pairs. A fifth of the tokens are the prompt's; half of the advantages are above 0."""
    generator = np.random.default_rng(0)
    shapes = {"prompt_ids": tokens // 5, "response_ids": tokens - tokens // 5}  # the same tokens in each row group
    ids = {name: generator.integers(1, WORDS, (schema.BATCH_ROWS, n), dtype=np.int32) for name, n in shapes.items()}
    logp = np.full(ids["response_ids"].shape, -6.0, dtype=np.float32)
    lists = {name: _lists(values) for name, values in {**ids, "ref_logp": logp}.items()}
    with pq.ParquetWriter(path, schema.ADVANTAGES, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, count, schema.BATCH_ROWS):
            rows = np.arange(start, min(start + schema.BATCH_ROWS, count))
            reward = generator.uniform(0, 1, len(rows)).astype(np.float32)
            columns = {
                "prompt_id": [str(row // 2) for row in rows.tolist()],
                "rank": (rows % 2).astype(np.int32),
                **{name: values[: len(rows)] for name, values in lists.items()},
                "reward": reward,
                "raw_reward": reward,
                "value": np.full(len(rows), 0.5, dtype=np.float32),
                "advantage": reward - np.float32(0.5),
            }
            writer.write_table(pa.table(columns, schema.ADVANTAGES))


def _lists(values: np.ndarray) -> pa.Array:
    """Rows of a matrix as lists."""
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel()))


def started(path: Path, algorithm: str, updates: int, words: int = WORDS) -> dict[str, float]:
    """Plans an epoch and makes the first updates in this process: megabytes before and at the peak, seconds of both."""
    loaded, chosen = params.load("demo", "a_lol", dialogues.ROOT), registry.FROM_DATA[algorithm]
    settings = dataclasses.replace(loaded.train, train_on="all", batch_size=BATCH, epochs=1, updates=None)
    config = GPT2Config(
        vocab_size=words, n_layer=1, n_embd=32, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=0
    )
    model = fused(GPT2LMHeadModel(config)).train()
    main = launch.accelerator(dataclasses.replace(loaded.launch, device="cpu", precision="fp32"))
    optimizer = loop.make_optimizer(model, dataclasses.replace(settings.optimizer, name="adamw"))
    options = {"a_lol": {"clip": 0.9}, "dpo_ref_free": {"beta": 0.1}}.get(algorithm, {})
    idle, start = memory.peak(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = Source.parquet(path, Place(Path(folder), main))
        examples, plan = planning.plan(source, chosen, settings, 1, pad_id=0)
    planned = time.perf_counter()
    recipe = loop.Recipe(chosen, options, settings.optimizer)
    step = loop.Step(ResponseLogp(model), examples, recipe, launch.Machine(main, loaded.launch))
    for rows in plan.draws[:updates]:
        step(rows)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    done = time.perf_counter()
    return {
        "idle_mb": round(idle, 1), "memory_mb": round(memory.peak(), 1), "examples": len(examples),
        "planning_seconds": round(planned - start, 2), "updates_seconds": round(done - planned, 2),
    }  # fmt: skip


@click.command()
@click.argument("count", type=click.IntRange(min=64))
@click.option("--tokens", default=TOKENS, type=click.IntRange(min=5, max=500), help="Of a row's prompt and response.")
@click.option("--algorithm", default="a_lol", type=click.Choice(ALGORITHMS))
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where the table is written.")
def main(count: int, tokens: int, algorithm: str, folder: Path | None) -> None:
    """Measure planning and the first updates over a table of COUNT rows."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "train.parquet"
        write(path, count, tokens)
        click.echo(json.dumps({"rows": count, "tokens": count * tokens, **started(path, algorithm, UPDATES)}))


if __name__ == "__main__":
    main()
