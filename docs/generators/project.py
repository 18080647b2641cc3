"""Files beside docs/ as pages of the site, and links between the two: on the site, each leads to a page of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCS = "docs"
PAGES = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "examples/minimal.py": "project/minimal.md",
}  # file -> path below docs/
CODE = re.compile(r"(^```.*?^```$|(`+)(?!`).*?(?<!`)\2(?!`))", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")


def included(root: Path = Path()) -> dict[str, str]:
    """Those of PAGES whose files are there."""
    return {file: page for file, page in PAGES.items() if (root / file).exists()}


def pages(root: Path = Path()) -> dict[str, str]:
    """Path below docs/ -> Markdown, of each included file; of code, a page that shows it."""
    return {page: _page(file, page, root) for file, page in included(root).items()}


def _page(file: str, page: str, root: Path) -> str:
    text = (root / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        return linked(text, file, page, root)
    return f"# {file}\n\n```python\n{text.rstrip()}\n```\n"


def linked(text: str, source: str, page: str, root: Path = Path()) -> str:
    """Markdown of the file `source` as it stands on the site's `page` (below docs/): links lead to the site's pages.

    What the site does not have, such as the licence, keeps its words without a link. A link that leads nowhere stays,
    for MkDocs to refuse.
    """

    def replace(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        path, anchor, fragment = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        file = os.path.normpath(os.path.join(os.path.dirname(source), path))  # noqa: PTH118, PTH120
        place = file.removeprefix(f"{DOCS}/") if file.startswith(f"{DOCS}/") else included(root).get(file)
        if place is None:
            return words if (root / file).exists() else match[0]
        return f"{mark}[{words}]({os.path.relpath(place, os.path.dirname(page) or '.')}{anchor}{fragment})"  # noqa: PTH120

    pieces, end = [], 0
    for code in CODE.finditer(text):
        if "](" not in code[0]:  # no link in it, but it may be the words of one
            continue
        pieces += [LINK.sub(replace, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, LINK.sub(replace, text[end:])])
