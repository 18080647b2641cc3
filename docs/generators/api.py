"""The reference of the library: a page for each room, its modules and functions read by griffe, nothing imported."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = "reference/api"
PACKAGES = ("alol", "stages", "custom")


def rooms(root: Path = Path()) -> dict[str, str]:
    """Dotted name of each package -> the first line of its docstring."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("__init__.py")):
            name = ".".join(path.parent.relative_to(root).parts)
            found[name] = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or name).splitlines()[0]
    return found


def modules(room: str, root: Path = Path()) -> list[str]:
    """Dotted names of the modules in a package itself, sorted."""
    folder = root / Path(*room.split("."))
    return [f"{room}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def pages(root: Path = Path()) -> dict[str, str]:
    """Path below docs/ -> Markdown, for each package."""
    return {f"{FOLDER}/{room}.md": _page(room, root) for room in rooms(root)}


def _page(room: str, root: Path) -> str:
    parts = [f"# {room}", f"::: {room}\n    options:\n      show_submodules: false\n      members: false"]
    for module in modules(room, root):
        parts += [f"## {module}", f"::: {module}\n    options:\n      heading_level: 3"]
    return "\n\n".join(parts) + "\n"
