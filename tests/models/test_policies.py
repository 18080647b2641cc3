"""Policies on disk: full, LoRA and 4-bit QLoRA, from scratch and from a saved model, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alol.base.errors import InputError
from alol.compute.batching import Batch
from alol.compute.logprob import response_logp
from alol.config import params, sections
from alol.models import policies, scratch, trainable
from tests.conftest import tiny_model

BATCH = Batch([[5, 6, 7], [8]], [[9, 10, 1], [11, 1]], 0, "cpu")


@pytest.fixture
def saved(architecture, tokenizer, tmp_path):
    """A complete model in a folder, as a hub or a user would have it."""
    folder = tmp_path / "base"
    tiny_model(architecture, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def policy(model: str, **changes) -> sections.Policy:
    default = params.load("demo").policy
    lora = dataclasses.replace(default.lora, r=4)
    return dataclasses.replace(default, model=model, lora=lora, **changes)


def pointing(saved, folder, **changes):
    """A reference folder that points to the saved model, and its policy section."""
    settings = policy(str(saved), **changes)
    base = policies.base_model(str(saved), None, quantized=settings.tuning == "qlora")
    tokenizer = policies.tokenizer_of(str(saved), None)
    found = policies.LoadedPolicy(base, tokenizer, policies.pointer(settings, str(saved), settings.adapter))
    policies.save_pointer(found, folder)
    return settings


@torch.no_grad()
def logp(model):
    return response_logp(model, BATCH)


def train_a_little(model):
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 if "lora_B" in name or "lora" not in name else 0.0


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
def test_initial_weights_are_as_large_as_asked_for(architecture, tokenizer):
    settings = sections.Scratch(
        architecture=architecture, layers=1, width=64, heads=4, context=32, vocabulary=400, init_scale=1.0
    )
    usual = scratch.new_model(settings, tokenizer, 0)
    large = scratch.new_model(dataclasses.replace(settings, init_scale=3.0), tokenizer, 0)
    pairs = list(zip(usual.parameters(), large.parameters(), strict=True))
    assert sum(one.dim() > 1 for one, _ in pairs) > 4
    for one, other in pairs:
        if one.dim() > 1:
            torch.testing.assert_close(other, 3 * one)


def test_a_full_model_comes_back_as_it_was_saved(architecture, tokenizer, tmp_path):
    model = tiny_model(architecture, tokenizer)
    saved = policies.LoadedPolicy(model, tokenizer, policies.pointer(policy("scratch"), None, None))
    policies.save(saved, tmp_path / "policy")
    loaded = policies.load(tmp_path / "policy")
    assert torch.equal(logp(loaded.model), logp(model))
    assert not loaded.model.training
    assert loaded.tokenizer("hot")["input_ids"] == tokenizer("hot")["input_ids"]


def test_a_pointer_holds_no_weights_and_loads_the_base(saved, tmp_path):
    pointing(saved, tmp_path / "reference")
    assert not list((tmp_path / "reference").glob("*.safetensors"))
    assert torch.equal(
        logp(policies.load(tmp_path / "reference").model), logp(policies.base_model(str(saved), None, quantized=False))
    )


def test_a_changed_base_is_noticed(saved, tmp_path):
    pointing(saved, tmp_path / "reference")
    (saved / "config.json").write_text((saved / "config.json").read_text() + " ")
    with pytest.raises(InputError, match="has changed since"):
        policies.load(tmp_path / "reference")


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_an_adapter_starts_as_the_reference_and_is_saved_alone(saved, tmp_path, kind):
    reference, out = tmp_path / "reference", tmp_path / "policy"
    settings = pointing(saved, reference, tuning=kind)
    before = policies.load(reference)
    start = logp(before.model)
    trained = trainable.prepare(before, settings, reference, seed=1)
    torch.testing.assert_close(logp(trained.model), start, atol=1e-6, rtol=0)
    base = {n: p.clone() for n, p in trained.model.named_parameters() if not p.requires_grad}
    assert all("lora" in n for n, p in trained.model.named_parameters() if p.requires_grad)
    train_a_little(trained.model)
    assert all(torch.equal(p, base[n]) for n, p in trained.model.named_parameters() if n in base)
    policies.save(trained, out)
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["adapter_model.safetensors"]
    again = logp(policies.load(out).model)
    torch.testing.assert_close(again, logp(trained.model), atol=1e-6, rtol=0)
    assert (again - start).abs().max() > 1e-2
    torch.testing.assert_close(logp(policies.load(reference).model), start, atol=0, rtol=0)


def test_a_published_adapter_goes_on_being_trained(saved, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    settings = pointing(saved, first, tuning="lora")
    adapter = trainable.prepare(policies.load(first), settings, first, seed=1)
    train_a_little(adapter.model)
    policies.save(adapter, tmp_path / "adapter")
    settings = pointing(saved, second, tuning="lora", adapter=str(tmp_path / "adapter"))
    loaded = policies.load(second)
    torch.testing.assert_close(logp(loaded.model), logp(adapter.model), atol=1e-6, rtol=0)
    trained = trainable.prepare(loaded, settings, second, seed=1)
    assert any(p.requires_grad for p in trained.model.parameters())
    policies.save(trained, tmp_path / "out")
    torch.testing.assert_close(logp(policies.load(tmp_path / "out").model), logp(adapter.model), atol=1e-6, rtol=0)


def test_an_adapter_on_a_scratch_reference_names_it_as_its_base(architecture, tokenizer, tmp_path):
    reference = tmp_path / "models" / "reference"
    settings = policy("scratch", tuning="lora")
    full = policies.LoadedPolicy(tiny_model(architecture, tokenizer), tokenizer, policies.pointer(settings, None, None))
    policies.save(full, reference)
    trained = trainable.prepare(policies.load(reference), settings, reference, seed=1)
    policies.save(trained, tmp_path / "models" / "a_lol")
    assert trained.pointer["base"] == "../reference"
    torch.testing.assert_close(
        logp(policies.load(tmp_path / "models" / "a_lol").model), logp(full.model), atol=1e-6, rtol=0
    )


def test_nf4_changes_the_model_a_little_but_not_beyond_recognition(saved):
    exact, rounded = (logp(policies.base_model(str(saved), None, quantized=q)) for q in (False, True))
    assert 1e-3 < (exact - rounded).abs().mean() < 0.2 * exact.abs().mean()


def test_an_adapter_of_another_base_is_refused(saved, tokenizer, tmp_path):
    other = "llama" if (saved / "config.json").read_text().count("gpt2") else "gpt2"
    reference = tmp_path / "other"
    settings = policy("scratch", tuning="lora")
    full = policies.LoadedPolicy(tiny_model(other, tokenizer), tokenizer, policies.pointer(settings, None, None))
    policies.save(full, reference)
    policies.save(trainable.prepare(policies.load(reference), settings, reference, 1), tmp_path / "adapter")
    pointing(saved, tmp_path / "reference", tuning="lora", adapter=str(tmp_path / "adapter"))
    with pytest.raises(InputError, match="does not fit the base model"):
        policies.load(tmp_path / "reference")


def test_recomputed_activations_give_the_same_gradients(architecture, tokenizer):
    gradients = []
    for again in (False, True):
        model = tiny_model(architecture, tokenizer).train()
        if again:
            trainable.recompute(model)
            assert model.is_gradient_checkpointing
        response_logp(model, BATCH).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 3])
def test_an_adapter_of_a_deeper_or_shallower_base_is_refused(architecture, tokenizer, saved, tmp_path, layers):
    targets = ["c_attn"] if architecture == "gpt2" else ["q_proj"]  # by name, as published adapters have them
    settings = policy("scratch", tuning="lora")
    settings = dataclasses.replace(settings, lora=dataclasses.replace(settings.lora, targets=targets))
    other, base = tmp_path / "other", tiny_model(architecture, tokenizer, layers=layers)
    policies.save(policies.LoadedPolicy(base, tokenizer, policies.pointer(settings, None, None)), other)
    policies.save(trainable.prepare(policies.load(other), settings, other, 1), tmp_path / "adapter")
    with pytest.raises(InputError, match=r"does not fit the base model: it has \d+ weights and the base takes \d+"):
        policies.with_adapter(
            policies.base_model(str(saved), None, quantized=False), str(tmp_path / "adapter"), None, 0.0
        )


def test_a_missing_model_is_one_line(tmp_path):
    with pytest.raises(InputError) as error:
        policies.base_model(str(tmp_path / "nowhere"), None, quantized=False)
    assert "nowhere" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_end_of_text_is_refused(saved):
    from transformers import PreTrainedTokenizerFast

    tokenizer = policies.tokenizer_of(str(saved), None)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>").save_pretrained(saved)
    with pytest.raises(InputError, match="no end-of-text token"):
        policies.tokenizer_of(str(saved), None)


def test_a_context_that_is_too_small_is_refused(model):
    policies.check_context(model, 100, 28, "policy.max_response")
    with pytest.raises(InputError, match=r"policy\.max_response = 29 are 129 tokens"):
        policies.check_context(model, 100, 29, "policy.max_response")


LINEAR = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "down_proj"]}
EMBEDDING = {"gpt2": "wte", "llama": "embed_tokens"}
NORM = {"gpt2": "ln_f", "llama": "norm"}


def adapters(architecture):
    """The settings of adapters of other kinds, as peft's users train them."""
    linear, embedding = LINEAR[architecture], EMBEDDING[architecture]
    return {
        "head": {"target_modules": [*linear, "lm_head"]},
        "embedding": {"target_modules": [*linear, embedding]},
        "both": {"target_modules": [*linear, embedding, "lm_head"]},
        "dora": {"target_modules": linear, "use_dora": True},
        "rslora": {"target_modules": linear, "use_rslora": True},
        "all": {"target_modules": [*linear, "lm_head"], "use_dora": True, "use_rslora": True},
        "saved head": {"target_modules": linear, "modules_to_save": ["lm_head"]},
        "saved embedding": {"target_modules": linear, "modules_to_save": [embedding]},
        "saved norm": {"target_modules": linear, "modules_to_save": [NORM[architecture]]},
        "new tokens": {"target_modules": linear, "trainable_token_indices": [5, 6]},
        "bias": {"target_modules": linear, "bias": "lora_only"},
    }


