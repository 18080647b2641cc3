"""What a policy computes in bf16 is the same to the bit, whether its frozen matrices are kept in fp32 or in bf16."""

from __future__ import annotations

import copy
import dataclasses
from datetime import timedelta

import peft
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from alol.compute.batching import Batch
from alol.compute.launch import accelerator, placed, prepared, sum_gradients
from alol.compute.logprob import response_logp, response_logp_and_prompt_states
from alol.config import params
from alol.models import lora, policies
from tests.conftest import tiny_model

BATCH = Batch([[5, 6, 7, 8], [9], [5, 6]], [[20, 21, 1], [22, 23, 24, 1], [25, 1]], 0, "cpu")


@pytest.fixture
def main():
    """A process has one precision, whichever came first."""
    AcceleratorState._reset_state(True)
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state(True)


def adapted(architecture, tokenizer, **options):
    """A model with a LoRA adapter that changes something."""
    torch.manual_seed(0)
    kind = "SEQ_2_SEQ_LM" if architecture == "t5" else "CAUSAL_LM"
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type=kind, **options)
    model = peft.get_peft_model(tiny_model(architecture, tokenizer), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model, main):
    with main.autocast():
        logp = response_logp(model.train(), BATCH)
    logp.sum().backward()
    return logp.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "t5"])
def test_training_an_adapter_gives_the_same_numbers(main, architecture, tokenizer):
    model = adapted(architecture, tokenizer)
    held = placed(copy.deepcopy(model), main, trained=True)
    (logp, expected), (again, found) = gradients(model, main), gradients(held, main)
    assert torch.equal(again, logp)
    assert found.keys() == expected.keys()
    assert expected
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)
        assert gradient.dtype == torch.float32


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "t5"])
@torch.no_grad()
def test_reading_gives_the_same_numbers(main, architecture, tokenizer):
    """With the states that V(x) is made of."""
    model = tiny_model(architecture, tokenizer).eval()
    with main.autocast():
        logp, states = response_logp_and_prompt_states(model, BATCH)
        again, found = response_logp_and_prompt_states(placed(model, main, trained=False), BATCH)
    assert torch.equal(again, logp)
    assert all(map(torch.equal, found, states))


@torch.no_grad()
def test_an_adapter_on_4_bits_is_read_as_it_is_trained(main, tokenizer, tmp_path):
    """Else a policy's first log-ratios would not be 0; a 4-bit layer's output is in fp32, and what is added to it."""
    tiny_model("llama", tokenizer).save_pretrained(tmp_path)

    def model(*, trained):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        base = policies.base_model(str(tmp_path), None, quantized=True)
        return placed(lora.fused(peft.get_peft_model(base, config)), main, trained=trained).eval()

    with main.autocast():
        assert torch.equal(response_logp(model(trained=False), BATCH), response_logp(model(trained=True), BATCH))


def test_frozen_matrices_are_in_bf16_and_all_else_in_fp32(main, tokenizer):
    model = placed(adapted("llama", tokenizer), main, trained=True)
    linear = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}
    for name, weight in model.named_parameters():
        halved = name in linear and "lora_" not in name
        assert weight.dtype == (torch.bfloat16 if halved else torch.float32), name
        assert weight.requires_grad == ("lora_" in name)


def test_weights_that_lie_in_a_mapped_file_are_taken_out_of_it(main, tokenizer):
    """One of them would hold the whole file in memory, the rounded matrices included."""
    model = tiny_model("llama", tokenizer)
    norm = model.model.norm
    norm.weight = nn.Parameter(torch.arange(1000.0)[100 : 100 + norm.weight.numel()])
    placed(model, main, trained=False)
    assert norm.weight.untyped_storage().nbytes() == 4 * norm.weight.numel()
    assert norm.weight[:2].tolist() == [100.0, 101.0]


def test_of_a_model_that_is_trained_nothing_changes(main, tokenizer):
    model = placed(tiny_model("llama", tokenizer), main, trained=True)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_base_whose_weights_an_adapter_reads_stays_as_it_is(main, tokenizer):
    """DoRA takes norms of the base's columns."""
    model = placed(adapted("llama", tokenizer, use_dora=True), main, trained=True)
    layers = [module.base_layer.weight.dtype for module in model.modules() if hasattr(module, "base_layer")]
    assert set(layers) == {torch.float32}


def test_in_fp32_nothing_changes(tokenizer):
    AcceleratorState._reset_state(True)
    model = tiny_model("llama", tokenizer)
    placed(model, Accelerator(cpu=True, mixed_precision="no"), trained=False)
    assert {(weight.dtype, weight.requires_grad) for weight in model.parameters()} == {(torch.float32, True)}
    AcceleratorState._reset_state(True)


def test_processes_wait_for_each_other_as_long_as_params_yaml_says():
    AcceleratorState._reset_state(True)
    settings = dataclasses.replace(params.load("demo").launch, device="cpu", precision="fp32", wait_minutes=90.0)
    assert accelerator(settings).init_handler.timeout == timedelta(hours=1.5)
    AcceleratorState._reset_state(True)


class Other:
    """An accelerator of two processes, of which the other has the gradient 10 wherever it has one."""

    num_processes, device = 2, torch.device("cpu")

    def __init__(self, present):
        self.left = [torch.tensor(present)]

    def reduce(self, tensor, reduction):
        return tensor + (self.left.pop() if self.left else 10.0)


def test_gradients_are_summed_and_those_of_no_process_stay_away(monkeypatch):
    monkeypatch.setattr("alol.compute.launch.BUCKET", 2)
    module = nn.ParameterList([nn.Parameter(torch.zeros(n)) for n in (1, 1, 3, 2)])
    module[0].grad, module[2].grad = torch.tensor([1.0]), torch.tensor([1.0, 2.0, 3.0])
    module[3].requires_grad_(False)
    sum_gradients(module, Other([1.0, 1.0, 0.0]))
    assert [module[i].grad.tolist() for i in range(3)] == [[11.0], [10.0], [11.0, 12.0, 13.0]]
    absent = nn.ParameterList([nn.Parameter(torch.zeros(1))])
    sum_gradients(absent, Other([0.0]))
    assert absent[0].grad is None


def test_what_is_trained_in_one_process_draws_the_dropout_that_it_did_before():
    AcceleratorState._reset_state(True)
    module = nn.Linear(1, 1)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    prepared(module, Accelerator(cpu=True))
    assert torch.equal(torch.rand(3), expected)
    AcceleratorState._reset_state(True)
