"""Scoring in 16 bits: a reward network's body in bf16, what makes scores of its states in fp32.

A score in bf16 itself would have three digits, so that many texts were equally good.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import nn

from alol.compute.rounding import rounded

Precision = Literal["fp32", "bf16"]


def heads(model: nn.Module) -> list[nn.Module]:
    """Lists what stands beside the body of a transformers model; a bare one has none."""
    body = getattr(model, model.base_model_prefix, None)
    return [child for child in model.children() if child is not body] if body is not None else []


def frozen(model: nn.Module, precision: Precision) -> nn.Module:
    """`model`, which scores from now on: in bf16 the body's matrices are kept in bf16 alone.

    Each rounding is the one that autocast would make anew for each batch, so `computing` gives the same logits.
    """
    model.requires_grad_(False).eval()
    if precision == "bf16":
        rounded(model, but=[layer for head in heads(model) for layer in head.modules()])
    return model


@contextlib.contextmanager
def computing(model: Any, precision: Precision) -> Iterator[None]:
    """Lets `model` compute in bf16 by autocast, and its head in fp32."""
    if precision == "fp32":
        yield
        return
    kind, parts = model.device.type, heads(model)
    for part in parts:
        part.forward = functools.partial(_exactly, part.forward, kind)
    try:
        with torch.autocast(kind, torch.bfloat16):
            yield
    finally:
        for part in parts:
            del part.forward  # of the instance, which hid that of the class


def _exactly(forward: Callable[..., Any], kind: str, *arguments: Any, **options: Any) -> Any:
    with torch.autocast(kind, enabled=False):
        return forward(*(one.float() if torch.is_tensor(one) else one for one in arguments), **options)
