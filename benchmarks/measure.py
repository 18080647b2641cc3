"""How two sides are compared: in turn, in one process; their memory in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from alol.base import memory


class ParityError(Exception):
    """The two sides did not compute the same, so their times say nothing."""


@dataclass(frozen=True)
class Ratio:
    """Times of the yardstick over ours: of the sums, and the lowest and highest of the rounds."""

    ratio: float
    low: float
    high: float
    seconds: float
    yardstick_seconds: float


def ratio(ours: Sequence[float], yardstick: Sequence[float], parts: int = 5) -> Ratio:
    """Of seconds measured in turn. With many rounds, `low` and `high` are over `parts` groups of neighbours."""
    size = max(1, len(ours) // parts)
    groups = [slice(i, i + size) for i in range(0, len(ours) - size + 1, size)]
    each = [sum(yardstick[part]) / sum(ours[part]) for part in groups]
    return Ratio(statistics.median(each), min(each), max(each), sum(ours), sum(yardstick))


def timed(work: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def kept(work: Callable[[Any], Any], argument: Any, spent: list[float]) -> Any:
    """What `work(argument)` returns; its seconds go into `spent`."""
    start = time.perf_counter()
    result = work(argument)
    spent.append(time.perf_counter() - start)
    return result


def speed(tokens: int, times: tuple[Sequence[float], Sequence[float]]) -> dict[str, int]:
    """Useful tokens a second of both sides: those of prompts and responses, padding not counted."""
    names = ("tokens_per_second", "yardstick_tokens_per_second")
    return {name: round(tokens / sum(side)) for name, side in zip(names, times, strict=True)}


def equal(what: str, found: float, expected: float, tolerance: float) -> float:
    """The relative difference; raises ParityError above `tolerance`."""
    difference = abs(found - expected) / max(abs(expected), 1e-12)
    return below(what, difference, tolerance)


def below(what: str, difference: float, tolerance: float) -> float:
    if not difference <= tolerance:
        raise ParityError(f"{what} differs by {difference:.3g}, more than {tolerance:g}; nothing was measured")
    return difference


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By name, of the parameters that have one."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gradient_difference(
    ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], scale: float = 1.0
) -> float:
    """Norm of the difference of all gradients over the norm of `theirs`, which are `scale` times too small."""
    if ours.keys() != theirs.keys():
        raise ParityError(f"gradients of different parameters: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    squares = [((ours[name] - scale * one) ** 2).sum().double() for name, one in theirs.items()]
    return float((sum(squares) / sum((scale * one).double().pow(2).sum() for one in theirs.values())) ** 0.5)


def reset_peak() -> None:
    """Lets `alol.base.memory.peak` start anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def over_idle(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> float:
    """Peak megabytes of the work that `prepare(*arguments)` returns over what the process held before, in a new one."""
    return in_process(_over_idle, prepare, arguments)


def _over_idle(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> float:
    work = prepare(*arguments)
    reset_peak()
    idle = memory.peak()
    work()
    return memory.peak() - idle


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a module's function returns when a new Python process calls it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def row(name: str, yardstick: str, found: Ratio, **more: Any) -> dict[str, Any]:
    """One line of the result."""
    return {"name": name, "yardstick": yardstick, **{key: round(x, 4) for key, x in asdict(found).items()}, **more}


def machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
