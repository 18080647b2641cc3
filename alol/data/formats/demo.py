"""The built-in demo: a made-up log of an assistant's answers of mixed quality, with thumbs up and down.

`generate` writes it as raw files, as a download would; `read` turns them into rows. Facts recur in every split under
other wordings; a wording belongs to one split alone. The true quality (alol.data.demo.oracle) is a metric.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alol.base.errors import InputError
from alol.data import rawfiles
from alol.data.demo.generator import SOURCE
from alol.data.demo.oracle import quality
from alol.data.formats import Format, Row
from alol.data.schema import SPLITS


@dataclass(frozen=True)
class CleanOptions:
    """The demo's rows need no choices."""


def read(raw: Path, options: CleanOptions) -> dict[str, Iterator[Row]]:
    """Each split's rows, one per response; `context` holds the topic and the answers, which the metric alone needs."""
    return {split: _rows(raw / SOURCE / f"{split}.jsonl") for split in SPLITS}


def _rows(path: Path) -> Iterator[Row]:
    if not path.exists():
        raise InputError(f"{path} is missing; run `dvc repro download` to make it")
    for record in rawfiles.records(path):
        try:
            yield from _parse(record.values)
        except (KeyError, TypeError) as error:
            raise InputError(f"{record.where}: not a row of the demo's corpus ({error!r})") from None


def _parse(raw: dict[str, Any]) -> list[Row]:
    texts = [raw["id"], raw["prompt"], raw["question"], *(each["text"] for each in raw["responses"])]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("what must be a text is none")
    shared = {
        "prompt_id": raw["id"],
        "subset": "demo",
        "prompt": raw["prompt"],
        "cuts": [],
        "turns": [{"role": "human", "text": raw["question"]}],
        "context": {key: raw[key] for key in ("topic", "accepted", "rejected")},
    }
    return [{**shared, "rank": rank, "response": each["text"]} for rank, each in enumerate(raw["responses"])]


FORMAT = Format(options=CleanOptions, read=read, metrics={"quality": quality})
