"""The site for real, where the tools of docs/requirements.txt are installed: strictly, and without a network."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from docs.generators import pages
from tests.closure import ROOT

TOOLS = ("mkdocs", "mkdocstrings", "mkdocstrings_handlers.python")
OFFLINE = (
    "import socket, sys\n"
    "def refuse(*_): raise OSError('this test has no network')\n"
    "socket.socket.connect = socket.getaddrinfo = refuse\n"
    "from mkdocs.__main__ import cli\n"
    "cli(sys.argv[1:])\n"
)


def missing() -> str | None:
    """The first of the tools that is not installed."""
    for name in TOOLS:
        try:
            if importlib.util.find_spec(name) is None:
                return name
        except ModuleNotFoundError:
            return name
    return None


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if name := missing():
        pytest.skip(f"{name} is not installed: `make tools` installs what builds the site")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", OFFLINE, "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_page(site):
    for path in pages.paths(ROOT):
        assert (site / path).with_suffix(".html").exists(), path
    text = (site / "reference/api/alol.algorithms.html").read_text(encoding="utf-8")
    assert "a_lol_ref_free" in text
    assert "with the importance weight set to 1" in text


@pytest.mark.slow
def test_a_page_fetches_nothing(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe)[^>]*src=[\"']?(?:https?:)?//[^\"' >]+", text) == [], page
        assert re.findall(r"<link[^>]*href=[\"']?(?:https?:)?//[^\"' >]+", text) == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//[^)]+", sheet.read_text(encoding="utf-8")) == [], sheet
