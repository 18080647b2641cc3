"""What Python reward functions may return and do: numbers, or one line with function, row and fault."""

from __future__ import annotations

import decimal
import fractions
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

import custom
from alol import rewards
from alol.base.errors import InputError
from alol.data import schema
from alol.rewards.python import resolve
from stages import annotate
from tests.reward_project import load, row, write_clean

WEIGHT = torch.ones(3, requires_grad=True)
HALF = torch.ones(3, dtype=torch.bfloat16)
GIVEN: list = []  # what the reward function returns
NAME = "custom.user_rewards"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes custom/user_rewards.py, in a folder of the test's own, where the process then works."""
    monkeypatch.setattr(custom, "__path__", [str(tmp_path / "custom"), *custom.__path__])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "custom").mkdir()

    def to(text: str) -> None:
        sys.modules.pop(NAME, None)
        (tmp_path / "custom" / "user_rewards.py").write_text(text, encoding="utf-8")

    yield to
    sys.modules.pop(NAME, None)


def score(tmp_path: Path, contexts: list[dict] | None = None) -> list[float]:
    given = load(tmp_path, {"mine": {"kind": "python", "function": f"{NAME}.f", "low": None, "high": None}})
    loaded = rewards.load(given.rewards, tmp_path, given.launch)
    return loaded.score(["p"] * 3, ["a", "b", "c"], contexts or [{}, {}, {}])["mine"].tolist()


def returning(write, value: object) -> None:
    GIVEN[:] = [value]
    write(f"import {__name__} as test\ndef f(prompt, response, context):\n    return test.GIVEN[0]\n")


ROW = r"'mine' must return a list of 3 numbers, but row {} \(counted from 0\) in custom.user_rewards.f is {}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (WEIGHT * 2, ROW.format(0, "a tensor with gradients; return scores.detach")),
        ([1.0, 2.0, WEIGHT[0]], ROW.format(2, "a tensor with gradients")),
        (HALF, ROW.format(0, "in bfloat16")),
        ([0.0, *HALF[:2]], ROW.format(1, "in bfloat16")),
        ([1, 10**400, 2], ROW.format(1, "an integer that is too large for a float")),
        ([1.0, "1", 2.0], ROW.format(1, "the text '1'")),
        (np.array(["1", "2", "3"]), ROW.format(0, "the text '1'")),
        ([1.0, 2.0, None], ROW.format(2, "None")),
        (np.array([1.0, None, 2.0], object), ROW.format(1, "None")),
        ([1.0, pd.NA, 2.0], ROW.format(1, "a NAType")),
        (np.ma.array([1.0, 2.0, 3.0], mask=[0, 0, 1]), ROW.format(2, "a MaskedConstant")),
        ([1.0, 1j, 2.0], ROW.format(1, "a complex")),
        ([[1.0]] * 3, ROW.format(0, "a list")),
        ([1.0, torch.ones(1), 2.0], ROW.format(1, r"an array of shape \[1\]")),
        ([{"score": 1.0}] * 3, ROW.format(0, "a dict")),
        (pd.to_datetime(["2020-01-01"] * 3), ROW.format(0, "a Timestamp")),
        (None, "must return a list of 3 numbers, but returned None in custom.user_rewards.f"),
        ((one for one in (1, 2, 3)), "but returned a generator in"),
        (map(float, (1, 2, 3)), "but returned a map in"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, "but returned a dict in"),
        ({1.0, 2.0, 3.0}, "but returned a set in"),
        ("123", "but returned the text '123' in"),
        (1.0, "but returned a float in"),
        (torch.tensor(1.0), r"returned an array of shape \[\] for 3 responses in custom.user_rewards.f"),
        (np.ones((3, 1)), r"returned an array of shape \[3, 1\] for 3 responses in custom.user_rewards.f"),
        (pd.DataFrame({"a": [1.0] * 3}), r"returned an array of shape \[3, 1\] for"),
        ([1.0], "returned 1 scores for 3 responses in custom.user_rewards.f"),
        ([1.0, float("nan"), 1.0], r"gave nan for row 1 \(counted from 0\) in custom.user_rewards.f"),
        (HALF.float() / 0, r"gave inf for row 0 \(counted from 0\) in custom.user_rewards.f"),
    ],
)
def test_what_is_no_list_of_numbers_is_named(tmp_path, write, value, message):
    returning(write, value)
    with pytest.raises(InputError, match=message) as caught:
        score(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        (1, True, 10**30),
        [np.float32(1), np.int8(1), np.bool_(True)],
        [torch.tensor(1.0), torch.tensor(1), torch.tensor(True)],
        torch.ones(3, dtype=torch.float16),
        np.array([1.0, 1, True], object),
        [decimal.Decimal(1), fractions.Fraction(1), np.array(1.0)],
        pd.Series([1.0, 1.0, 1.0], index=[7, 8, 9]),
        pa.array([1.0, 1.0, 1.0]),
        range(1, 4),
    ],
)
def test_numbers_of_every_kind_are_numbers(tmp_path, write, value):
    returning(write, value)
    assert score(tmp_path)[0] == 1.0


