"""Time and peak memory of stage clean on the two csv files of the Reddit tasks, at their published size of 1 GB each.

The files are made here: a few rows repeated with other words, until each is as large as asked for. Nothing here may
load torch: on Linux a process's peak starts at that of the process that started it.

python -m benchmarks.reddit_clean --gigabytes 1 --out reddit_clean.json
"""

from __future__ import annotations

import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from tokenizers import ByteLevelBPETokenizer
from tqdm import tqdm

from alol.base.files import write_json
from alol.base.text import align
from alol.config import paths
from benchmarks import project

ROOT = Path(__file__).parents[1]
TASK = "reddit_pos"
COLUMNS = (
    "id parent_id subreddit_id link_id text score ups author controversiality parent_link_id parent_text parent_score "
    "parent_ups parent_author parent_controversiality"
).split()
WORDS = "the a of that this people time game really think would never about because https://example.org/x good".split()
BATCH = 500  # rows between two looks at the size
MEGABYTE = 1 << 20


def write_comments(path: Path, size: int, sign: int) -> int:
    """A csv file of at least `size` bytes with comments of 1 to 140 words; returns its rows."""
    draw = random.Random(901)
    texts = [" ".join(draw.choices(WORDS, k=draw.choice((3, 8, 20, 40, 90, 140)))) for _ in range(997)]
    path.parent.mkdir(parents=True)
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as file, tqdm(desc=path.name, total=size, unit="B") as bar:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        while file.tell() < size:
            for i in range(rows, rows + BATCH):
                text, parent = texts[i % 997], texts[i * 7 % 991]
                row = dict.fromkeys(COLUMNS, f"t1_{i:x}") | {"score": sign * (66 + i % 500), "parent_score": i % 90}
                writer.writerow(row | {"text": f"{text}, said {i}", "parent_text": "" if i % 50 == 0 else parent})
            rows += BATCH
            bar.update(file.tell() - bar.n)
    return rows


def write_params(folder: Path, sample: int) -> None:
    """The published task with a tokenizer that needs no hub."""
    raw = project.parameters(TASK)
    options = raw["defaults"]["clean"]["formats"]["reddit"]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(WORDS, vocab_size=400, min_frequency=1, show_progress=False)
    (folder / "tokenizer").mkdir()
    tokenizer.save_model(str(folder / "tokenizer"))
    options |= {"tokenizer": str(folder / "tokenizer"), "tokenizer_revision": None, "sample": sample}
    part = min(options["test"], sample // 10)
    options |= {"test": part, "validation": part}
    project.write(folder, raw)


def measure(gigabytes: float, sample: int) -> dict[str, Any]:
    """Makes the files in a temporary folder, cleans them in a process of its own, and says what that took."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_params(folder, sample)
        size, rows = int(gigabytes * (1 << 30)), 0
        for name, sign in (("positive", 1), ("negative", -1)):
            rows += write_comments(folder / paths.raw(TASK) / name / f"comments_{name}.csv", size, sign)
        start = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "stages.clean", "--task", TASK]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(done.stderr.strip().splitlines()[-1])
        seconds = time.monotonic() - start
        cost = json.loads((folder / paths.cost("clean")).read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / MEGABYTE
    read = 4 * size / MEGABYTE  # two files, twice each
    return {
        "bytes_per_file": size, "rows": rows, "sample": sample, "seconds": round(seconds, 1),
        "megabytes_per_second": round(read / seconds, 1), "peak_memory_mb": round(max(peak, cost["peak_memory_mb"]), 1),
    }  # fmt: skip


@click.command()
@click.option("--gigabytes", default=1.0, show_default=True, help="Size of each of the two files.")
@click.option("--sample", default=102000, show_default=True, help="Rows drawn from each.")
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file for the figures.")
def main(gigabytes: float, sample: int, out: Path | None) -> None:
    """Measure stage clean on Reddit-sized csv files."""
    found = measure(gigabytes, sample)
    click.echo(align([["figure", "value"], *([name, str(value)] for name, value in found.items())], left=1))
    if out is not None:
        write_json(out, found)


if __name__ == "__main__":
    main()
