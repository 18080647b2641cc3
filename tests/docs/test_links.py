"""Links between the Markdown files: every file and heading that one names is there. Needs none of the site's tools."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import click
import pytest

from docs.generators import commands, pages, project
from docs.generators.parameters import FILES
from tests.closure import ROOT

PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED = {f"docs/{path}" for path in pages.paths(ROOT)}


def without_code(text: str) -> str:
    """The text without what is code: blocks between fences, and `spans`."""
    return re.sub(r"(`+).*?\1", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@cache
def anchors(page: str) -> set[str]:
    """The anchors of a page; of the generated ones, those of the files and sections that other pages may name."""
    if page in GENERATED:
        return {slug(str(path)) for path in FILES}
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {slug(line) for line in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


def links(page: str) -> list[str]:
    """The targets of a page's links and pictures that are no addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)", without_code((ROOT / page).read_text(encoding="utf-8")))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = str(((ROOT / page).parent / path).resolve().relative_to(ROOT.resolve())) if path else page
        assert place in GENERATED or (ROOT / place).exists(), f"{page}: {target} does not exist"
        if page.startswith("docs/"):
            there = place.startswith("docs/") or place in project.PAGES
            assert there, f"{page}: {target} is outside of docs/, and the site has no page of it"
        if anchor:
            assert anchor in anchors(place), f"{page}: {target}: {place} has no such heading"


def test_the_check_sees_a_heading_and_a_link():
    assert slug("What `launch` changes, in the last digits: V(x)") == "what-launch-changes-in-the-last-digits-vx"
    assert without_code("a ``b ` c`` [d](e.md)\n```\n[f](g.md)\n```\n") == "a  [d](e.md)\n\n"
    assert "the-pipeline" not in anchors("README.md")
    assert "two-commands" in anchors("README.md")


def test_the_readme_is_short_and_names_every_document():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    for name in ("docs/tutorial.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff"):
        assert f"]({name})" in text


def test_every_page_is_in_the_sites_navigation():
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE))
    written = {str(Path(page).relative_to("docs")) for page in PAGES if page.startswith("docs/")}
    assert listed == written | {pages.PARAMETERS, pages.COMMANDS}


def test_the_page_of_commands_has_the_twelve_stages_first():
    first, others = commands.page(ROOT).split("\n## ")[1:]
    assert len(re.findall(r"^### stages\.", first, flags=re.MULTILINE)) == 12
    assert "### stages.annotate\n" in first
    assert "### stages.sweep\n" in others


def test_every_command_of_stages_explains_itself():
    found = list(commands.commands())
    assert len(found) > 20
    for name, said, command in found:
        assert said, f"{name} has no docstring"
        assert commands.usage(name, command).startswith(f"Usage: python -m {name} ")
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name}: {option.name} has no help"


@pytest.mark.parametrize(
    ("text", "source", "page", "expected"),
    [
        ("[a](../README.md#two-commands)", "docs/x.md", "x.md", "[a](project/readme.md#two-commands)"),
        ("[a](../../CHANGELOG.md)", "docs/how-to/x.md", "how-to/x.md", "[a](../project/changelog.md)"),
        ("[a](y.md), [b](#c), [d](https://e.org)", "docs/x.md", "x.md", "[a](y.md), [b](#c), [d](https://e.org)"),
        ("![a](docs/a.png) [b](docs/y.md#z)", "README.md", "project/readme.md", "![a](../a.png) [b](../y.md#z)"),
        ("the [licence](LICENSE)", "README.md", "project/readme.md", "the licence"),
        ("[`a`](../README.md)", "docs/x.md", "x.md", "[`a`](project/readme.md)"),
        ("[a](nowhere.md)", "README.md", "project/readme.md", "[a](nowhere.md)"),
        (
            "`[a](docs/y.md)`\n```\n[b](docs/z.md)\n```\n",
            "README.md",
            "r.md",
            "`[a](docs/y.md)`\n```\n[b](docs/z.md)\n```\n",
        ),
    ],
)
def test_links_between_the_site_and_the_files_beside_it(text, source, page, expected):
    assert project.linked(text, source, page, ROOT) == expected
