"""The measurements run at a tiny size and say what they should."""

from __future__ import annotations

import json
import subprocess
import sys

from click.testing import CliRunner

from benchmarks import llama_7b, reddit_clean


def test_the_llama_7b_script_trains_and_generates(tmp_path):
    out = tmp_path / "result.json"
    sizes = {
        "layers": 2, "width": 64, "heads": 4, "intermediate": 128, "vocabulary": 512, "prompt": 24, "response": 8,
        "batch": 4, "micro": 2, "updates": 2, "out": str(out),
    }  # fmt: skip
    done = CliRunner().invoke(llama_7b.main, [part for name, value in sizes.items() for part in (f"--{name}", value)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    # rank 64: 4 attention projections of 64 x (64 + 64), 3 of the feed-forward of 64 x (64 + 128); 2 layers
    assert found["parameters"] == 2 * (4 * 64 * 128 + 3 * 64 * 192)
    assert found["abs_log_ratio_of_the_first_update"] < 1e-4
    assert len(found["losses"]) == found["training"]["updates"] == 2
    assert found["training"]["tokens_per_second"] > 0 < found["generation"]["tokens_per_second"]


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
