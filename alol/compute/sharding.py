"""Weights, gradients and optimizer state split over the processes (FSDP2): for what one accelerator does not hold.

A transformer block is made whole in every process right before it computes, forward and backward, and split again right
after; what lies outside of the blocks (embeddings, last norm, heads) is whole during the pass. Its gradient is summed
over the processes as soon as it is there. So all processes must run equally many passes of the outermost module, which
`evened` sees to. Passes of inner modules, and those whose number differs by process, are run in `gathered`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from alol.compute.launch import Machine


def shard(module: nn.Module, machine: Machine) -> nn.Module:
    """`module`, with its weights split over the processes where `launch.shard` says so: they must be equal in all.

    It is the outermost module from then on. Its parameters are DTensors, and plain tensors while it computes.
    """
    if not machine.sharded:
        return module
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(machine.device.type, (machine.accelerator.num_processes,))
    for part in (*_blocks(module), module):
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        # the sum over the processes, not their mean; and not by the premultiplied sum, which gloo does not have
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    # FSDP takes the first module that runs for the outermost one, and generation runs inner ones
    module.begin = lambda: None
    register_fsdp_forward_method(module, "begin")
    module.begin()
    return module


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The transformer blocks: of the lists of layers, those of which transformers says that they stay in one piece."""
    names = {name for one in module.modules() for name in getattr(one, "_no_split_modules", None) or ()}
    lists = (one for one in module.modules() if isinstance(one, nn.ModuleList))
    return [layer for layers in lists for layer in layers if type(layer).__name__ in names]


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Every process holds all weights of `module` while the block runs, and no pass in it waits for other processes.

    To be entered by all processes, without gradients. `module` is what `shard` was given; any other stays as it is.
    """
    parts = [part for part in module.modules() if hasattr(part, "unshard")]
    if not parts:
        yield
        return
    module.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        module.set_reshard_after_forward(True)
        # splits the weights, and forgets the passes: what is fetched ahead in the next backward pass follows from them
        module.reset_iter_state()


def evened(parts: Sequence[list[int]], spare: list[int], machine: Machine) -> Iterator[tuple[list[int], float]]:
    """Yields the micro-batches `parts` with their weight, 1.

    Where weights are sharded, as many come in every process: one that has fewer gets a row again, with weight 0, or one
    of `spare`, if it has none of its own.
    """
    most = len(parts)
    if machine.sharded:
        most = int(machine.accelerator.gather(torch.tensor([most], device=machine.device)).max())
    yield from ((part, 1.0) for part in parts)
    for _ in range(most - len(parts)):
        yield [parts[-1][-1]] if parts else spare[:1], 0.0
