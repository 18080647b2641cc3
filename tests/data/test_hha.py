"""The Helpful & Harmless format: prompts to the byte, cuts, and one clear line for what is wrong in a file."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from alol.base.errors import InputError
from alol.data import schema
from alol.data.formats import hha
from stages.clean import main as clean
from stages.download import main as download
from tests.raw_project import HHA, SYSTEM, dialogue, error_line, project, run, write_lines

SECOND = {
    "prefix": [["<|prompter|>Hi", "<|assistant|>Hello, you:", "<|prompter|> how?\n\nwell ", "<|assistant|>"]] * 2,
    "suffix": ["fine ", "bad"],
    "reward": [1.5, -2],
    "sft_index": 0,
}
THIRD = dialogue("List two.", ["a, b", "Here you go:"])


def read(tmp_path: Path, rows: list, tests: list | None = None, **options) -> dict[str, list]:
    write_lines(tmp_path / "archive" / "train.json", rows)
    write_lines(tmp_path / "archive" / "dev.json", [THIRD])
    if tests is not None:
        write_lines(tmp_path / "archive" / "test.json", tests)
    splits = hha.read(tmp_path, hha.Options(**{**HHA, **options}))
    return {split: list(rows) for split, rows in splits.items()}


def test_three_raw_rows_become_the_expected_rows(tmp_path):
    splits = read(tmp_path, [dialogue("Why?", ["So.", "No."], [0.25, -1.0]), THIRD, SECOND], [SECOND])
    first = {
        "prompt_id": "train-0",
        "subset": "train",
        "prompt": "A chat.\n### Human: Why? ### Assistant:",
        "cuts": [8],
        "turns": [{"role": "human", "text": "Why?"}],
        "context": {"reward": 0.25},
        "rank": 0,
        "response": "So.",
    }
    third = {
        "prompt_id": "train-2",
        "subset": "train",
        "prompt": "A chat.\n### Human: Hi ### Assistant: Hello, you: ### Human:  how?\n\nwell  ### Assistant:",
        "cuts": [8, 22, 49],
        "turns": [
            {"role": "human", "text": "Hi"},
            {"role": "assistant", "text": "Hello, you:"},
            {"role": "human", "text": " how?\n\nwell "},
        ],
        "context": {"reward": 1.5},
        "rank": 0,
        "response": "fine ",
    }
    assert splits["train"] == [
        first,
        {**first, "context": {"reward": -1.0}, "rank": 1, "response": "No."},
        third,
        {**third, "context": {"reward": -2.0}, "rank": 1, "response": "bad"},
    ]
    assert [row["prompt_id"] for row in splits["validation"]] == ["validation-0", "validation-0"]
    assert splits["test"][0] == {**third, "prompt_id": "harmless_base-0", "subset": "harmless_base"}


def test_cuts_leave_the_prompt_without_its_oldest_turns():
    prompt, cuts = hha.render(SECOND["prefix"][0], SYSTEM)
    assert prompt[: cuts[0]] == "A chat.\n"
    assert prompt[: cuts[0]] + prompt[cuts[1] :] == hha.render(SECOND["prefix"][0][1:], SYSTEM)[0]
    assert prompt[: cuts[0]] + prompt[cuts[2] :] == hha.render(SECOND["prefix"][0][2:], SYSTEM)[0]
    assert len(cuts) == 3


def test_the_last_human_turn_is_never_cut():
    prompt, cuts = hha.render(["<|prompter|>a", "<|prompter|>b", "<|assistant|>c", "<|assistant|>"], SYSTEM)
    assert [prompt[cut:] for cut in cuts[1:]] == ["### Human: b ### Assistant: c ### Assistant:"]


def test_without_a_system_text_the_prompt_starts_with_the_first_turn():
    assert hha.render(["<|prompter|>a", "<|assistant|>"], "") == ("### Human: a ### Assistant:", [0])


def test_only_training_rows_ending_with_a_colon_are_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [THIRD, dialogue("q", ["a: ", "b"]), dialogue("q", ["", "b"])]
    splits = read(tmp_path, rows, [THIRD], contaminated="keep")
    assert [row["prompt_id"] for row in splits["train"]] == ["train-1", "train-1", "train-2", "train-2"]
    assert len(splits["validation"]) == len(splits["test"]) == 2
    assert "1 rows ending with a colon are left out" in caplog.text
    assert "1 rows with an empty response are kept" in caplog.text
    assert len(read(tmp_path, rows, drop_colon=False)["train"]) == 6


def test_listed_test_rows_are_left_out_and_the_others_keep_their_index(tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "bad.json").write_text('{"test.json": [0, 2], "train.json": [0]}')
    splits = read(tmp_path, [SECOND], [SECOND] * 4, excluded="archive/bad.json")
    assert [row["prompt_id"] for row in splits["test"]][::2] == ["harmless_base-1", "harmless_base-3"]
    assert len(splits["train"]) == 2
    (tmp_path / "archive" / "bad.json").write_text('["test.json"]')
    with pytest.raises(InputError, match=r"bad.json: must be a JSON table"):
        read(tmp_path, [SECOND], [SECOND], excluded="archive/bad.json")


def test_test_rows_that_validation_knows_are_contaminated_too(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    turned = {**THIRD, "suffix": THIRD["suffix"][::-1]}
    dropped = read(tmp_path, [SECOND], [SECOND, turned])["test"]
    assert {row["prompt_id"] for row in dropped} == {"harmless_base-0"}
    assert "1 contaminated rows (listed, or also in the validation file) are left out" in caplog.text
    kept = read(tmp_path, [SECOND], [SECOND, turned], contaminated="keep")["test"]
    assert [row["context"].get("contaminated", False) for row in kept] == [False, False, True, True]


def test_stored_rewards_are_kept_for_the_splits_named(tmp_path):
    splits = read(tmp_path, [SECOND], [SECOND], stored=["train"])
    assert [row["context"] for row in splits["train"]] == [{"reward": 1.5}, {"reward": -2.0}]
    assert all(row["context"] == {} for split in ("validation", "test") for row in splits[split])


def test_a_missing_test_file_is_named_and_skipped(tmp_path, caplog):
    test = {"harmless_base": "archive/test.json", "helpful_online": "archive/none.json"}
    splits = read(tmp_path, [SECOND], [SECOND], test=test)
    assert {row["subset"] for row in splits["test"]} == {"harmless_base"}
    assert "test file 'helpful_online' is skipped" in caplog.text
    with pytest.raises(InputError, match=r"archive/gone.json is missing"):
        read(tmp_path, [SECOND], train="archive/gone.json")


def test_more_than_two_responses_and_no_rewards_are_fine(tmp_path):
    row = {key: value for key, value in dialogue("q", ["a", "b", "c"]).items() if key != "reward"}
    rows = read(tmp_path, [row])["train"]
    assert [(row["rank"], row["response"]) for row in rows] == [(0, "a"), (1, "b"), (2, "c")]
    assert all(row["context"] == {} for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suffix": None}, "no column 'suffix'"),
        ({"prefix": None}, "no column 'prefix'"),
        ({"suffix": ["a"]}, "'prefix' must hold a list of turns for each of the 1 responses"),
        ({"suffix": ["a", 1]}, "'suffix' must be a list of responses"),
        ({"suffix": "ab"}, "'suffix' must be a list of responses"),
        ({"prefix": [["<|prompter|>a", "<|assistant|>"], ["<|prompter|>b", "<|assistant|>"]]}, "the same turns"),
        ({"prefix": [["<|prompter|>a"]] * 2}, "followed by a bare"),
        ({"prefix": [["a", "<|assistant|>"]] * 2}, "starts with neither"),
        ({"reward": [1.0]}, "'reward' must hold a number"),
        ({"reward": [1.0, "x"]}, "'reward' must hold a number"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path, change, message):
    row = {key: value for key, value in {**SECOND, **change}.items() if value is not None}
    with pytest.raises(InputError, match=rf"train.json, line 2: .*{message}"):
        read(tmp_path, [SECOND, row])


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"prefix": [["<|pro', "not valid JSON"), (b'{"a\xff"}', "not UTF-8")]
)
def test_a_damaged_line_is_named(tmp_path, content, message):
    read(tmp_path, [SECOND])
    path = tmp_path / "archive" / "train.json"
    path.write_bytes(path.read_bytes() + content)
    with pytest.raises(InputError, match=rf"train.json, line 2: {message}"):
        list(hha.read(tmp_path, hha.Options(**HHA))["train"])


def test_a_row_without_suffix_stops_the_stage_with_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = Path("data/raw/mine/archive")
    write_lines(raw / "train.json", [SECOND, {"prefix": SECOND["prefix"]}])
    write_lines(raw / "dev.json", [SECOND])
    write_lines(raw / "test.json", [SECOND])
    project(tmp_path, {}, {"format": "hha", "options": HHA})
    line = error_line(clean)
    assert f"{raw}/train.json, line 2: no column 'suffix'" in line
    assert not Path("data/clean/mine").exists()


def real(name: str) -> Path:
    if "ALOL_DATA" not in os.environ:
        pytest.skip("ALOL_DATA is not set: no real data")
    return Path(os.environ["ALOL_DATA"], name)


def test_the_published_small_archive_goes_through_both_stages(tmp_path, monkeypatch):
    real("hha_small/data.zip")
    monkeypatch.chdir(tmp_path)
    keys = {
        "location": "$ALOL_DATA/hha_small/data.zip",
        "sha256": "01c20579c451b12319d64785e6ecdd907011e3fda07dd62713834a4e6419ead4",
    }
    test = {name: f"archive/data/hh_test/{name}.json" for name in ("harmless_base", "helpful_base")}
    files = {"train": "archive/data/hh_train_len2/train.json", "validation": "archive/data/hh_dev/sampled_dev.json"}
    project(tmp_path, {"archive": keys}, {"format": "hha", "options": {**HHA, **files, "test": test}})
    for stage in (download, clean):
        result = run(stage)
        assert result.exit_code == 0, result.output
    folder = Path("data/clean/mine")
    assert [schema.count(folder / f"{split}.parquet") for split in schema.SPLITS] == [7062, 560, 800]
    rows = schema.rows(folder / "train.parquet")
    assert not any(row["response"].endswith(":") for row in rows)
    assert all(row["prompt"].startswith("A chat.\n### Human: ") for row in rows)
    assert all(row["prompt"].endswith(" ### Assistant:") for row in rows)
    assert all(a["context"]["reward"] >= b["context"]["reward"] for a, b in zip(rows[::2], rows[1::2], strict=True))


@pytest.mark.parametrize(
    ("name", "rows", "colons", "words"), [("harmless_base", 2312, 113, 29.8), ("helpful_base", 2354, 223, 38.1)]
)
def test_the_public_test_files_have_the_known_figures(tmp_path, name, rows, colons, words):
    """Rows, rows of which a response ends with a colon, and mean words of the preferred response."""
    folder = tmp_path / "archive"
    folder.mkdir()
    sources = (f"hh/hh_test/{name}.json.gz", "hh/hh_test/bad_test_indices.json", "hh/hh_dev/sampled_dev.json.gz")
    for file in map(real, sources):
        shutil.copyfile(file, folder / file.name)
    file = f"archive/{name}.json.gz"
    options = hha.Options(
        **{
            **HHA,
            "train": file,
            "validation": "archive/sampled_dev.json.gz",
            "test": {name: file},
            "contaminated": "keep",
        }
    )
    splits = {split: list(rows) for split, rows in hha.read(tmp_path, options).items()}
    preferred = [row["response"] for row in splits["test"] if row["rank"] == 0]
    assert len(preferred) == rows
    assert sum(len(text.split()) for text in preferred) / rows == pytest.approx(words, abs=0.05)
    assert sum(row["rank"] == 0 for row in splits["train"]) == rows - colons
    bad = json.loads((folder / "bad_test_indices.json").read_text())[f"{name}.json"]
    known = {row["prompt_id"] for row in splits["test"] if "contaminated" in row["context"]}
    assert known <= {f"{name}-{index}" for index in bad}  # the list has every row that the dev file shares
    assert len(known) > 50
    changes = {"excluded": "archive/bad_test_indices.json", "contaminated": "drop"}
    kept = hha.read(tmp_path, hha.Options(**{**vars(options), **changes}))
    assert sum(row["rank"] == 0 for row in kept["test"]) == rows - len(bad)
