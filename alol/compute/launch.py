"""Devices and processes: one Accelerator from `launch:` in params.yaml, and how its processes share work."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast, broadcast_object_list, gather_object, patch_environment
from torch import nn
from torch.distributed import distributed_c10d

from alol.base.errors import InputError, SharedError
from alol.base.files import replacing
from alol.base.work import Work
from alol.compute.rounding import rounded
from alol.config.sections import Launch

BUCKET = 2**24  # gradients that the processes sum at once: 64 MiB in fp32


@dataclass(frozen=True)
class Machine:
    """What a stage computes with: the Accelerator of this process, and `launch` with its limits of a batch."""

    accelerator: Accelerator
    launch: Launch

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def sharded(self) -> bool:
        """Whether what is trained is split over the processes."""
        return self.launch.shard and self.accelerator.num_processes > 1


def accelerator(launch: Launch, work: Work | None = None) -> Accelerator:
    """The Accelerator of this process; of several, one waits for the others for at most `launch.wait_minutes`.

    Raises InputError where a machine has fewer accelerators than processes, or where one of the processes does not see
    the folder of the stage's unfinished `work`, in which they exchange what they computed.
    """
    precision = "no" if launch.precision == "fp32" else launch.precision
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=launch.wait_minutes))
    on_processor = _on_processor(launch)
    # accelerate would say "cpu:0" in one of several processes, and to("cpu:0") copies weights on "cpu", mapped from a
    # file: products round by where their operands begin in memory, so V(x) would not be that of one process
    with patch_environment(**({"ACCELERATE_TORCH_DEVICE": "cpu"} if on_processor else {})):
        made = Accelerator(cpu=on_processor, mixed_precision=precision, kwargs_handlers=[patience])
    if work is not None:
        _check_shared(work, made)
    return made


def _on_processor(launch: Launch) -> bool:
    """Whether to take no accelerator; accelerate itself makes no group of several processes that have none."""
    several, count = int(os.environ.get("WORLD_SIZE", "1")) > 1, torch.cuda.device_count()
    if launch.device == "cpu" or not several:
        return launch.device == "cpu"
    if 1 < count <= (local := int(os.environ.get("LOCAL_RANK", "0"))):  # one: a launcher may show each its own
        raise InputError(
            f"{socket.gethostname()} has {count} accelerators, but {local + 1} processes or more were started there; "
            "start one for each accelerator"
        )
    return not torch.accelerator.is_available()


def _check_shared(work: Work, accelerator: Accelerator) -> None:
    """Raises SharedError where one of the processes has another folder than the owner of `work`."""
    owner, token = from_main((work.folder.name, work.token), accelerator)
    if not token:
        return
    found = "of other inputs, code or libraries" if work.folder.name != owner else work.unseen(token)
    seen = gather_shards([(socket.gethostname(), found, str(work.folder))], accelerator)
    if missing := [one for one in seen if one[1] is not None]:
        hosts = ", ".join(dict.fromkeys(host for host, _, _ in missing))
        _, what, folder = missing[0]
        raise SharedError(
            f"{hosts}: the folder of unfinished work {folder} is {what} there, and not that of the other processes; "
            "all machines need this checkout (and $ALOL_STATE, where it is set) on one file system that they share, "
            "and the same installed versions"
        )


def placed(model: nn.Module, accelerator: Accelerator, *, trained: bool) -> nn.Module:
    """`model` on the accelerator's device; in bf16, the matrices that are not trained are kept in bf16 alone.

    The model can then be run under autocast only, and is no longer the one to export: see `rounding.rounded`. With
    `trained` False nothing is trained.
    """
    model.to(accelerator.device)
    if accelerator.mixed_precision != "bf16":
        return model
    if not trained:
        model.requires_grad_(False)
    return rounded(model)


def prepared(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """`module`, which is to be trained, made ready to be called under the accelerator's precision in every process.

    The processes begin with the main one's weights, and each of the others with dropout of its own. The module is not
    wrapped in DistributedDataParallel, which waits in each backward pass for all processes: these would need equal
    numbers of micro-batches. `sum_gradients` comes after them instead.
    """
    # which leaves out the wrapper alone
    module = accelerator.prepare_model(module, evaluation_mode=True)
    if accelerator.num_processes > 1:
        for weight in _trained(module):
            broadcast(weight.data)
        if accelerator.process_index:
            torch.manual_seed((torch.initial_seed() + accelerator.process_index) % 2**63)
    return module


def sum_gradients(module: nn.Module, accelerator: Accelerator) -> None:
    """Puts the sum over the processes in place of each gradient of `module`; one that a process lacks counts as 0.

    To be called by all processes. What no process has a gradient of stays without.
    """
    if accelerator.num_processes == 1:
        return
    weights = _trained(module)
    present = torch.tensor([float(weight.grad is not None) for weight in weights], device=accelerator.device)
    present = accelerator.reduce(present, reduction="sum").tolist()
    bucket: list[nn.Parameter] = []
    for weight in [weight for weight, processes in zip(weights, present, strict=True) if processes]:
        if bucket and (sum(one.numel() for one in bucket) + weight.numel() > BUCKET or weight.dtype != bucket[0].dtype):
            _sum_bucket(bucket, accelerator)
            bucket = []
        bucket.append(weight)
    if bucket:
        _sum_bucket(bucket, accelerator)


def _sum_bucket(weights: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = accelerator.reduce(torch.cat([gradient.flatten() for gradient in own]), reduction="sum")
    for weight, gradient, part in zip(weights, own, flat.split([one.numel() for one in own]), strict=True):
        weight.grad = gradient.copy_(part.view_as(gradient))


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in module.parameters() if weight.requires_grad]


@contextlib.contextmanager
def output(path: Path, accelerator: Accelerator) -> Iterator[Path | None]:
    """A folder that takes `path`'s place when the block ends well, for the main process; None for the others."""
    if not accelerator.is_main_process:
        yield None
        return
    with replacing(path) as folder:
        folder.mkdir()
        yield folder


def gather_shards(shard: Sequence, accelerator: Accelerator) -> list:
    """Puts back together what was dealt out as items[rank::processes]; the same list in every process."""
    if accelerator.num_processes == 1:
        return list(shard)
    parts = gather_object([list(shard)])
    longest = max(map(len, parts))
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def counter(name: str) -> Iterator[int]:
    """0, 1, 2, ...: each number to one of the processes alone, whichever asks first; `name` is the same in all."""
    numbers = distributed_c10d.PrefixStore(name, distributed_c10d._get_default_store())
    return (numbers.add("taken", 1) - 1 for _ in itertools.count())


def from_main(value: object, accelerator: Accelerator) -> object:
    """The main process's value, in every process."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]
