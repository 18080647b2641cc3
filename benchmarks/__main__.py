"""All measurements in one run: a JSON file with everything, and a Markdown table."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from alol.base.errors import InputError
from alol.base.files import replacing, write_json
from benchmarks import measure
from benchmarks.size import FULL, TINY, Size

# name -> (module, function that yields rows)
PARTS = {
    "training": ("training", "against_plain"),
    "trl": ("training", "against_trl"),
    "generation": ("generation", "against_generate"),
    "scoring": ("scoring", "against_pipeline"),
    "scoring-bf16": ("scoring", "against_fp32"),
    "memory": ("memory", "compared"),
    "padding": ("counting", "padding"),
    "reads": ("counting", "reads"),
    "growth": ("growth", "tenfold"),
    "rows": ("rows", "tenfold"),
    "waits": ("startup", "waits"),
    "smollm2": ("smollm2", "updates"),
    "smollm2-trl": ("smollm2_trl", "updates"),
    "smollm2-reading": ("smollm2_reading", "measured"),
}
SIZES = {"full": FULL, "tiny": TINY}


def rows(part: str, size: Size) -> Iterator[dict[str, Any]]:
    """The rows of a part; one that says so where what it compares with is not installed."""
    if part in ("trl", "smollm2-trl") and not importlib.util.find_spec("trl"):
        yield {"name": "TRL", "skipped": "not installed: pip install -r benchmarks/requirements.txt"}
        return
    module, function = PARTS[part]
    yield from getattr(importlib.import_module(f"benchmarks.{module}"), function)(size)


def told(found: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows; sides that differ, or data that is not there, end the run with one line."""
    try:
        yield from found
    except (InputError, measure.ParityError) as error:
        raise click.ClickException(str(error)) from None


def table(found: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Markdown: ratios first, then all other rows as they are."""
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"torch {machine['torch']}, transformers {machine['transformers']}",
        "",
        "| | against | times as fast (lowest to highest) | useful tokens/s | memory over idle, MB | differs by |",
        "|---|---|---:|---:|---:|---|",
    ]
    lines += [_ratio(row) for row in found if "ratio" in row and "asked" not in row]
    if asked := [row for row in found if "ratio" in row and "asked" in row]:
        lines += [
            "",
            "| one thread, processor seconds | against | times as fast (lowest to highest) | asked | useful tokens/s "
            "| padding there | differs by |",
            "|---|---|---:|---:|---:|---:|---|",
            *(_asked(row) for row in asked),
        ]
    others = [row for row in found if "ratio" not in row]
    if others:
        lines += ["", "| | |", "|---|---|", *(_other(row) for row in others)]
    return "\n".join(lines) + "\n"


def _ratio(row: dict[str, Any]) -> str:
    cells = [
        row["name"],
        row["yardstick"],
        f"**{row['ratio']:.2f}** ({row['low']:.2f} to {row['high']:.2f})",
        f"{row['tokens_per_second']:,} : {row['yardstick_tokens_per_second']:,}",
        f"{row['memory_mb']:,.0f} : {row['yardstick_memory_mb']:,.0f} "
        f"({row['memory_mb'] / max(row['yardstick_memory_mb'], 1e-9):.2f})",
        _parity(row),
    ]
    return f"| {' | '.join(cells)} |"


def _asked(row: dict[str, Any]) -> str:
    cells = [
        row["name"],
        row["yardstick"],
        f"**{row['ratio']:.2f}** ({row['low']:.2f} to {row['high']:.2f})",
        _number(row["asked"]),
        f"{row['tokens_per_second']:,} : {row['yardstick_tokens_per_second']:,}",
        f"{row['padding']:.0%}" if "padding" in row else "",
        _parity(row),
    ]
    return f"| {' | '.join(cells)} |"


def _parity(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in row["parity"].items())


def _other(row: dict[str, Any]) -> str:
    told = "; ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in row.items() if name != "name")
    return f"| {row['name']} | {told} |"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(_number, value))
    if isinstance(value, float):
        return f"{value:.2g}" if 0 < abs(value) < 1e-3 else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if type(value) is int else str(value)


@click.command()
@click.option("--size", type=click.Choice(list(SIZES)), default="full", help="tiny takes a minute and says little.")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Parts to run; all when not given.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("reports/benchmarks"), help="Folder of the results."
)
def main(size: str, only: tuple[str, ...], out: Path) -> None:
    """Measure everything side by side; rows of earlier runs of other parts in the same folder stay."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    path = out / "benchmarks.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["parts"] if only and path.exists() else {}
    machine = measure.machine()
    for part in only or PARTS:
        click.echo(f"{part} ...", err=True)
        kept[part] = []
        for row in told(rows(part, SIZES[size])):
            kept[part].append(row)
            shown = _asked if "asked" in row and "ratio" in row else _ratio if "ratio" in row else _other
            click.echo(f"  {shown(row)}", err=True)
            parts = {name: kept[name] for name in PARTS if name in kept}
            write_json(path, {"machine": machine, "size": size, "parts": parts})
    text = table([row for name in PARTS for row in kept.get(name, [])], machine)
    with replacing(out / "benchmarks.md") as partial:
        partial.write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
