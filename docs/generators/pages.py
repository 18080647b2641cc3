"""Which pages are generated, by their paths below docs/."""

from __future__ import annotations

from pathlib import Path

from docs.generators import api, parameters, project

PARAMETERS, COMMANDS = "reference/parameters.md", "reference/commands.md"


def library(root: Path = Path()) -> list[str]:
    """The paths of the pages about the library, in their order."""
    return list(api.pages(root))


def paths(root: Path = Path()) -> list[str]:
    """The path of every generated page; makes none of them."""
    return [PARAMETERS, COMMANDS, *library(root), *project.included(root).values()]


def generated(root: Path = Path()) -> dict[str, str]:
    """Path -> Markdown."""
    from docs.generators import commands  # loads torch

    pages = {PARAMETERS: parameters.page(root), COMMANDS: commands.page(root)}
    return {**pages, **api.pages(root), **project.pages(root)}
