"""Policies on disk: built from scratch, loaded from a hub or a folder, as full models, LoRA or 4-bit QLoRA adapters.

A policy's folder holds `policy.json` (what it is an adapter of, and how that was loaded), the tokenizer, and either a
full model, an adapter, or nothing more when it stands for a published model as it is: never a copy of a base.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from typing_extensions import TypedDict

from alol.base.errors import InputError, ParameterError
from alol.base.files import read_json, write_json
from alol.compute.dtensors import sharded_state
from alol.compute.ends import end_ids
from alol.compute.kernels import fused
from alol.compute.logprob import is_encoder_decoder
from alol.config import model_names
from alol.config.sections import Policy
from alol.models.loading import complete, fingerprint, language_model_class, loaded, not_finite, reading
from alol.models.tokens import Encoder

transformers_logging.disable_progress_bar()  # of loading and saving weights: the stages show their own

POINTER = "policy.json"
ADAPTER, REFERENCE = "default", "reference"  # adapters on one base; peft saves "default" at a folder's root
DROPOUTS = (
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "activation_dropout",
    "classifier_dropout",
    "dropout_rate",
    "summary_first_dropout",
)


class Pointer(TypedDict):
    """policy.json: what `load` needs to find a policy again; `base` None means that the full model lies beside it."""

    base: str | None
    revision: str | None
    fingerprint: str | None
    adapter: str | None
    adapter_revision: str | None
    quantized: bool


@dataclass
class LoadedPolicy:
    """A model with its tokenizer."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    pointer: Pointer


def encoder(loaded: LoadedPolicy, settings: Policy) -> Encoder:
    """What turns texts into token ids for a policy."""
    return Encoder(loaded.tokenizer, settings, frozenset(end_ids(loaded.model, loaded.tokenizer)))


def context_length(model: nn.Module) -> int | None:
    """Positions a model can take, None when its configuration names no limit."""
    config = model.config
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


def check_context(model: nn.Module, max_prompt: int, new_tokens: int, key: str) -> None:
    """Raises InputError when a prompt and `new_tokens` (the parameter `key`) could outgrow the model's context.

    An encoder-decoder reads them apart: each must fit.
    """
    limit = context_length(model)
    if is_encoder_decoder(model):
        for name, length in (("policy.max_prompt", max_prompt), (key, new_tokens)):
            if limit is not None and length > limit:
                raise ParameterError(name, f"is {length}, more than the model's context of {limit}; lower it")
        return
    if limit is not None and max_prompt + new_tokens > limit:
        raise ParameterError(
            "policy.max_prompt",
            f"= {max_prompt} and {key} = {new_tokens} are {max_prompt + new_tokens} tokens, more than the model's "
            f"context of {limit}; lower one of them",
        )


def pointer(policy: Policy, base: str | None, adapter: str | None) -> Pointer:
    named = base == policy.model
    place = model_names.located(base, "policy.model") if base and named else None
    return {
        "base": base,
        "revision": policy.revision if named else None,
        "fingerprint": fingerprint(place) if place else None,
        "adapter": adapter,
        "adapter_revision": policy.adapter_revision if adapter else None,
        "quantized": policy.tuning == "qlora",
    }


