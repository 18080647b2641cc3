"""Frozen weights in bf16, for a model that is run under autocast.

Autocast rounds the fp32 weights of every linear layer for each multiplication and keeps the copies of none that is
frozen. The rounding is the same here, once, so all numbers stay what they were, to the bit; norms, embeddings and what
is trained stay in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def rounded(model: nn.Module, but: Collection[nn.Module] = ()) -> nn.Module:
    """Rounds the matrices of `model` that are not trained to bf16, but for those of the modules `but`."""
    exact = {*_read_exactly(model), *but}
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.cast_input_dtype_enabled = False  # to fp32, which autocast would round back
        if type(layer) in (nn.Linear, Conv1D) and layer not in exact:
            for name, weight in list(layer.named_parameters(recurse=False)):
                if weight.dtype == torch.float32 and not weight.requires_grad:
                    # a new parameter: the head's may be the embedding's too, whose output is not rounded
                    setattr(layer, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=False))
    for weight in model.parameters():
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.requires_grad:
            weight.data = weight.data.clone()  # what lies in the mapped file would hold all of it in memory
    return model


def _read_exactly(model: nn.Module) -> Iterator[nn.Module]:
    """The layers whose weights autocast does not round: what an adapter other than plain LoRA computes with of its
    base, and LoRA's second matrix on a layer in 4 bits, which gives fp32.
    """
    for layer in model.modules():
        if hasattr(layer, "base_layer") and (not hasattr(layer, "lora_A") or getattr(layer, "lora_variant", None)):
            yield layer.base_layer
        elif hasattr(layer, "base_layer") and type(layer.base_layer) not in (nn.Linear, Conv1D):
            yield from layer.lora_B.values()
