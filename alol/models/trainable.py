"""A loaded policy made ready to be trained: fully or as an adapter, beside the reference where that must stay live."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from alol.base.errors import ParameterError, first_line
from alol.base.files import read_json
from alol.compute.batching import Batch
from alol.compute.launch import Machine
from alol.compute.logprob import ResponseLogp, is_encoder_decoder, response_logp
from alol.compute.sharding import shard
from alol.config import model_names
from alol.config.sections import Policy
from alol.models.policies import ADAPTER, POINTER, REFERENCE, LoadedPolicy, Pointer, own_adapter, set_dropout


def recompute(model: nn.Module) -> None:
    """Stores fewer activations while training and computes them again in the backward pass: less memory, more time."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def size(model: nn.Module) -> dict[str, int]:
    """`parameters` of a model, a shared one counted once and a 4-bit one as if unpacked, and how many are `trainable`.

    As peft counts them, which knows how bitsandbytes packs weights; a model without an adapter is never packed here.
    """
    if hasattr(model, "get_nb_trainable_parameters"):  # of peft, which takes a second to import
        trained, every = model.get_nb_trainable_parameters()
    else:
        counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
        trained, every = sum(count for count, needed in counts if needed), sum(count for count, _ in counts)
    return {"parameters": int(every), "trainable": int(trained)}


def frozen_logp(policy: LoadedPolicy, reference: Path, machine: Machine | None = None) -> Callable[[Batch], Tensor]:
    """The response log-probabilities [B, T] of the reference, live beside `policy` (from `prepare`, not yet trained).

    One base serves both where the policy is an adapter: the reference's own adapter is loaded as a second one, or the
    policy's is switched off when the reference has none. A full model is copied. With a `machine` the copy is sharded
    as the policy is; all processes must run equally many batches then.
    """
    from peft import PeftModel

    model = policy.model
    if not isinstance(model, PeftModel):
        copied = copy.deepcopy(model).eval().requires_grad_(False)
        if machine is not None and machine.sharded:
            return _sharded_logp(copied, machine)
        return torch.no_grad()(lambda batch: response_logp(copied.to(batch.device), batch))
    adapter, revision = own_adapter(reference, read_json(reference / POINTER, Pointer))
    if adapter:
        name = model_names.folder(adapter, "the reference's adapter")
        model.load_adapter(name, REFERENCE, is_trainable=False, revision=revision, torch_device="cpu")
        set_dropout(model, 0.0, REFERENCE)
        model.set_adapter(ADAPTER)

    @torch.no_grad()
    def logp(batch: Batch) -> Tensor:
        if not adapter:
            with model.disable_adapter():
                return response_logp(model, batch)
        model.set_adapter(REFERENCE, inference_mode=True)
        try:
            return response_logp(model, batch)
        finally:
            model.set_adapter(ADAPTER)

    return logp


def _sharded_logp(model: nn.Module, machine: Machine) -> Callable[[Batch], Tensor]:
    scorer = shard(ResponseLogp(model.to(machine.device)), machine)

    @torch.no_grad()
    def logp(batch: Batch) -> Tensor:
        found = scorer(batch)
        scorer.reset_iter_state()  # it notes its passes for a backward pass that never comes
        return found

    return logp


def prepare(loaded: LoadedPolicy, policy: Policy, folder: Path, seed: int) -> LoadedPolicy:
    """The reference of `folder`, made ready to be trained as `policy.tuning` says.

    full: every parameter. lora, qlora: the reference's own adapter goes on when it has one, else a new one that leaves
    the model as it is (its B matrices are 0); the pointer then names the reference as the base.
    """
    model, saved = loaded.model, dict(loaded.pointer)
    if policy.tuning == "full":
        if saved["base"] is not None and saved["adapter"]:
            raise ParameterError("policy.tuning", "is full, but the reference has an adapter; use lora or qlora")
        model.requires_grad_(True)
        return LoadedPolicy(model, loaded.tokenizer, {**saved, "base": None, "revision": None, "fingerprint": None})
    from peft import LoraConfig, PeftModel, get_peft_model

    from alol.models import lora

    torch.manual_seed(seed)
    if isinstance(model, PeftModel):
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "lora_" in name or f"modules_to_save.{ADAPTER}." in name
    else:
        config = LoraConfig(
            r=policy.lora.r,
            lora_alpha=policy.lora.alpha,
            lora_dropout=policy.dropout,
            target_modules=policy.lora.targets,
            task_type="SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM",
        )
        try:
            model = lora.fused(get_peft_model(model, config))
        except ValueError as error:  # no module of that name
            raise ParameterError("policy.lora.targets", f"is {policy.lora.targets!r}: {first_line(error)}") from None
        if saved["base"] is None:
            saved["base"] = f"../{folder.name}"
    if saved["base"].startswith("./"):
        saved["base"] = f"../{folder.name}/{saved['base'][2:]}"
    return LoadedPolicy(model, loaded.tokenizer, {**saved, "adapter": None, "adapter_revision": None})
