"""The stages of a paper's task, end to end, on random weights of LLaMA-7B's shape and synthetic text: time and memory.

Each stage runs in a process of its own, as it does for a user, with the task's adapter, optimizer and lengths; the last
is one rollout of PPO with its updates. The reward is the length of an answer: nothing but the policy needs the GPU.

python -m benchmarks.gpu_stages --out stages.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from benchmarks import measure, project
from benchmarks.gpu_llama import Shape, save_base
from benchmarks.gpu_run import precision, say, tokenizer_of, words

NAME = "shape"
SHARED = ("download", "clean", "annotate", "reference", "rollout", "baseline", "value", "advantage")
PER_RUN = (("train", "a_lol"), ("evaluate", "a_lol"), ("train", "ppo"))


def texts(known: list[str], count: int, median: float, most: int, generator: np.random.Generator) -> list[str]:
    """Of random words; lengths in words are log-normal, as of dialogues."""
    lengths = generator.lognormal(np.log(median), 0.7, count).round().clip(1, most).astype(int)
    return [" ".join(generator.choice(known, length)) for length in lengths]


def parameters(task: str, base: Path, data: Path, rows: dict[str, int], updates: int, batch: int) -> dict[str, Any]:
    """The project's, with the task `NAME`: `task` on the base and the texts at hand."""
    raw = project.parameters(task)
    own = raw["tasks"].pop(task)
    project.change(raw, {"task": NAME, "launch.precision": precision(), "launch.generate_batch": batch})
    raw["algorithms"]["ppo"]["updates_per_rollout"] = updates  # one rollout
    own["source"] = {"texts": {"kind": "path", "location": str(data)}}
    shares = {name: count / sum(rows.values()) for name, count in rows.items() if name != "train"}
    options = {"train": "texts/texts.csv", "prompt": "prompt", "response": "response", "shares": shares}
    own["clean"] = {"format": "table", "options": options}
    own["rewards"] = {
        "length": {"kind": "python", "function": "custom.example.concise", "low": -1.0, "high": 0.0},
    }  # fmt: skip
    own["test_rewards"] = {}
    own["reward"] = {"weights": {"length": 1.0}}
    own["policy"] |= {"model": str(base), "revision": None, "adapter": None, "adapter_revision": None}
    own["generate"] = {}
    project.change(own, {"train.updates": updates, "train.evaluations": 1, "value.epochs": 2})
    raw["tasks"] = {NAME: own}
    return raw


@click.command()
@click.option("--task", default="hha", help="Whose settings are used.")
@click.option("--base", type=click.Path(path_type=Path), help="Folder in which LLaMA's base is kept; else in none.")
@click.option("--layers", default=32, help="The defaults are LLaMA-7B's.")
@click.option("--width", default=4096)
@click.option("--heads", default=32)
@click.option("--intermediate", default=11008)
@click.option("--vocabulary", default=32000)
@click.option("--train", "train_rows", default=160, help="Training prompts.")
@click.option("--validation", default=64, help="Validation prompts.")
@click.option("--test", "test_rows", default=64, help="Test prompts.")
@click.option("--updates", default=8, help="Of A-LoL; and of PPO, in one rollout.")
@click.option("--generate-batch", default=64, help="Prompts answered at once.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the result.")
def main(
    task: str,
    base: Path | None,
    train_rows: int,
    validation: int,
    test_rows: int,
    updates: int,
    generate_batch: int,
    out: Path | None,
    **shape: int,
) -> None:
    """Run every stage of a task on a random model of LLaMA-7B's shape."""
    rows = {"train": train_rows, "validation": validation, "test": test_rows}
    found: dict[str, Any] = {**measure.machine(), "precision": precision(), "rows": rows, "updates": updates}
    found |= {"shape": shape, "generate_batch": generate_batch, "stages": {}}
    with tempfile.TemporaryDirectory() as name:
        folder, generator = Path(name), np.random.default_rng(1)
        known = words(2 * shape["vocabulary"], generator)
        if base is None or not base.exists():
            say("making the base")
            base = base or folder / "base"
            save_base(Shape(**shape, positions=1024), tokenizer_of(known, shape["vocabulary"]), base)
        data = folder / "texts.csv"
        total = sum(rows.values())
        columns = {
            "prompt": texts(known, total, 60, 250, generator), "response": texts(known, total, 18, 45, generator),
        }  # fmt: skip
        pd.DataFrame(columns).to_csv(data, index=False)
        work = folder / "project"
        work.mkdir()
        project.write(work, parameters(task, base.absolute(), data, rows, updates, generate_batch))
        for stage, algorithm in [*((stage, None) for stage in SHARED), *PER_RUN]:
            label = f"{stage} {algorithm}" if algorithm else stage
            say(label)
            found["stages"][label] = project.run(work, stage, NAME, algorithm)
            text = json.dumps(found, indent=2)
            if out is not None:
                out.write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
