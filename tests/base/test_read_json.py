"""The pipeline's own JSON: what is damaged or of another shape is one line with the file."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from typing_extensions import TypedDict

from alol.base.errors import InputError
from alol.base.files import read_json, write_json


class Inner(TypedDict):
    rate: float


class Shape(TypedDict):
    name: str | None
    count: int
    kind: Literal["a", "b"]
    ends: tuple[float | None, float | None]
    rows: list[Inner]


WHOLE = {"name": None, "count": 1, "kind": "a", "ends": [0, None], "rows": [{"rate": 0.5}]}


def test_what_was_written_is_read_with_further_keys(tmp_path):
    file = tmp_path / "x.json"
    write_json(file, {**WHOLE, "more": [1]})
    assert read_json(file, Shape) == {**WHOLE, "more": [1], "ends": (0.0, None)}
    assert read_json(file) == {**WHOLE, "more": [1]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Field required"),
        (b"{}", "name: Field required"),
        (b"[]", "should be an object"),
        (b"null", "should be an object"),
        (b"{},{}", "at most 1 item"),
        (b'{"name": null, "cou', "Invalid JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"name": "\xff"}', "unicode"),
        (b"\x00\x01", "Invalid JSON"),
        (b"9" * 100_000, "JSON"),
        ({"name": 3}, "name: "),
        ({"count": "1"}, "count: "),
        ({"count": 1.5}, "count: "),
        ({"count": True}, "count: "),
        ({"kind": "c"}, "kind: "),
        ({"ends": [1]}, "ends.1: "),
        ({"ends": [float("nan"), 1]}, "ends.0: "),
        ({"ends": [float("inf"), 1]}, "ends.0: "),
        ({"rows": [{"rate": 0.5}, {"rate": None}]}, "rows.1.rate: "),
        ({"rows": [{}]}, "rows.0.rate: "),
    ],
    ids=str,
)
def test_what_was_not_is_one_line(tmp_path, content: Any, why):
    file = tmp_path / "x.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        write_json(file, {**WHOLE, **content})
    with pytest.raises(InputError) as caught:
        read_json(file, Shape)
    assert str(caught.value).startswith(f"{file} is damaged or not what this version writes (")
    assert why.lower() in str(caught.value).lower()
    assert "); delete it and run `dvc repro`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none.json is missing; run `dvc repro` to make it"):
        read_json(tmp_path / "none.json", Shape)
