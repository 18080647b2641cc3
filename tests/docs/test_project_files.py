"""What stands beside the code: targets of make, the licence, the version, the tables of outputs and of the graph."""

from __future__ import annotations

import re
import subprocess

import alol
from alol.config import yaml_files
from alol.data import schema
from alol.evaluation import summary
from tests.closure import ROOT


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_alone_lists_every_target_and_starts_nothing():
    listed = make()
    assert listed == make("help")
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split()
    found = re.findall(r"^  (\w+) +(\S.*)$", listed, flags=re.MULTILINE)
    assert sorted(name for name, _ in found) == sorted(targets)
    assert "Usage: make TARGET" in listed


def test_the_version_is_said_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", alol.__version__)
    assert 'version = {attr = "alol.__version__"}' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = yaml_files.parse((ROOT / "CITATION.cff").read_bytes(), ROOT / "CITATION.cff")
    assert citation["version"] == alol.__version__
    assert citation["license"] == "Apache-2.0"
    assert f"## {alol.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert len(text.split()) == 1581
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert text.endswith("   limitations under the License.\n")


def test_every_column_and_every_number_is_described():
    text = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.]+)`", text))
    last = {name.rpartition(".")[2] for name in named}
    columns = {field.name for table in schema.TABLES for field in table}
    keys = {key for cls in (summary.History, summary.ValueFit, summary.Evaluation) for key in cls.__annotations__}
    assert columns | keys <= last, sorted((columns | keys) - last)


def test_the_table_of_stages_is_the_graph():
    stages = yaml_files.read(ROOT / "dvc.yaml")["stages"]
    outs = [(name, out) for name in stages for out in stages[name]["outs"]]
    made = {str(next(iter(out)) if isinstance(out, dict) else out): name for name, out in outs}

    def maker(path: str) -> str | None:
        return next((name for out, name in made.items() if path == out or path.startswith(f"{out}/")), None)

    graph = {name: {maker(path) for path in stages[name]["deps"]} - {None} for name in stages}
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("## The graph")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([\w, ]*?) ?\| ", text, flags=re.MULTILINE)
    told = {name: set(filter(None, reads.replace(" ", "").split(","))) for name, reads in rows if name != "stage"}
    assert told == graph
