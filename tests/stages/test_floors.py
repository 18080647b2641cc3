"""The floors of the house (pyproject.toml, `lint-imports`): kept, and noticed where they are not."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.closure import ROOT

ARGUMENTS = 6
MORE = {  # public functions that take more, and why
    "attention",  # transformers calls it so
    "varlen_attention",  # as PyTorch's varlen_attn
    "run_length", "answers",
    "a_star", "kto_zero", "qrpo",  # losses: tensors and constants by name
}  # fmt: skip


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([command, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def house(tmp_path):
    for name in ("alol", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_rooms_import_only_those_below_them(house):
    done = lint(house)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("alol/config/paths.py", "from alol.data import schema"),
        ("alol/compute/packing.py", "from alol.models import policies"),
        ("alol/rewards/options.py", "from alol.algorithms import offline"),
        ("alol/evaluation/metrics.py", "from stages import train"),
    ],
)
def test_an_upward_import_is_named(house, file, line):
    path = house / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")
    done = lint(house)
    imported = line.split()[1]
    assert done.returncode == 1
    assert f"{file.removesuffix('.py').replace('/', '.')} -> {imported}" in done.stdout


def test_every_room_says_what_it_is_for():
    for package in (ROOT / "alol").rglob("__init__.py"):
        text = package.read_text(encoding="utf-8")
        assert text.startswith('"""'), package
        assert package.parent.name == "alol" or "May import: " in text, package


def test_public_functions_take_at_most_six_arguments():
    """What belongs together is one value: a Recipe, a Decoding, a Machine."""
    longer = set()
    for file in (ROOT / "alol").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                if sum(one.arg not in ("self", "cls") for one in every) > ARGUMENTS:
                    longer.add(node.name)
    assert longer == MORE
