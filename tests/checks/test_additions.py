"""What stages.check says of an addition that is not complete; docs/extending.md, followed to the letter."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alol.algorithms import offline, registry
from alol.checks import additions
from alol.data import formats
from alol.rewards.options import KINDS
from tests import small
from tests.closure import ROOT

PAGE = ROOT / "docs/extending.md"
COPIED = (
    "alol", "stages", "custom", "tasks", "templates", "tests", "benchmarks", "docs", "params.yaml", "pyproject.toml",
)  # fmt: skip
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def test_nothing_is_missing_here():
    assert additions.missing(ROOT) == [], "docs/extending.md says where each belongs"


def write(folder: Path, **changes) -> list[str]:
    small.write(folder, **changes)
    return additions.missing(folder)


def test_a_missing_entry_of_params_yaml_is_written_out(tmp_path):
    raw = {name: {} for name in registry.NAMES if name not in ("a_lol_kl", "nll")}
    assert write(tmp_path, algorithms=raw) == [
        "params.yaml: algorithms lacks nll; add `nll: {}`",
        "params.yaml: algorithms lacks a_lol_kl; add `a_lol_kl: {kl_beta: ...}`, each key with a comment",
    ]


def test_a_loss_without_its_entry_is_told_from_no_loss_at_all(monkeypatch):
    monkeypatch.delitem(offline.OFFLINE, "wbc")
    assert additions.unregistered("wbc") == (
        "alol/algorithms/offline.py has the loss wbc, but OFFLINE, at its foot, has no entry for it"
    )
    assert additions.unregistered("mine").startswith("a new one is a loss, and its entry in OFFLINE")


def test_what_no_table_has_is_named(monkeypatch):
    monkeypatch.delitem(offline.OFFLINE, "wbc")
    monkeypatch.delitem(KINDS, "tfidf")
    monkeypatch.setattr(additions, "_algorithms", lambda root: [])
    assert additions.missing(ROOT) == [
        "alol/algorithms/offline.py: OFFLINE, at its foot, has no entry for the loss wbc",
        "alol/rewards/options.py: KINDS has no entry for alol.rewards.tfidf:TfidfReward",
    ]


def test_a_metric_that_the_table_lacks_is_named(tmp_path, monkeypatch):
    for file in ("rewards/options.py", "evaluation/metrics.py"):
        (tmp_path / file).parent.mkdir()
        text = (ROOT / "alol" / file).read_text(encoding="utf-8")
        (tmp_path / file).write_text(text.replace('    "length": length,\n', ""), encoding="utf-8")
    monkeypatch.setattr(additions.options, "__file__", str(tmp_path / "rewards/options.py"))
    found = [line for line in additions.missing(ROOT) if "METRICS" in line]
    assert found == ['alol/evaluation/metrics.py: METRICS lacks length; add "length": length']


def test_columns_that_the_loss_does_not_take_are_named(monkeypatch):
    monkeypatch.setitem(offline.OFFLINE, "wbc", dataclasses.replace(offline.OFFLINE["wbc"], columns=()))
    assert additions.missing(ROOT) == [
        "alol/algorithms/offline.py: the loss of wbc takes the columns reward, but its entry in OFFLINE lists none"
    ]


def test_a_missing_kind_or_class_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "tfidf", (KINDS["tfidf"][0], "alol.rewards.tfidf:Tfidff"))
    assert additions.missing(ROOT) == [
        "alol/rewards/options.py: KINDS names alol.rewards.tfidf:Tfidff, but alol/rewards/tfidf.py has no class Tfidff"
    ]
    monkeypatch.undo()
    monkeypatch.setitem(KINDS, "new", KINDS["python"])
    assert additions.missing(ROOT) == [
        "tasks/shared/rewards.yaml: kinds lacks new; add `new: {function: ..., high: ..., low: ...}`, each key with a "
        "comment"
    ]


def test_a_missing_format_is_named(monkeypatch):
    known = {name: formats.get(name) for name in formats.names()}
    monkeypatch.setattr(formats, "_formats", lambda: {name: one for name, one in known.items() if name != "hha"})
    assert additions.missing(ROOT) == [
        'alol/data/formats/__init__.py: _formats lacks hha, though hha.py is there; add "hha": hha.FORMAT'
    ]
    monkeypatch.setattr(formats, "_formats", lambda: {**known, "new": known["reddit"]})
    (line,) = additions.missing(ROOT)
    assert line.startswith("tasks/shared/clean.yaml: formats lacks new; add `new: {positive: ..., negative: ...,")


# --- the page


def blocks(section: str) -> Iterator[tuple[str, str, str]]:
    """(language, file, text) of each block of a section."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return ((language, file, text) for language, file, text in BLOCK.findall(text))


def changed(text: str, diff: str) -> str:
    """The file's text after a diff without line numbers, whose old lines must stand in it once."""
    lines = [(line[:1], line[1:]) for line in diff.splitlines()]
    old = "".join(f"{line}\n" for sign, line in lines if sign != "+")
    assert text.count(old) == 1, f"{text.count(old)} places for {old!r}"
    return text.replace(old, "".join(f"{line}\n" for sign, line in lines if sign != "-"))


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    assert command.startswith("python -m ")
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
    return subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("section", ["An algorithm", "A kind of reward", "A format", "A metric"])
def test_the_page_works_to_the_letter(section, tmp_path):
    """Files and changes are made, commands run and succeed, and what the page says that `check` says, it says."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    commands = 0
    for language, file, text in blocks(section):
        if language == "diff":
            path = tmp_path / file
            path.write_text(changed(path.read_text(encoding="utf-8"), text), encoding="utf-8")
        elif language == "python":
            assert not (tmp_path / file).exists()
            (tmp_path / file).write_text(text, encoding="utf-8")
        elif language == "text":
            assert text.strip() in run("python -m stages.check", tmp_path).stderr
        else:
            for command in text.splitlines():
                done = run(command, tmp_path)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                assert "lacks" not in done.stderr
                commands += 1
    assert commands
    lint = [Path(sys.executable).with_name("ruff"), "check", "--no-cache", "alol"]
    assert subprocess.run(lint, cwd=tmp_path, capture_output=True, check=False).returncode == 0
