"""Answers that repeat their prompt: what counts as one, and the rewards without them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from alol.data import schema
from benchmarks import echoes

IGNORED = {"be", "personx"}


@pytest.mark.parametrize(
    ("prompt", "response", "is_one"),
    [
        ("PersonX be weak", "personx be WEAK", True),
        ("PersonX feel annoyed", "PersonX be annoyed", True),
        ("PersonX feel annoyed", "PersonX be angry", False),
        ("PersonX feel annoyed", "PersonX be annoying", False),
        ("PersonX feel annoyed", "", False),
    ],
)
def test_an_echo_has_no_word_of_its_own(prompt, response, is_one):
    assert echoes.echoes(prompt, response, IGNORED) == is_one


def test_a_line_for_each_policy(tmp_path):
    answers = [
        ("be weak", "be weak", 0.9),
        ("be weak", "be sad", 0.5),
        ("be late", "be sad", 0.1),
        ("be late", "", 0.3),
    ]
    rows = [
        {"prompt_id": str(i), "subset": "all", "prompt": prompt, "cuts": [0], "turns": [], "context": {}}
        | {"response": response, "marks": [], "reward_good": reward}
        for i, (prompt, response, reward) in enumerate(answers)
    ]
    file = tmp_path / "a_lol" / "test.parquet"
    file.parent.mkdir()
    schema.write(file, schema.scored(schema.ROLLOUTS, ["good"]), rows)
    found = CliRunner().invoke(echoes.main, ["--ignore", "PersonX, be", str(file)])
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[2].split() == ["a_lol", "4", "3", "1", "25.0%", "0.450", "0.300"]
