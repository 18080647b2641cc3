"""The state of a training loop, written from time to time: a killed run goes on from there with the same numbers.

Each time a new folder appears whole, tensors as safetensors and the rest as JSON, and then the one before goes away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from alol.base.errors import InputError, first_line
from alol.base.files import read_json, remove, replacing, write_json
from alol.base.work import Governor, Work
from alol.compute.dtensors import collected, split_as

logger = logging.getLogger(__name__)

TENSORS, VALUES, KEPT = "tensors.safetensors", "values.json", "kept"
COPIES = 4  # of the trained weights in one folder, about: AdamW's two moments and the best model beside them


class Progress:
    """Writes and restores the state of one loop: trained weights, optimizer, random numbers, the loop's own values.

    `kept` is the folder of the best model so far; it is stored as part of the state. Of several processes all take
    part and the main one writes. Without `work` nothing is read or written.
    """

    def __init__(self, work: Work | None, accelerator: Accelerator | None = None, kept: Path | None = None) -> None:
        self._work, self._accelerator, self._kept = work, accelerator, kept
        self._governor = work.governor() if work is not None else Governor(0.0)
        self._number, self._size = 0, 0

    @property
    def device(self) -> torch.device:
        """Where the loop computes: on the accelerator's device, or without one on the CPU."""
        return self._accelerator.device if self._accelerator is not None else torch.device("cpu")

    def restore(self, module: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Restores the state; returns the loop's own values and tensors, or None if no state was written before.

        To be called before anything is trained.
        """
        trained = dict(_trained(module))
        self._size = COPIES * sum(one.numel() * one.element_size() for one in trained.values())
        if (read := self._read()) is None:
            return None
        folder, values, tensors = read
        self._number = int(folder.name)
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(split_as(tensors[f"weight.{name}"], weight))
        _put_back(optimizer, values["optimizer"], tensors)
        _put_back_random(tensors, self._accelerator)
        if self._kept is not None and (folder / KEPT).exists():
            shutil.copytree(folder / KEPT, self._kept, dirs_exist_ok=True)
        return _own(values, tensors)

    def stored(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Reads the loop's own values and tensors, without restoring anything."""
        read = self._read()
        return _own(*read[1:]) if read is not None else None

    def due(self, *, last: bool = False) -> bool:
        """Whether it is time to write, as the main process says; `last`: after the end of the loop."""
        if self._work is None:
            return False
        due = self._governor.due(self._size, last=last)
        if self._accelerator is None or self._accelerator.num_processes == 1:
            return due
        flag = torch.tensor([float(due and self._accelerator.is_main_process)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, reduction="sum").item())

    def write(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        values: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Stores the state, with the loop's own plain `values` and `tensors`."""
        random = _random(self._accelerator)
        if self._work is None:
            return
        with self._governor.writing(self._size):
            state, plain = _state(optimizer)
            weights = {f"weight.{name}": weight for name, weight in _trained(module)}
            own = {f"own.{name}": one for name, one in (tensors or {}).items()}
            every = collected({**weights, **state, **random, **own})
            if every:
                self._store(self._work.folder, every, {"optimizer": plain, "own": values})

    def _store(self, place: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        before, self._number = self._latest(), self._number + 1
        with replacing(place / f"{self._number:09d}") as folder:
            folder.mkdir()
            save_file({name: one.contiguous() for name, one in tensors.items()}, folder / TENSORS)
            if self._kept is not None and self._kept.exists():
                _copy(self._kept, folder / KEPT, before / KEPT if before else None)
            write_json(folder / VALUES, values)
            _flush(folder / TENSORS, folder / VALUES)
        if before is not None:
            remove(before)

    def _read(self) -> tuple[Path, dict[str, Any], dict[str, Tensor]] | None:
        """The folder, values and tensors; None where there are none, or where they are damaged."""
        if (folder := self._latest()) is None:
            return None
        try:
            return folder, read_json(folder / VALUES), load_file(folder / TENSORS)
        except (InputError, SafetensorError) as error:
            logger.warning("%s is damaged (%s); the stage starts anew", folder, first_line(error))
            return None

    def _latest(self) -> Path | None:
        folder = self._work.folder if self._work is not None else None
        if folder is None or not folder.is_dir():
            return None
        return max((path for path in folder.iterdir() if path.name.isdecimal()), default=None)


def _flush(*paths: Path) -> None:
    """Waits until the files are on the disk: after a loss of power a folder must not be there without them."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _own(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    own = {name.removeprefix("own."): one for name, one in tensors.items() if name.startswith("own.")}
    return values["own"], own


def _trained(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in module.named_parameters() if weight.requires_grad)


def _state(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's tensors, and its plain values: the state of each weight by its number, the learning rates."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        plain[str(number)] = {}
        for key, value in _flat(entries):
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = value
            else:
                plain[str(number)][key] = value
    return tensors, {"state": plain, "lr": [group["lr"] for group in optimizer.param_groups]}


def _flat(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Without the inner tables in which bitsandbytes hides its tensors from FSDP; it loads them without these too."""
    for key, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, value


def _put_back(optimizer: Optimizer, plain: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in plain["state"].items()}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state[int(number)][key] = split_as(value, weights[int(number)])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for group, rate in zip(optimizer.param_groups, plain["lr"], strict=True):
        group["lr"] = rate


def _random(accelerator: Accelerator | None) -> dict[str, Tensor]:
    """The states of the random numbers that dropout draws, of every process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    every = gather_object([states]) if accelerator is not None and accelerator.num_processes > 1 else [states]
    return {f"random.{rank}.{name}": one for rank, own in enumerate(every) for name, one in own.items()}


def _put_back_random(tensors: Mapping[str, Tensor], accelerator: Accelerator | None) -> None:
    rank = accelerator.process_index if accelerator is not None else 0
    if (state := tensors.get(f"random.{rank}.cpu")) is not None:  # one of more processes than before has none
        torch.set_rng_state(state)
    if torch.cuda.is_available() and (state := tensors.get(f"random.{rank}.cuda")) is not None:
        torch.cuda.set_rng_state(state)


def _copy(source: Path, target: Path, before: Path | None) -> None:
    """A copy of a folder; files that have not changed since `before` are shared with it, which costs no time."""

    def copy(file: str, copied: str) -> None:
        old = before / Path(file).relative_to(source) if before is not None else None
        if old is not None and old.exists() and _same(Path(file), old):
            with contextlib.suppress(OSError):  # of a file system without hard links
                os.link(old, copied)
                return
        shutil.copy2(file, copied)

    shutil.copytree(source, target, copy_function=copy)


def _same(one: Path, other: Path) -> bool:
    """Whether two files have one size and date, which a copy takes over."""
    first, second = one.stat(), other.stat()
    return (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)
