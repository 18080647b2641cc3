"""What only the data or the model can tell is refused by the first stage that has them: one line with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.check import main as check
from tests import small

EPOCHS = {"tasks__demo__reference__updates": None, "tasks__demo__reference__epochs": 1}
LORA = {
    "tasks__demo__policy__tuning": "lora",
    "tasks__demo__policy__lora": {"r": 2, "alpha": 2, "targets": ["nope"]},
    "tasks__demo__reference__pretrain": {"epochs": None, "updates": 3, "evaluations": 1, "optimizer": {"warmup": 0}},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The small demo up to its rows; `**changes` as for small.write, which the check finds nothing wrong with."""
    monkeypatch.chdir(tmp_path)

    def write(**changes: object) -> None:
        from click.testing import CliRunner

        small.write(Path(), **changes)
        done = CliRunner().invoke(check)
        assert done.exit_code == 0, done.stderr

    write()
    small.run(["download", "clean"])
    return write


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {**EPOCHS, "tasks__demo__reference__optimizer": {"warmup": 1000}},
            "tasks/demo.yaml: reference.optimizer.warmup is 1000, but must be below the run's ",
        ),
        (
            {**EPOCHS, "tasks__demo__reference__batch_size": 10_000},
            "tasks/demo.yaml: reference.batch_size is 10000, which gives no update of ",
        ),
        (LORA, "tasks/demo.yaml: policy.lora.targets is ['nope']: "),
    ],
    ids=["warmup", "batch_size", "lora"],
)
def test_reference_refuses(project, changes, line):
    project(**changes)
    assert line in small.error("reference")
    assert [path for path in Path("models").rglob("*") if path.is_file()] == []


def test_rollout_refuses_a_stop_id_beyond_the_vocabulary(project):
    small.run(["reference"])
    project(tasks__demo__generate__stop_ids=[3, 999_999])
    line = "tasks/demo.yaml: generate.stop_ids[1] is 999999, but the model's 400 tokens count from 0"
    assert line in small.error("rollout")


def test_value_and_train_refuse_what_the_data_is_too_small_for(project):
    small.run(["reward_model", "annotate", "reference", "rollout", "baseline"])
    project(tasks__demo__value__folds=20)
    assert "tasks/demo.yaml: value.folds is 20, but the 24 validation prompts must give 2 a fold" in small.error(
        "value"
    )
    project(tasks__demo__train__updates=None, tasks__demo__train__epochs=1, tasks__demo__train__optimizer__warmup=5000)
    small.run(["value", "advantage"])
    assert "tasks/demo.yaml: train.optimizer.warmup is 5000, but must be below the run's " in small.error("train")
    assert not Path("models/demo/a_lol").exists()