def published(saved, folder, architecture, kind, tied, **options):
    """An adapter that peft's own code trained and saved, and its log-probabilities."""
    from peft import LoraConfig, get_peft_model

    base = policies.base_model(str(saved), None, quantized=False)
    if not tied:
        with torch.no_grad():
            base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight + 0.1)
        base.config.tie_word_embeddings = False
        base.save_pretrained(saved)
    torch.manual_seed(3)
    model = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM", **adapters(architecture)[kind])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder, **options)
    return logp(model)


@pytest.mark.filterwarnings("ignore:.*(fan_in_fan_out|tie_word_embeddings|tied|save_embedding_layers).*")
@pytest.mark.parametrize(
    ("kind", "tied"), [*((kind, True) for kind in adapters("gpt2")), ("both", False), ("saved head", False)]
)
def test_adapters_of_every_kind_load_go_on_and_come_back(architecture, saved, tmp_path, kind, tied):
    expected = published(saved, tmp_path / "adapter", architecture, kind, tied)
    settings = pointing(saved, tmp_path / "reference", tuning="lora", adapter=str(tmp_path / "adapter"))
    loaded = policies.load(tmp_path / "reference")
    torch.testing.assert_close(logp(loaded.model), expected, atol=1e-5, rtol=0)
    trained = trainable.prepare(loaded, settings, tmp_path / "reference", seed=1)
    with torch.no_grad():
        for parameter in trained.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02
    changed = logp(trained.model)
    if kind != "bias":  # of which peft takes one at a time
        frozen = trainable.frozen_logp(trained, tmp_path / "reference")
        torch.testing.assert_close(frozen(BATCH), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logp(trained.model), changed, atol=1e-5, rtol=0)
    policies.save(trained, tmp_path / "out")
    torch.testing.assert_close(logp(policies.load(tmp_path / "out").model), changed, atol=1e-5, rtol=0)
    torch.testing.assert_close(logp(policies.load(tmp_path / "reference").model), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*(fan_in_fan_out|tie_word_embeddings|tied|save_embedding_layers).*")
@pytest.mark.parametrize("kind", ["head", "both"])
def test_an_adapter_with_the_embeddings_of_another_base_is_refused(architecture, tokenizer, saved, tmp_path, kind):
    published(saved, tmp_path / "adapter", architecture, kind, tied=False)
    other = tiny_model(architecture, tokenizer, seed=9)
    with pytest.raises(InputError, match=r"does not fit the base model: its .*base_layer.weight is not the base's"):
        policies.with_adapter(other, str(tmp_path / "adapter"), None, 0.0)


def test_an_adapter_saved_with_the_bases_embeddings_loads(architecture, saved, tmp_path):
    """Though it does not target them: what peft writes for a base that it takes for resized."""
    expected = published(saved, tmp_path / "adapter", architecture, "rslora", tied=True, save_embedding_layers=True)
    model = policies.with_adapter(
        policies.base_model(str(saved), None, quantized=False), str(tmp_path / "adapter"), None, 0.0
    )
    torch.testing.assert_close(logp(model), expected, atol=1e-5, rtol=0)
