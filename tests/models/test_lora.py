"""LoRA layers in one product less: peft's own numbers, but for rounding."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from alol.base.files import write_json
from alol.compute.batching import Batch
from alol.compute.logprob import response_logp
from alol.models import lora, policies, trainable
from tests.conftest import tiny_model

BATCH = Batch([[5, 6, 7, 8], [9]], [[20, 21, 1], [22, 23, 24, 1]], 0, "cpu")


def adapted(architecture, tokenizer, **options):
    """A model with a LoRA adapter that changes something, scaled by 3 / 2."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(tiny_model(architecture, tokenizer), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model):
    logp = response_logp(model, BATCH)
    logp.sum().backward()
    return logp.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def test_by_hand():
    """W = [[1, 2]], A = [[1, 1]], B = [[3]], scale 2 / 1: [1, 10] W + 2 * 3 * 11 = 21 + 66."""
    config = peft.LoraConfig(r=1, lora_alpha=2, target_modules=["0"])
    model = lora.fused(peft.get_peft_model(nn.Sequential(nn.Linear(2, 1, bias=False)), config))
    for name, value in (("base_layer", [[1.0, 2.0]]), ("lora_A.default", [[1.0, 1.0]]), ("lora_B.default", [[3.0]])):
        model.base_model.model[0].get_submodule(name).weight.copy_(torch.tensor(value))
    x = torch.tensor([[[1.0, 10.0], [0.0, 1.0]]])
    assert model(x).tolist() == [[[87.0], [8.0]]]
    with model.disable_adapter():
        assert model(x).tolist() == [[[21.0], [2.0]]]


def test_a_models_size_and_what_of_it_is_trained():
    config = peft.LoraConfig(r=1, target_modules=["0"])
    model = peft.get_peft_model(nn.Sequential(nn.Linear(2, 1, bias=False)), config)
    assert trainable.size(lora.fused(model)) == {"parameters": 5, "trainable": 3}  # W 1 x 2; A 1 x 2 and B 1 x 1
    shared = nn.Linear(2, 2)
    shared.bias.requires_grad_(False)
    assert trainable.size(nn.Sequential(shared, shared)) == {"parameters": 6, "trainable": 4}


@pytest.mark.parametrize("options", [{}, {"lora_bias": True}, {"use_dora": True}])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_numbers_and_gradients_are_pefts(architecture, options, tokenizer):
    model = adapted(architecture, tokenizer, **options)
    (logp, expected), (again, found) = gradients(model), gradients(lora.fused(copy.deepcopy(model)))
    torch.testing.assert_close(again, logp, atol=1e-5, rtol=0)
    assert found.keys() == expected.keys()
    assert expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_on_a_base_in_4_bits_too(precision, tokenizer, tmp_path):
    tiny_model("llama", tokenizer).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(policies.base_model(str(tmp_path), None, quantized=True), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    fused = lora.fused(copy.deepcopy(model))
    layers = [layer for layer in fused.modules() if isinstance(layer, lora.Added)]
    assert layers
    assert {type(layer.base_layer).__name__ for layer in layers} == {"Linear4bit"}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        (logp, expected), (again, found) = gradients(model), gradients(fused)
    exact = precision == "no"
    torch.testing.assert_close(again, logp, atol=1e-5 if exact else 0.05, rtol=0)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= (1e-5 if exact else 0.05) * gradient.norm(), name


@torch.no_grad()
def test_it_is_merged_and_taken_off_as_pefts_own(tokenizer):
    model = lora.fused(adapted("llama", tokenizer))
    expected = response_logp(model, BATCH)
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(response_logp(merged, BATCH), expected, atol=1e-5, rtol=0)
    with model.disable_adapter():
        plain = response_logp(model, BATCH)
    torch.testing.assert_close(plain, response_logp(tiny_model("llama", tokenizer), BATCH), atol=1e-5, rtol=0)


def test_adapters_are_read_into_memory_and_not_by_every_process_onto_the_first_accelerator(
    tokenizer, tmp_path, monkeypatch
):
    """peft would choose "cuda" by itself, which is the first one until a process has chosen another."""
    adapted("llama", tokenizer).save_pretrained(tmp_path)
    pointer = {"base": "x", "revision": None, "fingerprint": None, "adapter": None, "adapter_revision": None}
    write_json(tmp_path / policies.POINTER, {**pointer, "quantized": False})
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: pytest.fail("peft chose a device"))
    model = policies.with_adapter(tiny_model("llama", tokenizer), str(tmp_path), None, 0.0)
    logp = trainable.frozen_logp(policies.LoadedPolicy(model, tokenizer, {}), tmp_path)(BATCH)
    assert torch.equal(logp, response_logp(model, BATCH).detach())
