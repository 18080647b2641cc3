"""Tensors of which each process holds a part (torch's DTensor): made whole, split again, and brought to one process."""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, put together from its parts where it is sharded; to be called by all processes then."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def split_as(tensor: Tensor, weight: Tensor) -> Tensor:
    """This process's part of `tensor`, which all processes have, where `weight` of the same shape is sharded."""
    if not hasattr(weight, "full_tensor") or tensor.shape != weight.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)


def collected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors on the CPU in the main process, {} in the others; one that has two names stays one.

    To be called by all processes where any is sharded. Of these one at a time is whole in all of them.
    """
    main, found = not dist.is_initialized() or dist.get_rank() == 0, {}
    for tensor in tensors.values():
        if id(tensor) not in found:
            one = whole(tensor.detach())
            found[id(tensor)] = one.cpu() if main else None
    return {name: found[id(tensor)] for name, tensor in tensors.items()} if main else {}


def sharded_state(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights of a sharded model as `collected` gives them; None of one that is not sharded."""
    if not any(hasattr(weight, "full_tensor") for weight in model.parameters()):
        return None
    return collected(model.state_dict(keep_vars=True))