def tokenizer_of(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's name; without a pad token, end of text pads (masks never rely on the id)."""
    tokenizer = loaded(AutoTokenizer.from_pretrained, name, revision, "the tokenizer")
    if not len(tokenizer):
        raise InputError(f"the tokenizer of {name} has an empty vocabulary; its tokenizer.json is damaged or of no use")
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {name} has no end-of-text token; choose a model that has one")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def four_bit(compute: torch.dtype) -> Any:
    """How a base is quantised: NF4, with arithmetic in `compute`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def base_model(name: str, revision: str | None, *, quantized: bool, dropout: float = 0.0) -> PreTrainedModel:
    """A causal language model or an encoder-decoder by its name: in fp32, or in 4-bit NF4.

    Arithmetic on 4-bit weights is in bf16 on an accelerator, and in fp32 where there is none: processors without bf16
    instructions take ten times as long for it.
    """
    config = without_dropout(loaded(AutoConfig.from_pretrained, name, revision, "the model"), dropout)
    options: dict[str, Any] = {"dtype": torch.float32}
    if quantized:
        compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        options = {"dtype": compute, "quantization_config": four_bit(compute)}
    load = language_model_class(config).from_pretrained
    model = complete(load, name, revision, "the model", config=config, **options)
    use_one_kernel(model)
    return fused(model).eval()


def use_one_kernel(model: nn.Module) -> None:
    """Of a 4-bit model.

    bitsandbytes' CPU kernel for evaluation alone rounds differently from the one that training uses: with both, the
    stored reference log-probabilities would not be those of the policy at its first step.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load(folder: Path, *, dropout: float = 0.0) -> LoadedPolicy:
    """The policy of a folder, in evaluation mode on the CPU, an adapter wrapped around its base."""
    saved = read_json(folder / POINTER, Pointer)
    base = base_path(folder, saved["base"])
    place = model_names.located(base, str(folder / POINTER))
    if saved["fingerprint"] and (place is None or saved["fingerprint"] != fingerprint(place)):
        raise InputError(f"{base} has changed since {folder} was made from it; run `dvc repro -f reference`")
    model: nn.Module = base_model(base, saved["revision"], quantized=saved["quantized"], dropout=dropout)
    adapter, revision = own_adapter(folder, saved)
    if adapter:
        model = with_adapter(model, adapter, revision, dropout)
    local = (folder / "tokenizer_config.json").exists()
    tokenizer = tokenizer_of(str(folder) if local else base, None if local else saved["revision"])
    return LoadedPolicy(model.eval(), tokenizer, saved)


def own_adapter(folder: Path, saved: Pointer) -> tuple[str | None, str | None]:
    """The name of a policy's adapter (its own folder, or a hub id) and its revision; `saved` is its policy.json."""
    if (folder / "adapter_config.json").exists():
        return str(folder), None
    return saved["adapter"], saved["adapter_revision"]


def load_checkpoint(
    reference: Path,
    *,
    model: str | None,
    revision: str | None,
    adapter: str | None,
    adapter_revision: str | None,
    quantized: bool | None,
) -> LoadedPolicy:
    """A model that others trained: an adapter on the base of the task's `reference`, or a complete `model`.

    Names are hub ids or folders. `quantized` None: as the reference's base, or not, for another model.
    """
    if model is None:
        if not (reference / POINTER).exists():
            raise InputError(f"{reference / POINTER} is missing; run `dvc repro` to make it, or name a complete model")
        saved = read_json(reference / POINTER, Pointer)
        model, revision = base_path(reference, saved["base"]), saved["revision"]
        quantized = saved["quantized"] if quantized is None else quantized
    pointer = Pointer(
        base=model, revision=revision, fingerprint=None, adapter=adapter, adapter_revision=adapter_revision,
        quantized=bool(quantized),
    )  # fmt: skip
    loaded: nn.Module = base_model(model, revision, quantized=bool(quantized))
    if adapter:
        loaded = with_adapter(loaded, adapter, adapter_revision, 0.0)
    local = model == str(reference) or Path(model).parent == reference
    tokenizer = tokenizer_of(str(reference), None) if local else tokenizer_of(model, revision)
    return LoadedPolicy(loaded.eval(), tokenizer, pointer)


def save(loaded: LoadedPolicy, folder: Path | None) -> None:
    """Writes the policy into an existing or new folder: the adapter alone, or the full model.

    Of several processes that share one model each calls this, those that do not write with None: the weights may be
    sharded.
    """
    weights = sharded_state(loaded.model)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if loaded.pointer["base"] is None:
        loaded.model.save_pretrained(folder, state_dict=weights)
    else:
        config = loaded.model.peft_config[ADAPTER]
        config.base_model_name_or_path = loaded.pointer["base"]
        if isinstance(config.target_modules, set):  # whose order is another in every process
            config.target_modules = sorted(config.target_modules)
        loaded.model.save_pretrained(
            folder, save_embedding_layers=False, selected_adapters=[ADAPTER], state_dict=weights
        )
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card names the machine's paths
    save_pointer(loaded, folder)


def save_pointer(loaded: LoadedPolicy, folder: Path) -> None:
    """Writes policy.json and the tokenizer, no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    loaded.tokenizer.save_pretrained(folder)
    write_json(folder / POINTER, loaded.pointer)


def with_adapter(model: nn.Module, adapter: str, revision: str | None, dropout: float) -> nn.Module:
    """`model` with an adapter (hub id or folder); InputError when it was made for another base.

    Weights are compared by name too: an adapter of a deeper or shallower model would otherwise load in part. Copies of
    the base's embeddings, which peft writes beside an adapter of these layers, must be those of this base.
    """
    from peft import PeftConfig, PeftModel
    from peft.utils import get_peft_model_state_dict, load_peft_weights

    from alol.models import lora

    wrong = f"the adapter {adapter} does not fit the base model"
    name = model_names.folder(adapter, wrong)
    with reading(wrong):
        weights = load_peft_weights(name, device="cpu", revision=revision)
        replaced = PeftConfig.from_pretrained(name, revision=revision).modules_to_save or []
        copied = _copies(weights, model, replaced)
        if other := [key for key, own in copied.items() if not _same(weights[key], own)]:
            raise InputError(f"{wrong}: its {other[0]} is not the base's; use the base that it was trained on")
        wrapped = PeftModel.from_pretrained(model, name, revision=revision, torch_device="cpu")
    expected, given = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False)), set(weights)
    if odd := sorted((expected ^ given) - set(copied)):
        example = odd[0]
        raise InputError(
            f"{wrong}: it has {len(given)} weights and the base takes {len(expected)} (one that does not match: "
            f"{example}); use the base that it was trained on"
        )
    if broken := next(not_finite(wrapped), None):
        raise InputError(f"the adapter {adapter} has weights that are no finite numbers: {broken}")
    set_dropout(wrapped, dropout, ADAPTER)
    return lora.fused(wrapped)


def _copies(weights: dict[str, Tensor], model: nn.Module, replaced: Collection[str]) -> dict[str, Tensor]:
    """Of an adapter's weights, the copies of embeddings that are the base's own: what the base has under each name.

    `replaced` are the names of modules that the adapter brings instead of the base's.
    """
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    own = {f"{name}.weight": module.weight for name, module in model.named_modules() if module in layers}
    names = {key: key.removeprefix("base_model.model.").replace(".base_layer.", ".") for key in weights}
    return {key: own[name] for key, name in names.items() if name in own and name.split(".")[-2] not in replaced}


def _same(given: Tensor, own: Tensor) -> bool:
    """Whether they are equal in the coarser of their types."""
    kinds = sorted((given.dtype, own.dtype), key=lambda kind: kind.itemsize)
    return given.shape == own.shape and torch.equal(given.to(kinds[0]), own.detach().cpu().to(kinds[0]))


def set_dropout(model: nn.Module, dropout: float, adapter: str) -> None:
    """Of the LoRA layers of one adapter."""
    for module in model.modules():
        layers = getattr(module, "lora_dropout", {})
        if adapter in layers and isinstance(layers[adapter], nn.Dropout):
            layers[adapter].p = dropout


def base_path(folder: Path, base: str | None) -> str:
    """The base of a policy's folder: a path in it or beside it as a path from here, a hub id as it is."""
    if base is None:
        return str(folder)
    return os.path.normpath(folder / base) if base.startswith(".") else base


def without_dropout(config: Any, dropout: float = 0.0) -> Any:
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    return config
