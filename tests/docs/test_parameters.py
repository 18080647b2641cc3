"""The generated reference of parameters: complete, with the ranges of the dataclasses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest

from alol.config.ranges import Length, Range, above, between
from docs.generators import parameters
from tests.closure import ROOT
from tests.config import numbers
from tests.config.test_params import lines_of

ROWS = {str(path): parameters.rows(path, ROOT) for path in parameters.FILES}


@pytest.mark.parametrize("name", ROWS)
def test_every_key_has_a_description_and_what_it_may_be(name):
    assert [row.key for row in ROWS[name]] == list(lines_of(name))
    for row in ROWS[name]:
        if not row.table:
            assert row.description, f"{name}: {row.key} has no comment"
            assert row.may_be not in ("", "any value"), f"{name}: {row.key} has no type"


def test_every_number_is_shown_with_its_range():
    shown = {(name, row.key): row.may_be for name, rows in ROWS.items() for row in rows}
    told = 0
    for place, text in numbers.texts().items():
        if place in shown:  # the others stand in the tasks that need them
            assert text in shown[place], place
            told += 1
    assert told > 140


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Annotated[int, between(1, 5)], "an integer, from 1 to 5"),
        (Annotated[float, above(0)] | None, "above 0 or null"),
        (Literal["a", "b"], "a | b"),
        (Annotated[list[Annotated[float, Range(0, 1)]], Length(2)], "a list, of each: from 0 to 1, 2 of them"),
        (dict[str, str], "a table, of each value: a text"),
        (bool, "true or false"),
    ],
)
def test_a_type_in_words(hint, text):
    assert parameters.may_be(hint) == text


def test_a_row_of_a_file(tmp_path):
    (tmp_path / "params.yaml").write_text(
        "# Which.\nseed: 1   # of the run; at least 0\nlaunch: # How.\n  # The card:\n  # none is cpu.\n  device: cpu\n"
    )
    assert parameters.rows(Path("params.yaml"), tmp_path) == [
        parameters.Row("seed", "1", "an integer, at least 0", "of the run", False),
        parameters.Row("launch", "", "", "How.", True),
        parameters.Row("launch.device", "cpu", "auto | cpu", "The card: none is cpu.", False),
    ]


def test_the_page_has_each_file_and_no_markup_by_accident():
    page = parameters.page(ROOT)
    for path in parameters.FILES:
        assert f"\n## {path}\n" in page
    assert "| `train.epochs` | `1` | above 0 and at most 100,000 or null | ... and epochs," in page
    assert all(line.replace("\\|", "").count("|") == 5 for line in page.splitlines() if line.startswith("| `"))
