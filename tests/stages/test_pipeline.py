"""The whole graph in one process on a small demo: every algorithm, equal seeds, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from alol.algorithms.offline import OFFLINE
from alol.base.files import read_json
from alol.base.machine import LIBRARIES
from alol.config import paths
from alol.config.sections import Launch
from alol.data import schema
from alol.evaluation.ope import DOUBLY_ROBUST, SAMPLED
from tests import small


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project in which everything before train has run."""
    return small.made(tmp_path_factory.mktemp("prepared"), small.BEFORE_TRAIN)


@pytest.fixture
def project(prepared, tmp_path, monkeypatch):
    """A copy of it to work in."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shape(tree: dict) -> dict:
    """Its keys, and which are numbers; an estimate is left out where too few responses count."""
    return {
        key: shape(value) if isinstance(value, dict) else type(value) in (int, float)
        for key, value in tree.items()
        if key not in (SAMPLED, DOUBLY_ROBUST)
    }


def test_tables_hold_what_the_schema_says(prepared):
    advantages = schema.table(prepared / "data/advantages/demo/train.parquet")
    annotated = schema.rows(prepared / "data/annotated/demo/train.parquet")
    assert advantages.schema.equals(schema.ADVANTAGES)
    assert len(advantages) == len(annotated) == 180
    for row, source in zip(advantages.to_pylist(), annotated, strict=True):
        assert (row["prompt_id"], row["rank"]) == (source["prompt_id"], source["rank"])
        assert len(row["ref_logp"]) == len(row["response_ids"]) > 0
        assert max(row["ref_logp"]) <= 0
        total = 0.2 + source["reward_helpful"] + 0.2 * source["reward_concise"] + 0.1 * source["reward_informative"]
        assert row["reward"] == pytest.approx(total, rel=1e-5)
        assert row["advantage"] == pytest.approx(row["reward"] - row["value"], abs=1e-6)
    values = {row["prompt_id"]: row["value"] for row in advantages.to_pylist()}
    assert all(row["value"] == values[row["prompt_id"]] for row in advantages.to_pylist())


def test_every_algorithm_writes_the_same_keys(project):
    shapes, rewards = [], []
    for algorithm in OFFLINE:
        small.run(small.FROM_TRAIN, algorithm)
        shapes.append(shape(small.summary()))
        rewards.append(small.summary()["reference"]["all"]["reward"])
    assert all(other == shapes[0] for other in shapes)
    assert len(set(rewards)) == 1
    assert {"gold", "reference", "policy", "delta", "discarded", "value_mse", "value_mse_constant"} <= set(shapes[0])
    assert {"reward", "reward_low", "reward_helpful", "length", "distinct_3", "meteor_stem", "quality"} <= set(
        shapes[0]["policy"]["all"]
    )


def test_rewards_of_the_references_own_answers_are_stored_and_learned_from(fresh):
    small.write(fresh, **{"defaults.generate.rollout.train_samples": 3})
    small.run(small.BEFORE_TRAIN)
    table, samples = schema.rows(paths.advantages("demo") / "train.parquet"), paths.samples(paths.baselines("demo"))
    answers = schema.rows(samples / "train.parquet")
    assert (len(table), len(answers)) == (180, 3 * 60)
    by_prompt = {}
    for row in answers:
        total = 0.2 + row["reward_helpful"] + 0.2 * row["reward_concise"] + 0.1 * row["reward_informative"]
        by_prompt.setdefault(row["prompt_id"], []).append(total)
    for row in table:
        assert row["ref_rewards"] == pytest.approx(by_prompt[row["prompt_id"]], rel=1e-5)
    for algorithm in ("a_star", "qrpo"):
        small.run(("train",), algorithm)
        history = read_json(paths.policy("demo", algorithm) / "training.json", dict)
        assert len(history["curve"]) == 8


def test_an_algorithm_that_compares_with_such_answers_says_what_to_set(project):
    assert "generate.rollout.train_samples is null" in small.error("train", "a_star")


@pytest.mark.parametrize("algorithm", ["rft", "awr", "a_lol_signed", "dro", "kto_zero", "ipo", "simpo", "orpo"])
def test_rivals_train(project, algorithm):
    small.run(("train",), algorithm)
    assert read_json(paths.policy("demo", algorithm) / "training.json", dict)["updates"] > 0


def test_equal_seeds_give_equal_bytes_and_others_do_not(project):
    written = []
    for seed in (1, 1, 2):
        small.write(project, seed=seed)
        small.run(small.FROM_TRAIN)
        written.append([path.read_bytes() for path in map(Path, ("metrics/summary.json", "metrics/report.html"))])
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_the_whole_graph_repeats_itself(prepared, fresh):
    small.write(fresh)
    small.run(small.BEFORE_TRAIN)
    files = [path.relative_to(prepared) for path in prepared.rglob("*") if path.is_file() and "cost" not in path.parts]
    assert len(files) > 30
    assert [file for file in files if (prepared / file).read_bytes() != (fresh / file).read_bytes()] == []


def record(stage: str) -> dict:
    """What a stage says that it ran with."""
    [found] = read_json(paths.launch(stage))
    return found


def test_a_stage_says_with_which_launch_it_ran_and_keeps_it(project):
    small.write(project, launch__device="cpu", launch__processes=2, launch__micro_batch=7)
    small.run(["value"])
    small.write(project, launch__device="cpu", launch__processes=1, launch__micro_batch=8)
    small.run(["advantage", *small.FROM_TRAIN])
    assert sorted(path.stem for path in paths.launch("any").parent.iterdir()) == sorted(small.MODELS)
    batches = {name: record(name)["micro_batch"] for name in ("annotate", "value", "advantage", "train", "evaluate")}
    assert batches == {"annotate": 64, "value": 7, "advantage": 8, "train": 8, "evaluate": 8}
    found = record("value")
    assert found.keys() == {field.name for field in dataclasses.fields(Launch)} | {"threads", "python", *LIBRARIES}
    assert found["processes"] == 1  # this stage runs in one process, whatever launch says
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] not in ("", "auto", "cpu")
    assert not [path for path in project.rglob("settings.json") if "launch" in read_json(path)]


def test_nothing_is_left_half_written_when_train_is_refused(project):
    small.write(project, tasks__demo__reward__shift=-5.0)
    for name in ("value", "advantage"):
        small.run([name])
    assert "raise reward.shift by at least" in small.error("train", "wbc")
    assert not Path("models/demo/wbc").exists()
    assert not list(Path("models/demo").glob(".*"))


def test_no_positive_advantage_is_one_line(project):
    rewards = {"concise": {"kind": "python", "function": "custom.bad_rewards.constant"}}
    small.write(project, tasks__demo__rewards=rewards, tasks__demo__reward={"weights": {"concise": 1.0}})
    small.run(["reward_model", "annotate", "baseline"])
    said = small.stage("value").stderr
    assert "all 24 rewards of the reference's answers are 0, so that V(x) is this number; check" in said
    small.run(["advantage"])
    line = small.error("train")
    assert "none of the 180 training examples has a positive advantage" in line
    assert "all 180 training rewards are 0, so that they tell no example from another; check" in line


def test_equal_rewards_are_said_once_and_run_to_the_end(project):
    rewards = {"concise": {"kind": "python", "function": "custom.bad_rewards.constant"}}
    reward = {"weights": {"concise": 1.0}, "shift": 0.5}
    small.write(project, tasks__demo__rewards=rewards, tasks__demo__reward=reward)
    small.run(["reward_model", "annotate", "baseline", "value", "advantage"])
    said = small.stage("train", "wbc").stderr
    assert said.count("all 180 training rewards are 0.5, so that they tell no example from another; check") == 1
    small.run(["evaluate", "aggregate"], "wbc")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nan", "nan"),
        ("too_few", "scores"),
        ("too_high", "1.5"),
        ("crash", "knowledge"),
        ("leaves", "SystemExit: 0"),
        ("texts", "must return a list of"),
        ("huge", "must return a list of"),
    ],
)
def test_a_broken_reward_function_is_one_line(project, function, message):
    rewards = {"mine": {"kind": "python", "function": f"custom.bad_rewards.{function}"}}
    small.write(project, tasks__demo__rewards=rewards, tasks__demo__reward={"weights": {"mine": 1.0}})
    shutil.rmtree("data/annotated")
    line = small.error("annotate")
    assert "mine" in line
    assert message in line
    assert not Path("data/annotated/demo").exists()


def test_a_long_prompt_is_refused_by_name(project):
    small.write(project, tasks__demo__policy__max_prompt=8)
    shutil.rmtree("models/demo/reference")
    line = small.error("reference")
    assert "tokens, more than policy.max_prompt = 8" in line
    assert not Path("models/demo/reference").exists()


def test_a_context_that_is_too_small_is_refused(project):
    small.write(project, tasks__demo__policy__scratch__context=100)
    assert "more than the model's context of 100" in small.error("reference")


def test_a_missing_input_names_the_file(project):
    shutil.rmtree("data/advantages")
    assert "data/advantages/demo/train.parquet is missing" in small.error("train")


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_an_adapter_is_trained_on_the_scratch_reference(project, tuning):
    small.write(
        project,
        tasks__demo__policy__tuning=tuning,
        tasks__demo__policy__scratch={"layers": 1, "width": 64, "heads": 4, "vocabulary": 400, "context": 128},
        tasks__demo__policy__lora={"r": 4},
    )
    small.run(["reference", "rollout", "baseline", "value", "advantage", *small.FROM_TRAIN])
    assert sorted(path.name for path in Path("models/demo/a_lol").glob("*.safetensors")) == [
        "adapter_model.safetensors"
    ]
    curve = small.read_training()["curve"]
    assert curve[0]["abs_log_ratio"] < 1e-3
