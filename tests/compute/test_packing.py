"""Sequences without padding give what padded ones do, for every architecture that is run so, gradients included."""

from __future__ import annotations

import inspect

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention.varlen import varlen_attn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from alol.compute import packed_models, packing
from alol.compute.batching import Batch
from alol.compute.logprob import prompt_states, response_logp, response_logp_and_prompt_states, response_logp_and_states
from alol.models import trainable

# a prompt with several responses, one of a single token, one without any
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [12, 13], [17], [12, 13], [18, 19]]
RESPONSES = [[20, 21, 1], [22, 23, 24, 25, 26, 1], [27], [28, 29, 30, 31, 1], [], [32]]
WEIGHTS = torch.arange(1.0, 37.0).view(6, 6) / 10


def decoder(architecture: str):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": None, "head_dim": 8, "ffn_dim": 48}
    sizes |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "word_embed_proj_dim": 32}
    ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    if architecture not in ("llama", "mistral", "qwen2", "qwen3"):
        del sizes["num_key_value_heads"], sizes["head_dim"]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, vocab_size=64, **sizes, **ids)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model


def results(model):
    """Log-probabilities, states and gradients of one batch."""
    batch = Batch(PROMPTS, RESPONSES, 0, "cpu")
    model.zero_grad()
    logp, states = response_logp_and_states(model, batch)
    (logp * WEIGHTS).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    alone, prompts = response_logp_and_prompt_states(model, batch)
    tokens = [*prompts, *prompt_states(model, batch)]
    return logp.detach(), alone.detach(), (states * batch.response_mask[..., None]).detach(), tokens, gradients


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [1, 32])
@pytest.mark.parametrize("architecture", packed_models.DECODERS)
def test_unpadded_sequences_give_what_padded_ones_do(architecture, shared, monkeypatch):
    monkeypatch.setattr(packing, "SHARED", shared)
    model = decoder(architecture)
    assert packed_models.packable(model)
    unpadded = results(model)
    monkeypatch.setattr(packed_models, "packable", lambda model: False)
    padded = results(model)
    assert padded[0].abs().sum() > 50
    for found, expected in zip(unpadded[:3], padded[:3], strict=True):
        close(found, expected)
    for found, expected in zip(unpadded[3], padded[3], strict=True):
        close(found, expected)
    assert unpadded[4].keys() == padded[4].keys()
    for name, expected in padded[4].items():
        scale = expected.norm().clamp(min=0.1)  # that of a key bias is 0 but for rounding
        assert (unpadded[4][name] - expected).norm() / scale < 1e-5, name


def plain_kernel(query, key, value, begins, key_begins, longest, longest_key, *, scale, window_size, enable_gqa):
    """What `varlen_attn` computes on a GPU, one sequence at a time: [L, heads, D]."""
    inspect.signature(varlen_attn).bind(
        query, key, value, begins, key_begins, longest, longest_key,
        scale=scale, window_size=window_size, enable_gqa=enable_gqa,
    )  # fmt: skip
    assert begins.dtype == key_begins.dtype == torch.int32
    assert (longest, longest_key) == tuple(int(x.diff().max()) for x in (begins, key_begins))
    assert window_size in ((-1, 0), (-1, -1))
    assert enable_gqa or query.shape[1] == key.shape[1]
    found = []
    for i in range(len(begins) - 1):
        q = query[begins[i] : begins[i + 1]]
        k, v = (
            x[key_begins[i] : key_begins[i + 1]].repeat_interleave(query.shape[1] // key.shape[1], 1)
            for x in (key, value)
        )
        scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or q.shape[-1] ** -0.5)
        if window_size == (-1, 0):
            hidden = torch.ones_like(scores[0], dtype=torch.bool).triu(len(k) - len(q) + 1)
            scores = scores.masked_fill(hidden, float("-inf"))
        found.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
    return torch.cat(found)


@pytest.fixture
def kernel(monkeypatch):
    """Calls of a kernel that takes pieces of all sizes, as there is on a GPU."""
    calls = []
    monkeypatch.setattr(packing, "varlen_dtype", lambda query, dropout: query.dtype)
    monkeypatch.setattr(
        packing, "varlen_attn", lambda *given, **options: calls.append(1) or plain_kernel(*given, **options)
    )
    return calls


@pytest.mark.parametrize("shared", [1, 32])
@pytest.mark.parametrize("architecture", packed_models.DECODERS)
def test_pieces_of_all_sizes_in_one_call_give_what_a_call_for_each_size_does(
    architecture, shared, monkeypatch, request
):
    monkeypatch.setattr(packing, "SHARED", shared)
    model = decoder(architecture)
    assert packed_models.packable(model)
    expected = results(model)
    calls = request.getfixturevalue("kernel")
    found = results(model)
    assert len(calls) == 3 * 2  # forward passes times layers
    torch.testing.assert_close(found[:4], expected[:4], rtol=1e-4, atol=1e-5)
    for name, gradient in expected[4].items():
        assert (found[4][name] - gradient).norm() / gradient.norm().clamp(min=0.1) < 1e-5, name


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@torch.no_grad()
def test_an_encoder_takes_texts_of_all_lengths_in_one_call(architecture, request):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(architecture, vocab_size=64, **sizes))
    assert packed_models.ready(model.eval(), packed_models.ENCODERS)
    packed = packing.sequences([[5, 6, 7, 8], [9], [10, 11, 12]], "cpu", causal=False, start=2)
    types = torch.zeros_like(packed.input_ids)
    expected = packed_models.pooled_first(model, packed, types).logits
    calls = request.getfixturevalue("kernel")
    torch.testing.assert_close(packed_models.pooled_first(model, packed, types).logits, expected, rtol=1e-5, atol=1e-6)
    assert len(calls) == 2


