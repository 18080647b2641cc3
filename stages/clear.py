"""Shows and removes what killed commands have left: unfinished work, downloads, partial outputs. Not a stage.

Plain copies of .gguf models, and the copies of the checkout in which sweeps run, go too: they are made again when
needed.

python -m stages.clear --list
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from alol.base import work
from alol.base.files import TARGET, remove
from alol.base.locks import Lock
from alol.base.text import align
from alol.config import paths
from stages._cli import mistakes

OUTPUTS = (Path("data"), Path("models"), paths.METRICS, paths.REPORTS)


@click.command(name="clear")
@click.option("--list", "only_list", is_flag=True, help="Show what there is and remove nothing.")
def main(only_list: bool) -> None:
    """Remove unfinished work and partial outputs that no running command has."""
    with mistakes():
        lines = [["left", "kB", "hours old", ""]]
        for path, lock in left():
            size, age = work.size(path), (time.time() - work.last_change(path)) / 3600
            state = "in use"
            if lock.take():
                state = "" if only_list else "removed"
                if not only_list:
                    remove(path)
                lock.release()
            lines.append([str(path), f"{size / 1000:.0f}", f"{age:.1f}", state])
        click.echo(align(lines, left=1) if len(lines) > 1 else "nothing is left of commands that were killed")


def left() -> Iterator[tuple[Path, Lock]]:
    """What there is, and the lock that its owner holds."""
    for pattern in ("stages/*/*", "downloads/*", "models/*", "sweeps/copy_*"):
        for path in sorted(paths.work(".").glob(pattern)):
            if path.is_dir():
                yield path, Lock.of(path)
    for folder in OUTPUTS:
        for path in sorted(folder.rglob(".*.partial")):
            if (target := TARGET.fullmatch(path.name)) and not any(one.endswith(".partial") for one in path.parts[:-1]):
                yield path, Lock(path.with_name(f".{target[1]}.lock"))


if __name__ == "__main__":
    main()
