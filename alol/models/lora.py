"""LoRA layers that add the adapter's part inside its second matrix product.

peft multiplies that part by its scale and adds it in passes of their own over the layer's whole output; on a base in 4
bits it copies the output before.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from peft.tuners import lora
from torch import Tensor, nn

FOUR_BIT = ("peft.tuners.lora.bnb", "Linear4bit")


class Added:
    """W x + B (s A x) on a linear layer in one more product; peft's own where an adapter is of another form.

    To be put before peft's layer among the bases of a class.
    """

    def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
        names = [name for name in self.active_adapters if name in self.lora_A]
        other = arguments or options or self.merged or self.disable_adapters or self.lora_variant
        if other or len(names) != 1 or self.lora_B[names[0]].bias is not None:
            return super().forward(x, *arguments, **options)
        first, second = self.lora_A[names[0]], self.lora_B[names[0]]
        shape, x = x.shape[:-1], x.flatten(0, -2)
        result = self.base_layer(x)  # of rows: in a view of it the sum would cost two copies of the gradient
        dropped = self.lora_dropout[names[0]](self._cast_input_dtype(x, first.weight.dtype))
        inner = (first(dropped) * self.scaling[names[0]]).to(result.dtype)
        # in place, which autocast leaves as it is: all three are of the type of `result`
        return result.addmm_(inner, second.weight.to(result.dtype).T).unflatten(0, shape)


@cache
def _kind(of_peft: type) -> type | None:
    """The class for a layer of peft's; None for one that stays as it is."""
    if of_peft is lora.Linear or (of_peft.__module__, of_peft.__name__) == FOUR_BIT:  # which peft imports late
        return type(of_peft.__name__, (Added, of_peft), {"__doc__": Added.__doc__})
    return None


def fused(model: nn.Module) -> nn.Module:
    """`model` with its LoRA layers on linear ones of this kind; they stay peft's in all other respects."""
    for layer in model.modules():
        if kind := _kind(type(layer)):
            layer.__class__ = kind
    return model
