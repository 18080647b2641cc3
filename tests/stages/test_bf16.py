"""Every stage with activations in bf16, on a tiny LLaMA."""

from __future__ import annotations

import pytest
from accelerate.state import AcceleratorState

from alol.data import schema
from tests import small


@pytest.fixture(scope="module", autouse=True)
def precision():
    """A process has one precision, whichever came first."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which everything before train has run."""
    changes = {"launch.precision": "bf16", "tasks.demo.policy.scratch.architecture": "llama"}
    return small.made(tmp_path_factory.mktemp("bf16"), small.BEFORE_TRAIN, **changes)


@pytest.mark.parametrize("algorithm", ["a_lol", "ppo"])
def test_every_stage_runs(project, monkeypatch, algorithm):
    monkeypatch.chdir(project)
    small.run(small.FROM_TRAIN, algorithm)
    assert 0 <= small.summary()["policy"]["all"]["reward"] <= 2


def test_values_differ_as_much_as_in_fp32(project):
    """In bf16 between 0 and 1 there are few: 60 prompts would share a handful."""
    table = schema.table(project / "data/advantages/demo/train.parquet")
    prompts = set(map(tuple, table["prompt_ids"].to_pylist()))
    assert len(set(table["value"].to_pylist())) >= len(prompts) > 30