ACTS = {
    "sys.exit()": "SystemExit ",
    "exit(0)": "SystemExit: 0",
    "raise SystemExit('done')": "SystemExit: done",
    "raise GeneratorExit": "GeneratorExit",
    "import asyncio; raise asyncio.CancelledError": "CancelledError",
    "raise BaseException('x' * 10_000 + chr(10))": "BaseException: x{500}",
    "f = lambda: f(); f()": "RecursionError: maximum recursion depth exceeded",
    "raise MemoryError": "MemoryError",
    "open('/nothing/here')": "FileNotFoundError.*No such file",
    "import nothing_like_this": "ModuleNotFoundError: No module named 'nothing_like_this'",
    "assert False, 'two\\nlines'": "AssertionError: two lines",
}


@pytest.mark.parametrize("act", ACTS)
def test_what_a_function_raises_is_one_line(tmp_path, write, act):
    write(f"import sys\ndef f(prompt, response, context):\n    {act}\n")
    with pytest.raises(InputError, match=rf"rewards.mine: {NAME}.f failed: {ACTS[act]}.*line 3\)") as caught:
        score(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("act", [*ACTS, "def (:", "'''", "\tx = 1\n        y"])
def test_what_a_module_raises_when_it_is_imported_is_one_line(write, act):
    write(f"import sys\n\n{act}\n")
    with pytest.raises(
        InputError, match=rf"rewards.mine.function is {NAME}.f, but importing {NAME} failed: "
    ) as caught:
        resolve(f"{NAME}.f", "rewards.mine")
    assert ACTS.get(act, "Error: ").partition(":")[0].partition(".*")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stop_by_the_keyboard_is_no_fault_of_the_function(tmp_path, write):
    write("def f(prompt, response, context):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path)


def test_a_function_that_leaves_the_stage_fails_it(tmp_path, write):
    write("import sys\ndef f(prompt, response, context):\n    sys.exit(0)\n")
    load(tmp_path, {"mine": {"kind": "python", "function": f"{NAME}.f", "low": 0.0, "high": 1.0}})
    write_clean(tmp_path / "data/clean/mine")
    result = CliRunner().invoke(annotate.main, ["--task", "mine"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(
        f"rewards.mine: {NAME}.f failed: SystemExit: 0 (user_rewards.py, line 3)"
    )
    assert not Path("data/annotated/mine").exists()


CHANGES = """
import os
os.chdir("/")
def f(prompt, response, context):
    print("a line of the user's own")
    os.chdir("/")
    scores = [float(len(c["turns"])) for c in context]
    for one in context:
        one["turns"][0]["text"] = one["new"] = "changed"
        one["turns"].clear()
    prompt.clear(); response.sort(reverse=True); context.pop()
    return scores
"""


def test_what_a_function_changes_stays_as_it_was(tmp_path, write):
    write(CHANGES)
    spec = {"kind": "python", "function": f"{NAME}.f", "low": 0.0, "high": 1.0}
    load(tmp_path, {"one": spec, "two": spec})
    rows = [row("p", "a", 0, knowledge="k"), row("p", "b", 1)]
    write_clean(tmp_path / "data/clean/mine", train=rows)
    result = CliRunner().invoke(annotate.main, ["--task", "mine"])
    assert result.exit_code == 0, result.output
    assert Path.cwd() == tmp_path
    found = schema.rows(tmp_path / "data/annotated/mine/train.parquet")
    assert found == [{**one, "reward_one": 1.0, "reward_two": 1.0} for one in rows]
