"""Every stage of a paper's task runs on a tiny base in 4 bits, PPO's too, and says what it took."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks import gpu_stages

SIZES = {
    "layers": 2, "width": 64, "heads": 4, "intermediate": 128, "vocabulary": 600, "train": 48, "validation": 12,
    "test": 12, "updates": 2, "generate-batch": 6,
}  # fmt: skip


@pytest.mark.slow
def test_each_stage_of_hha_has_its_time_and_memory(tmp_path):
    out, base = tmp_path / "result.json", tmp_path / "base"
    options = [part for name, value in SIZES.items() for part in (f"--{name}", value)]
    done = CliRunner().invoke(gpu_stages.main, [*options, "--out", str(out), "--base", str(base)])
    assert done.exit_code == 0, done.output
    assert (base / "model.safetensors").exists()
    stages = json.loads(out.read_text())["stages"]
    labels = [*gpu_stages.SHARED, *(" ".join(one) for one in gpu_stages.PER_RUN)]
    assert list(stages) == labels
    assert all(one["peak_memory_mb"] > 0 for one in stages.values())
