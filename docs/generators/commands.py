"""The reference of all commands: what `--help` of each says."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import click

import stages
from alol.config import yaml_files

WIDTH = 100  # characters


def commands() -> Iterator[tuple[str, str, click.Command]]:
    """(module, its docstring, its command) of every module of `stages` that one runs, sorted."""
    for found in sorted(pkgutil.iter_modules(stages.__path__), key=lambda one: one.name):
        if not found.name.startswith("_"):
            module = importlib.import_module(f"stages.{found.name}")
            yield module.__name__, (module.__doc__ or "").strip(), module.main


def usage(name: str, command: click.Command) -> str:
    """What `python -m <name> --help` prints."""
    with click.Context(
        command, info_name=f"python -m {name}", max_content_width=WIDTH, terminal_width=WIDTH
    ) as context:
        return command.get_help(context)


def page(root: Path = Path()) -> str:
    """The page in Markdown: the stages of dvc.yaml first, then the commands that are none."""
    parts = [
        "# Commands",
        "What `--help` of each command says. DVC runs the stages of the pipeline (`dvc repro`, `dvc exp run`), each of "
        "which is a command too; the others one runs by hand.",
    ]
    found, pipeline = list(commands()), yaml_files.read(root / "dvc.yaml")["stages"]
    for title, stage in (("The stages of the pipeline", True), ("Other commands", False)):
        parts.append(f"## {title}")
        for name, _, command in found:
            if (name.removeprefix("stages.") in pipeline) == stage:
                parts += [f"### {name}", f"```text\n{usage(name, command)}\n```"]
    return "\n\n".join(parts) + "\n"
