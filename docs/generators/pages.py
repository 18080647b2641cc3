"""Which pages are generated, by their paths below docs/."""

from __future__ import annotations

from pathlib import Path

from docs.generators import api, parameters

PARAMETERS, COMMANDS = "reference/parameters.md", "reference/commands.md"


def library(root: Path = Path()) -> list[str]:
    """The paths of the pages about the library, in their order."""
    return list(api.pages(root))


def paths(root: Path = Path()) -> list[str]:
    """The path of every generated page; makes none of them."""
    return [PARAMETERS, COMMANDS, *library(root)]


def generated(root: Path = Path()) -> dict[str, str]:
    """Path -> Markdown."""
    from docs.generators import commands  # loads torch

    return {PARAMETERS: parameters.page(root), COMMANDS: commands.page(), **api.pages(root)}
