"""Tables as .csv files, equal bytes for equal rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alol.base.files import replacing


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """`columns` come first, then the rows' others in order of appearance; a missing value is left empty."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
