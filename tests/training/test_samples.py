"""Several sampled answers to each validation prompt: how they are drawn, scored, fitted and judged by."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alol.config import params
from alol.data import parts, schema
from tests import small
from tests.stages.test_resuming import Killed, eager, killed  # noqa: F401

PROMPTS = 24
ANSWERS, SCORED = Path("data/rollouts/demo"), Path("data/baselines/demo")
SAMPLES = Path("samples/validation.parquet")
FROM_ROLLOUT = ("rollout", "baseline", "value")
KEYS = {"value_mse", "value_mse_constant", "rollouts", "epochs"}
JUDGED = {"value_judged_mse", "value_judged_mse_constant", "value_noise", "value_learnable", "judge_samples"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A small project whose reference is trained."""
    return small.made(tmp_path_factory.mktemp("reference"), small.BEFORE_TRAIN[: small.BEFORE_TRAIN.index("rollout")])


@pytest.fixture
def here(reference, tmp_path, monkeypatch):
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, generate: dict | None = None, **rollout) -> None:
    given = {f"tasks__demo__generate__rollout__{key}": value for key, value in rollout.items()}
    given |= {f"tasks__demo__generate__{key}": value for key, value in (generate or {}).items()}
    small.write(folder, launch__checkpoint_minutes=0, **given)


def sampled() -> list[dict]:
    return schema.rows(ANSWERS / SAMPLES, schema.SAMPLES)


def numbers() -> dict:
    return json.loads(Path("metrics/value.json").read_text(encoding="utf-8"))


def totals() -> np.ndarray:
    """R [N, samples] of the scored answers."""
    p = params.load("demo")
    rows = schema.rows(SCORED / SAMPLES, schema.scored(schema.SAMPLES, p.reward.weights))
    found = [schema.total_reward(row, p.reward.weights, p.reward.shift) for row in rows]
    return np.array(found).reshape(-1, PROMPTS).T


def test_none_are_drawn_unless_asked_for(here):
    write(here)
    small.run(FROM_ROLLOUT)
    assert [path.name for path in (ANSWERS / "samples").iterdir()] == ["settings.json"]
    assert set(numbers()) == KEYS
    assert numbers()["rollouts"] == PROMPTS


def test_v_is_fitted_to_the_mean_of_the_first_and_judged_by_all(here):
    write(here, samples=2, judge_samples=3)
    small.run(FROM_ROLLOUT)
    rows, greedy = sampled(), schema.rows(ANSWERS / "validation.parquet", schema.ROLLOUTS)
    assert [row["sample"] for row in rows] == [number for number in range(3) for _ in range(PROMPTS)]
    assert [row["prompt_id"] for row in rows] == [row["prompt_id"] for row in greedy] * 3
    texts = {tuple(row["response"] for row in rows[i : i + PROMPTS]) for i in range(0, len(rows), PROMPTS)}
    assert len(texts | {tuple(row["response"] for row in greedy)}) == 4
    rewards, found = totals(), numbers()
    heldout = json.loads(Path("models/demo/value/heldout.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(heldout["reward"], rewards[:, :2].mean(1), rtol=1e-12)
    error = ((np.array(heldout["value"]) - rewards.mean(1)) ** 2).mean()
    noise = ((rewards - rewards.mean(1, keepdims=True)) ** 2).sum(1).mean() / 2 / 3
    assert set(found) == KEYS | JUDGED
    assert found["rollouts"] == 2 * PROMPTS
    assert found["judge_samples"] == 3
    assert found["value_judged_mse"] == pytest.approx(error)
    assert found["value_noise"] == pytest.approx(noise)
    assert found["value_learnable"] == pytest.approx(error - noise)


def test_the_greedy_answer_is_judged_where_asked_for_and_v_stays_as_it_is(here):
    write(here)
    small.run(FROM_ROLLOUT)
    plain, head = numbers(), Path("models/demo/value/head.safetensors").read_bytes()
    write(here, judge_always=True, judge_samples=2)
    small.run(FROM_ROLLOUT)
    assert Path("models/demo/value/head.safetensors").read_bytes() == head
    assert {key: numbers()[key] for key in KEYS} == plain
    assert numbers()["judge_samples"] == 2


def test_more_answers_and_other_batches_leave_the_first_answers_as_they_are(here):
    write(here, samples=2, judge_samples=2)
    small.run(["rollout"])
    few = sampled()
    small.write(here, launch__generate_batch=3, tasks__demo__generate__rollout__samples=4)
    small.run(["rollout"])
    assert len(sampled()) == 8 * PROMPTS  # as many as judge
    assert sampled()[: 2 * PROMPTS] == few


def test_the_first_answer_is_that_of_generate_where_it_samples(here):
    write(here, {"sample": True, "temperature": 0.7}, samples=1)
    small.run(["rollout"])
    one = schema.rows(ANSWERS / "validation.parquet", schema.ROLLOUTS)
    assert [row["response"] for row in one] == [row["response"] for row in sampled()[:PROMPTS]]


@pytest.mark.parametrize("stage", ["rollout", "baseline"])
def test_killed_while_sampling_a_stage_goes_on_and_ends_the_same(here, eager, stage):  # noqa: F811
    write(here, {"part_rows": 5}, samples=2, judge_samples=2)
    small.run(["rollout", "baseline"])
    table = (ANSWERS if stage == "rollout" else SCORED) / SAMPLES
    whole = table.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        killed(patch, 12 if stage == "rollout" else 3, parts.Parts)  # 5 pieces of validation and 3 of test; 1 of each
        assert isinstance(small.stage(stage).exception, Killed)
    assert list(Path(".cache/alol/stages", stage).rglob("samples/validation/**/*.parquet"))
    small.run([stage])
    assert table.read_bytes() == whole
    assert not list(Path(".cache/alol/stages", stage).iterdir())


def test_answers_to_other_prompts_are_refused_in_one_line(here):
    write(here, samples=2, judge_samples=2)
    small.run(["rollout", "baseline"])
    path = SCORED / SAMPLES
    columns = schema.scored(schema.SAMPLES, params.load("demo").reward.weights)
    schema.write(path, columns, schema.rows(path, columns)[1:])
    assert f"{path} does not hold 2 answers to each validation prompt, in order; run `dvc repro`" in small.error(
        "value"
    )
    path.unlink()
    assert f"{path} is missing; run `dvc repro` to make it" in small.error("value")


@pytest.mark.slow
def test_two_processes_answer_as_one_does(here):
    write(here, samples=3, judge_samples=2)
    small.run(["rollout"])
    whole = sampled()
    small.write(here, launch__processes=2, launch__device="cpu", tasks__demo__generate__rollout__samples=3)
    environment = {**os.environ, "PYTHONPATH": str(small.ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.rollout", "--task", "demo"]
    subprocess.run(command, cwd=here, env=environment, check=True, capture_output=True, timeout=300)
    assert sampled()[: 3 * PROMPTS] == whole
