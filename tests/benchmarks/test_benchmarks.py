"""The measurements run at a tiny size and say what they should."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as benchmarks
from benchmarks import measure, reddit_clean, training
from benchmarks.size import TINY


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All parts at the tiny size: their rows by name, and the table."""
    folder = tmp_path_factory.mktemp("benchmarks")
    done = CliRunner().invoke(benchmarks.main, ["--size", "tiny", "--out", str(folder)])
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    parts = json.loads((folder / "benchmarks.json").read_text())["parts"]
    assert parts.keys() == benchmarks.PARTS.keys()
    return {row["name"]: row for rows in parts.values() for row in rows}, (folder / "benchmarks.md").read_text()


@pytest.mark.slow
def test_every_ratio_comes_with_its_parity_speed_and_memory(measured):
    rows, table = measured
    ratios = {name: row for name, row in rows.items() if "ratio" in row and "asked" not in row}
    assert {"a_lol, 420 words", "generation, 10 prompts", "scoring, prompt + response", "scoring, response"} <= set(
        ratios
    )
    for name, row in ratios.items():
        assert 0 < row["low"] <= row["ratio"] <= row["high"], name
        # both sides did the same tokens: their speeds are inverse to their times
        speeds = row["tokens_per_second"] / row["yardstick_tokens_per_second"]
        assert speeds == pytest.approx(row["yardstick_seconds"] / row["seconds"], rel=0.02), name
        assert row["memory_mb"] >= 0 < row["yardstick_memory_mb"], name
        assert f"| {name} | {row['yardstick']} | **{row['ratio']:.2f}**" in table
    assert max(ratios["a_lol, 420 words"]["parity"].values()) < 1e-5
    assert ratios["generation, 10 prompts"]["parity"]["equal"] == 1


@pytest.mark.slow
def test_nothing_is_padded_and_the_reference_reads_every_row_once(measured):
    rows, _ = measured
    padding = {name: row for name, row in rows.items() if name.startswith("padding")}
    assert set(padding) == {f"padding, {name}" for name in ("train", "advantage", "generate", "annotate (helpful)")}
    assert all(row["padding"] == 0 < row["padding_as_they_come"] for row in padding.values())
    reads = rows["reads of the reference"]
    assert (reads["training_rows"], reads["test_rows"]) == (180, 36)
    assert (reads["each_as_often"], reads["reads_in_train"]) == (True, 0)
    assert reads["reads_of_a_row"] == reads["reads_of_a_validation_prompt"] == 1


@pytest.mark.slow
def test_ten_times_the_data_is_measured_over_so_many_rows(measured):
    rows, _ = measured
    assert rows["ten times the data, clean"]["rows"] == [TINY.rows, 10 * TINY.rows]
    assert rows["ten times the data, train"]["rows"] == [TINY.rows // 10, TINY.rows]
    for stage in ("clean", "annotate", "advantage", "train"):
        assert 0.5 < rows[f"ten times the data, {stage}"]["memory"] < 1.5
    assert rows["python -m stages.clean --help"]["seconds"] > 0


@pytest.mark.slow
def test_the_first_updates_are_measured_over_so_many_rows(measured):
    rows, _ = measured
    examples = {name: rows[f"ten times the rows, {name}"]["examples"] for name in ("nll", "dpo_ref_free")}
    assert examples == {"nll": [TINY.trained, 10 * TINY.trained], "dpo_ref_free": [TINY.trained // 2, 5 * TINY.trained]}
    positive = rows["ten times the rows, a_lol"]["examples"]
    assert [round(count / total, 1) for count, total in zip(positive, examples["nll"], strict=True)] == [0.5, 0.5]
    assert all(0.8 < rows[f"ten times the rows, {name}"]["memory"] < 1.3 for name in ("nll", "a_lol", "dpo_ref_free"))


def test_sides_that_differ_are_not_timed(monkeypatch):
    update = training.Plain.gradients
    monkeypatch.setattr(training.Plain, "gradients", lambda self, rows: update(self, rows) * (1 + 2e-5))
    with pytest.raises(measure.ParityError, match=r"the loss differs by (1\.9\d|2(\.0\d)?)e-05, more than 1e-05"):
        next(training.against_plain(TINY))


def test_a_ratio_is_of_the_yardsticks_time_over_ours():
    found = measure.ratio([1.0, 1.0, 2.0, 2.0], [3.0, 5.0, 4.0, 8.0], parts=2)
    # groups of two: 8 / 2 and 12 / 4
    assert (found.ratio, found.low, found.high) == (3.5, 3.0, 4.0)
    assert (found.seconds, found.yardstick_seconds) == (6.0, 20.0)


def test_the_reddit_script_cleans_files_of_the_size_asked_for(tmp_path):
    out = tmp_path / "result.json"
    done = CliRunner().invoke(reddit_clean.main, ["--gigabytes", "0.001", "--sample", "600", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["bytes_per_file"] == 1073741
    assert found["rows"] >= 2000
    assert found["seconds"] > 0 < found["peak_memory_mb"]


def test_the_reddit_script_measures_its_child_and_not_itself():
    code = "import sys, benchmarks.reddit_clean; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=reddit_clean.ROOT, check=False).returncode == 0
