"""Rewards that are adapters (LoRA) on the model that training starts from: made, written, and several on one base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from alol.base.errors import InputError
from alol.models.loading import quiet, reading
from alol.rewards.network import Encoded
from alol.rewards.options import Lora

ADAPTER = "default"
POOLER = "pooler"  # what stands between an encoder's states and its head; new where the checkpoint had none


def wrapped(model: nn.Module, lora: Lora, where: str) -> Any:
    """A PeftModel with new adapters on every linear layer of the body; the head is trained as a whole.

    `model` itself then holds the adapters too. Raises InputError where the head cannot be told from the body by name.
    """
    from peft import LoraConfig, get_peft_model

    body = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_modules()]
    heads = [name for name, child in model.named_children() if f"{name}." != body and [*child.parameters()]]
    heads += [POOLER] if any(name.endswith(f".{POOLER}") for name in names) else []
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(body) and f".{POOLER}." not in name
    ]
    if any(name.endswith(head) for name in linear for head in heads):
        raise InputError(f"{where}.train.tuning: lora cannot tell this model's head ({', '.join(heads)}) from its body")
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=linear,
        modules_to_save=heads,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    return get_peft_model(model, config, adapter_name=ADAPTER)


def save(peft: Any, base: str, folder: Path) -> None:
    """The adapter and the head, with the name of their base as the parameters have it."""
    config = peft.peft_config[ADAPTER]
    config.base_model_name_or_path = base
    config.target_modules = sorted(config.target_modules)  # whose order is another in every process
    config.modules_to_save = sorted(config.modules_to_save)
    with quiet():
        peft.save_pretrained(folder, save_embedding_layers=False, selected_adapters=[ADAPTER])
    (folder / "README.md").unlink(missing_ok=True)


class AdaptedNetwork:
    """A network whose model has several adapters, and the name of the one that scores here."""

    def __init__(self, network: Any, peft: Any, name: str) -> None:
        self.model, self.tokenizer, self._network, self._peft, self._name = (
            network.model, network.tokenizer, network, peft, name,
        )  # fmt: skip

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        return self._network.encode(prompts, responses, contexts)

    def logits(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """[B, C]"""
        self._peft.set_adapter(self._name, inference_mode=True)
        return self._network.logits(rows)


class Adapted:
    """One base and its adapters, each read once."""

    def __init__(self, network: Any, where: str) -> None:
        self._network, self._where, self._peft = network, where, None

    def load(self, folder: Path) -> AdaptedNetwork:
        from peft import PeftModel

        with reading(f"{self._where}: the adapter {folder} could not be loaded"):
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(
                    self._network.model, str(folder), adapter_name=folder.name, torch_device="cpu"
                )
            else:
                self._peft.load_adapter(str(folder), adapter_name=folder.name, torch_device="cpu")
        return AdaptedNetwork(self._network, self._peft, folder.name)
