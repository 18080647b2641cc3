"""Two processes (gloo, on the CPU) that share the weights of what they train, against one process that holds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests.training import sharded
from tests.training.test_ranks import run

pytestmark = pytest.mark.slow

RUNS = list(sharded.RUNS)
FULL = [name for name, (_, _, tuning, _, _) in sharded.RUNS.items() if tuning == "full"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(folder):
    return run(folder / "one", 1, "sharded")[0], run(folder / "two", 2, "sharded")


@pytest.mark.parametrize("name", RUNS)
def test_the_loop_has_the_losses_and_answers_of_one_process(found, name):
    one, two = found
    assert len(one[name]["loss"]) == len(sharded.RUNS[name][3])
    for key in ("loss", "norm", "validation"):
        np.testing.assert_allclose(two[0][name][key], one[name][key], rtol=1e-4)
    assert two[0][name]["answers"] == one[name]["answers"]
    assert two[0][name]["kept"] == one[name]["kept"]
    assert two[0][name] == two[1][name]


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_is_that_of_one_process(found, folder, name):
    one, two = (folder / processes / name for processes in ("one", "two"))
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())
    [file] = (path.name for path in two.glob("*.safetensors"))
    weights, expected = load_file(two / file), load_file(one / file)
    assert set(weights) == set(expected)
    for key, weight in expected.items():
        torch.testing.assert_close(weights[key], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FULL)
def test_a_checkpoint_loads_in_plain_transformers(found, folder, name):
    kind = AutoModelForSeq2SeqLM if sharded.RUNS[name][1] == "t5" else AutoModelForCausalLM
    model, said = kind.from_pretrained(folder / "two" / name, output_loading_info=True)
    assert not said["missing_keys"] | said["unexpected_keys"]
    weights = sum(float(weight.detach().double().abs().sum()) for weight in model.parameters())
    assert weights == pytest.approx(found[0][name]["weights"], rel=1e-6)


@pytest.mark.parametrize("name", ["resumed", "without", "later"])
def test_a_killed_run_goes_on_with_shards_or_without_them(found, name):
    whole = found[0]["a_lol_fewer"]
    for process in found[1]:
        np.testing.assert_allclose(process[name]["loss"], whole["loss"], rtol=1e-5)
        assert process[name]["answers"] == whole["answers"]
        assert process[name]["written"] == 4  # after the last three updates, and after the last evaluation


def test_a_run_that_goes_on_as_it_began_has_the_numbers_of_one_that_was_not_killed(found):
    for process in found[1]:
        for key in ("loss", "norm", "validation", "weights"):
            assert process["resumed"][key] == process["a_lol_fewer"][key]


def test_with_one_process_the_key_changes_nothing(found):
    for key in ("loss", "norm", "validation", "weights"):
        assert found[0]["later"][key] == found[0]["a_lol_fewer"][key]


@pytest.mark.parametrize("name", ["ppo", "ppo_fewer", "ppo_lora", "ppo_t5"])
def test_ppo_has_the_losses_of_one_process(found, name):
    one, two = found
    assert two[0][name] == two[1][name]
    curve, expected = two[0][name] if name == "ppo_t5" else (two[0][name], one[name])
    assert len(curve) == 2
    for entry, right in zip(curve, expected, strict=True):
        for key in ("loss", "policy_loss", "value_loss", "ratio", "reward", "kl", "length"):
            assert entry[key] == pytest.approx(right[key], rel=1e-4, abs=1e-5), key


def test_a_process_holds_half_of_the_weights_and_of_what_the_optimizer_stores(found):
    one, two = found
    for held in ("held_weights", "held_state"):
        for process in two:
            assert process[held] == pytest.approx(one[held] / 2, rel=0.02)
