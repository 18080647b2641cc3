"""One-byte changes of the pipeline's own files, each read by what the pipeline reads it with: refused, or read.

python -m tests.data.fuzz_tables --changes 500        prints a table

Parquet carries checksums: no change may give other data. Weights and JSON carry none.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from alol import rewards
from alol.base.errors import InputError
from alol.base.files import read_json
from alol.config import params
from alol.data import schema
from alol.evaluation import summary
from alol.models import policies
from alol.training import value_head
from tests import small

REFERENCE, POLICY, HEAD = Path("models/demo/reference"), Path("models/demo/a_lol"), Path("models/demo/value")
REWARDS = Path("models/demo/reward_model")
LIKELY = b'0189-.,:"{}[]aeN \n\x00\xff'  # bytes that mean something in JSON, or in a header


@dataclass(frozen=True)
class Subject:
    """A file of the pipeline and what reads it; `read` gives something that compares as equal for equal data."""

    kind: str
    file: Path
    read: Callable[[], Any]


def subjects() -> list[Subject]:
    """Of the small project in the current folder, through all of its stages."""
    loaded = params.load("demo")
    answers, own = (schema.scored(columns, loaded.rewards) for columns in (schema.ROLLOUTS, schema.RESPONSES))
    tables = {
        "clean/demo/train": schema.RESPONSES,
        "clean/demo/labels/ratings": schema.LABELLED,
        "annotated/demo/train": own,
        "rollouts/demo/test": schema.ROLLOUTS,
        "baselines/demo/validation": answers,
        "generations/demo/a_lol/test": answers,
    }
    paths = {Path(f"data/{name}.parquet"): columns for name, columns in tables.items()}
    found = [
        Subject("Parquet", path, lambda path=path, columns=columns: repr(schema.rows(path, columns)))
        for path, columns in paths.items()
    ]
    advantages = Path("data/advantages/demo/train.parquet")
    found.append(Subject("Parquet", advantages, lambda: repr(schema.table(advantages, schema.ADVANTAGES).to_pylist())))
    found += [
        Subject("safetensors", HEAD / "head.safetensors", lambda: _weights(value_head.load(HEAD))),
        Subject("safetensors", REFERENCE / "model.safetensors", lambda: _weights(policies.load(REFERENCE).model)),
        Subject("safetensors", REWARDS / "helpful/full/model.safetensors", lambda: _scores(loaded)),
    ]
    json = {
        HEAD / "head.json": lambda: _weights(value_head.load(HEAD)),
        HEAD / "heldout.json": lambda: repr(summary.heldout(HEAD / "heldout.json")),
        REFERENCE / "policy.json": lambda: repr(policies.load(REFERENCE).pointer),
        REFERENCE / "config.json": lambda: repr(policies.load(REFERENCE).model.config),
        REFERENCE / "tokenizer.json": lambda: policies.load(REFERENCE).tokenizer("one text")["input_ids"],
        POLICY / "training.json": lambda: repr(read_json(POLICY / "training.json", summary.History)),
        Path("metrics/value.json"): lambda: repr(read_json(Path("metrics/value.json"), summary.ValueFit)),
        REWARDS / "informative/tfidf.json": lambda: _scores(loaded),
        REWARDS / "helpful/full/config.json": lambda: _scores(loaded),
    }
    return found + [Subject("JSON", path, read) for path, read in json.items()]


def _weights(module: Any) -> bytes:
    return b"".join(tensor.detach().numpy().tobytes() for tensor in module.state_dict().values())


def _scores(loaded: params.Params) -> bytes:
    components = rewards.load(loaded.rewards, REWARDS, loaded.launch)
    scores = components.score(["User: hello\nAssistant:"], ["a helpful answer"], [{}])
    return np.stack(list(scores.values())).tobytes()


def outcome(subject: Subject, whole: Any) -> str:
    """refused (in one line), equal, other, or what went wrong."""
    try:
        found = subject.read()
    except InputError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {str(error)!r:.80}"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.80}"
    return "equal" if found == whole else "other"


def changed(subject: Subject, count: int, draw: random.Random) -> Iterator[tuple[int, str]]:
    """(place, outcome) of `count` one-byte changes; the file is then as it was."""
    data, whole = subject.file.read_bytes(), subject.read()
    # the ends of a file hold what describes it
    ends = [range(min(200, len(data))), range(max(0, len(data) - 1000), len(data)), range(len(data))]
    try:
        for i in range(count):
            place, broken = draw.choice(ends[i % 3]), bytearray(data)
            other = draw.choice(LIKELY) if i % 2 else draw.randrange(256)
            broken[place] = other if other != data[place] else other ^ 1
            subject.file.write_bytes(broken)
            yield place, outcome(subject, whole)
    finally:
        subject.file.write_bytes(data)


@click.command()
@click.option("--changes", default=500, show_default=True, help="For each of the three kinds of file.")
@click.option("--seed", default=0, show_default=True)
def main(changes: int, seed: int) -> None:
    """Print how many changes of each file were refused, gave equal data, or silently gave other data."""
    wrong = 0
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        small.write(Path())
        small.run([*small.BEFORE_TRAIN, *small.FROM_TRAIN])
        every, draw = subjects(), random.Random(seed)
        for subject in every:
            share = -(-changes // sum(other.kind == subject.kind for other in every))
            found = list(changed(subject, share, draw))
            counts = Counter(what for _, what in found)
            known = {name: counts.pop(name, 0) for name in ("refused", "equal", "other")}
            wrong += counts.total() + (known["other"] if subject.kind == "Parquet" else 0)
            numbers = ", ".join(f"{name} {count}" for name, count in known.items())
            click.echo(f"{subject.kind:12} {subject.file!s:48} {len(found):4} changes: {numbers}")
            for what, count in counts.items():
                click.echo(f"    WRONG {count} x {what}, such as at byte {next(at for at, w in found if w == what)}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
