"""LoRA layers that add the adapter's part inside its second matrix product.

peft multiplies that part by its scale and adds it in passes of their own over the layer's whole output.
"""

from __future__ import annotations

from typing import Any

from peft.tuners import lora
from torch import Tensor, nn


class Linear(lora.Linear):
    """W x + B (s A x) on a linear layer in one more product; peft's own where an adapter is of another form."""

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        names = [name for name in self.active_adapters if name in self.lora_A]
        other = arguments or options or self.merged or self.disable_adapters or self.lora_variant
        if other or len(names) != 1 or self.lora_B[names[0]].bias is not None:
            return super().forward(x, *arguments, **options)
        first, second = self.lora_A[names[0]], self.lora_B[names[0]]
        result = self.base_layer(x)
        dropped = self.lora_dropout[names[0]](self._cast_input_dtype(x, first.weight.dtype))
        inner = (first(dropped) * self.scaling[names[0]]).to(result.dtype)
        # in place, which autocast leaves as it is: all three are of the type of `result`
        result.flatten(0, -2).addmm_(inner.flatten(0, -2), second.weight.to(result.dtype).T)
        return result


def fused(model: nn.Module) -> nn.Module:
    """`model` with its plain LoRA layers on linear ones of this kind; they stay peft's in all other respects."""
    for layer in model.modules():
        if type(layer) is lora.Linear:
            layer.__class__ = Linear
    return model
