"""How a stage runs as several processes, and how it ends: by a signal, or because the process above it is gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from alol.base.errors import InputError, ParameterError
from alol.config.sections import Launch
from stages import _launcher

PARENT = "ALOL_PARENT"  # environment variable of a process that a stage started: the number of the stage's own
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 10.0  # seconds that a process has to end by itself
LONGER = 60.0  # that a launcher has, which ends processes itself: torchrun gives each 30
PAUSE = 5.0  # seconds in which a process that knows more may speak first, and end the others


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """A signal that asks the process to end unwinds it, so that partial outputs go away and its processes end too.

    Later ones are ignored meanwhile: terminals and schedulers send them to a whole group, a parent once more. Code that
    is unwound sees a KeyboardInterrupt, which nobody takes for a mistake of the user's own functions.
    """
    got: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        got.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # one that is ignored already stays so: nohup
    before = {one: signal.getsignal(one) for one in ENDING if signal.getsignal(one) != signal.SIG_IGN}
    for one in before:
        signal.signal(one, end)
    try:
        yield
    except KeyboardInterrupt:
        if got and got[0] != signal.SIGINT:
            raise SystemExit(128 + got[0]) from None
        raise
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process among those that work together, 0 where it is alone.

    Raises InputError where the environment promises several and does not say which one this is.
    """
    if "WORLD_SIZE" not in environment:
        return 0
    asked = ["WORLD_SIZE", "RANK"]
    numbers = [int(text) if (text := environment.get(name, "")).isdecimal() else -1 for name in asked]
    world, own = numbers
    if not 0 <= own < world:
        found = ", ".join(f"{name} is {environment.get(name)!r}" if name in environment else f"{name} is not set"
                          for name in asked)  # fmt: skip
        raise InputError(
            f"the environment is that of one of several processes, but {found}; unset WORLD_SIZE, or start the "
            "stage with torchrun"
        )
    if world > 1 and (missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]):
        raise InputError(
            f"WORLD_SIZE is {world}, but {missing[0]} is not set; unset WORLD_SIZE, or start the stage with torchrun"
        )
    return own


def alone(name: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises InputError where this process is one of several, which would all write what `name` writes."""
    rank(environment)  # which refuses what is no number
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"{name} runs in one process, whatever launch.processes says; start it without torchrun or accelerate "
            "launch, and unset WORLD_SIZE"
        )


def relaunch(
    name: str, options: Sequence[str], launch: Launch, more: Mapping[str, str], inherited: Sequence[int]
) -> int | None:
    """Runs the stage again in several processes: those that $ALOL_LAUNCHER starts, else `launch.processes` of them.

    They get its `options`, the environment `more` and, on this machine, the open files `inherited`. Returns their exit
    code; None when this process should go on itself: one is enough, or it is already one of several.
    """
    if "WORLD_SIZE" in os.environ:
        return None
    command = [sys.executable, "-m", f"stages.{name}", *options]
    if (launcher := os.environ.get(_launcher.LAUNCHER)) is not None:
        return _launched(launcher, command, more, inherited)
    return _local(command, launch, more, inherited) if launch.processes > 1 else None


def _local(command: Sequence[str], launch: Launch, more: Mapping[str, str], inherited: Sequence[int]) -> int:
    """In processes of this machine, which accelerate finds by the environment.

    Not by torchrun, which answers a user's mistake, one line of which the first process prints, with a traceback.
    """
    count = str(launch.processes)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port("127.0.0.1")}
    shared |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    shared["ACCELERATE_USE_CPU"] = str(not _accelerators(launch)).lower()
    shared["OMP_NUM_THREADS"] = os.environ.get(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.processes))
    )
    environment = {**os.environ, **shared, PARENT: str(os.getpid()), **more}
    started: list[subprocess.Popen] = []
    try:
        for i in range(launch.processes):
            own = {**environment, "RANK": str(i), "LOCAL_RANK": str(i)}
            started.append(subprocess.Popen(command, env=own, pass_fds=inherited))
        return _wait(started)
    finally:
        _end(started)


def _launched(launcher: str, command: Sequence[str], more: Mapping[str, str], inherited: Sequence[int]) -> int:
    """By the launcher, on whatever machines it reaches; this process waits and keeps the unfinished work.

    Raises InputError where the launcher cannot be run, or was killed.
    """
    head = {_launcher.HEAD: f"{socket.gethostname()}:{_free_port()}"}
    words = _launcher.command(launcher, command, {**_launcher.passed(os.environ), **more, **head})
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        pass_fds=inherited,
        start_new_session=True,  # what it signals together with itself is neither this process nor DVC
        preexec_fn=_signal_with_parent(),
    )
    try:
        code = process.wait()
    finally:
        _end([process], LONGER)
    if code < 0:
        raise InputError(
            f"{words[0]} ({_launcher.LAUNCHER}) was ended by {_name(-code)}; the same command goes on from there"
        )
    return code


def _free_port(address: str = "") -> str:
    with socket.socket() as free:
        free.bind((address, 0))
        return str(free.getsockname()[1])


def _signal_with_parent() -> Callable[[], object] | None:
    """Makes a program that is not ours get SIGTERM once this process is gone, where the system is Linux."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _accelerators(launch: Launch) -> bool:
    """Whether the processes run on accelerators, of which each needs one of its own."""
    if launch.device == "cpu":
        return False
    import torch

    if not (count := torch.cuda.device_count()):
        return False
    if launch.processes > count:
        raise ParameterError(
            "launch.processes",
            f"is {launch.processes}, but each needs an accelerator and this machine has {count}; lower it",
        )
    return True


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    """The first exit code that is not 0, as soon as there is one: the other processes would wait for ever.

    Raises InputError where a process was killed and could not say so itself.
    """
    while None in (codes := [process.poll() for process in processes]) and not any(codes):
        time.sleep(0.1)
    number, code = next(((i, code) for i, code in enumerate(codes, start=1) if code), (0, 0))
    if code >= 0:
        return code
    sys.stderr.write("\n")  # its progress bar ended in the middle of a line
    advice = "; if memory ran out, lower launch.micro_batch or launch.tokens" if code == -signal.SIGKILL else ""
    raise InputError(
        f"process {number} of {len(codes)} was ended by {_name(-code)}, so that the others were ended too{advice}; the "
        "same command goes on from there"
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end(processes: list[subprocess.Popen], grace: float = GRACE) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def join() -> None:
    """Takes the place among several that a plain launcher of $ALOL_LAUNCHER says this process has."""
    if _launcher.HEAD not in os.environ:
        return
    os.environ.update(_launcher.numbered(os.environ))
    for name in _launcher.foreign(os.environ):
        del os.environ[name]
    os.environ[PARENT] = str(os.getppid())  # the launcher's own process on this machine


def end_with_parent() -> None:
    """Ends this process once the stage that started it is gone: alone it would wait for ever and hold its device."""
    parent = os.environ.pop(PARENT, "")  # no process that this one starts is meant
    if parent.isdecimal():
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)  # in a call that waits for other processes no signal is heard
    os.kill(os.getpid(), signal.SIGKILL)
