"""The measurements run at a tiny size and say what they should."""

from __future__ import annotations

import json
import subprocess
import sys

from click.testing import CliRunner

from benchmarks import reddit_clean


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