def test_a_processor_has_no_kernel_for_pieces_of_all_sizes():
    assert packing.varlen_dtype(torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16), 0.0) is None


@pytest.mark.parametrize("architecture", [name for name in packed_models.DECODERS if name != "opt"])
def test_the_last_layer_leaves_out_what_nothing_reads(architecture):
    model, rows = decoder(architecture), {}
    assert packed_models.packable(model)
    layers = getattr(model.base_model, "layers", None) or model.base_model.h
    for i, layer in enumerate(layers):
        for child in layer.mlp.children():
            child.register_forward_pre_hook(lambda _, inputs, i=i: rows.setdefault(i, set()).add(inputs[0].shape[1]))
    batch = Batch([[5, 6, 7, 8], [9, 10, 11]], [[20, 21, 1], [22]], 0, "cpu")
    response_logp(model, batch)
    assert rows == {0: {4 + 2 + 3}, 1: {3 + 1}}  # of the responses all but the last tokens; what predicts a token
    rows.clear()
    response_logp_and_prompt_states(model, batch)
    assert rows == {0: {9}, 1: {9}}


def test_an_adapter_and_recomputed_activations_change_nothing(monkeypatch):
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(decoder("llama"), adapter).train()
    expected = results(model)
    trainable.recompute(model)
    found = results(model)
    torch.testing.assert_close(found[0], expected[0])
    for name, gradient in expected[4].items():
        torch.testing.assert_close(found[4][name], gradient)
    monkeypatch.setattr(packed_models, "packable", lambda model: False)
    close(found[0], results(model)[0])


def test_equal_prompts_are_laid_out_once_and_last_tokens_not_at_all(monkeypatch):
    monkeypatch.setattr(packing, "SHARED", 2)
    layout = packing.layout(PROMPTS, RESPONSES, "cpu")
    assert layout.packed.input_ids.tolist() == [
        [5, 6, 7, 8, 9, 10, 11, 20, 21, 12, 13, 22, 23, 24, 25, 26, 17, 28, 29, 30, 31, 18, 19]
    ]
    assert layout.packed.position_ids[0, :16].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6]
    assert layout.packed.lengths == (9, 2, 5, 5, 2)
    assert layout.packed.prefix == (-1, -1, 1, -1, -1)
    assert layout.predictors.tolist() == [6, 7, 8, 10, 11, 12, 13, 14, 15, 10, 16, 17, 18, 19, 20, 22]
    assert (layout.prompt_starts, layout.prompt_lengths) == ((0, 9, 9, 16, 9, 21), (7, 2, 2, 1, 2, 2))


def test_short_prompts_are_laid_out_for_each_response_and_the_longest_rows_first():
    layout = packing.layout(PROMPTS, RESPONSES, "cpu")
    assert layout.packed.lengths == (9, 7, 5, 2, 2)
    assert layout.packed.prefix == (-1,) * 5
    assert layout.prompt_starts == (0, 9, 21, 16, 21, 23)  # the row without a response has the prompt of another


def test_neighbours_of_one_size_attend_in_one_call_unless_they_share_tokens(monkeypatch):
    rows = [[5, 6, 7, 8], [9, 10], [11, 12], [13, 14], [15]]
    assert packing.sequences(rows, "cpu").groups == [(0,), (1, 2, 3), (4,)]
    monkeypatch.setattr(packing, "SHARED", 1)
    packed = packing.layout([[5, 6], [5, 6], [7, 8]], [[20, 21, 1], [22, 23, 1], []], "cpu").packed
    assert packed.lengths == (2, 2, 2, 2)
    assert packed.groups == [(0,), (1,), (2,), (3,)]


def test_architectures_that_are_not_known_run_padded(tokenizer):
    config = AutoConfig.for_model("gpt_neo", vocab_size=64, hidden_size=32, num_layers=2, num_heads=4,
                                  attention_types=[[["global"], 2]], bos_token_id=1, eos_token_id=1)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    assert not packed_models.packable(model)
    sliding = AutoConfig.for_model("mistral", vocab_size=64, hidden_size=32, num_hidden_layers=1, sliding_window=8)
    assert not packed_models.packable(AutoModelForCausalLM.from_config(sliding))


@torch.no_grad()
def test_padded_models_of_other_architectures_give_their_own_log_probabilities():
    config = AutoConfig.for_model("gpt_neo", vocab_size=64, hidden_size=32, num_layers=2, num_heads=4,
                                  attention_types=[[["global"], 2]], bos_token_id=1, eos_token_id=1)  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    found = response_logp(model, Batch(PROMPTS, RESPONSES, 0, "cpu"))
    logits = model(input_ids=torch.tensor([PROMPTS[0] + RESPONSES[0]])).logits.log_softmax(-1)[0]
    expected = torch.stack([logits[6 + t, token] for t, token in enumerate(RESPONSES[0])])
    close(found[0, :3], expected)
