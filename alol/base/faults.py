"""What a run meets that is no bug of ours: a full disk, a lack of memory or of permission. One line for each.

The only place that knows such errors; `stages/_cli.py` asks it once, for every command. Libraries raise them as errors
of many kinds, some without a number and few with the file, so their text and the notes of `errors.about` are read too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
from collections.abc import Callable, Iterator

from alol.base import memory
from alol.base.errors import ABOUT, InputError, first_line
from alol.base.files import TARGET

AGAIN = "then run the same command again"
REPORT = "This is a mistake of the program: please report it to the project's issue tracker, with all of the above"
SYSTEM = {
    errno.ENOSPC: f"the disk is full; free some space, {AGAIN}",
    errno.EDQUOT: f"the disk quota is used up; free some space, {AGAIN}",
    errno.EFBIG: f"it would grow larger than files may be here; raise the limit (ulimit -f), {AGAIN}",
    errno.EROFS: f"the file system is read-only; make it writable or work in another folder, {AGAIN}",
    errno.EACCES: f"permission denied; give this user the right to read and write it, {AGAIN}",
    errno.EPERM: f"the system does not permit it; give this user the right to read and write it, {AGAIN}",
    errno.ENOENT: "it does not exist; run `dvc repro` if a stage makes it, else put it there",
    errno.ENOTDIR: "a part of its path is a file, not a folder; move that file away",
    errno.EISDIR: "it is a folder, but must be a file; move it away",
    errno.EEXIST: "something of that name is in the way; move it away",
    errno.ENOTEMPTY: "a folder of that name is in the way; move it away",
    errno.ELOOP: "symbolic links lead round in a circle; correct them",
    errno.ENAMETOOLONG: "its name is too long for this file system; use shorter names",
    errno.EMFILE: f"too many files are open; raise the limit (ulimit -n), {AGAIN}",
    errno.ENFILE: f"too many files are open on this machine; close some, {AGAIN}",
    errno.EIO: f"the disk failed to read or write; have it checked, {AGAIN}",
    errno.ESTALE: f"the network's file system lost it; mount it again, {AGAIN}",
    errno.EAGAIN: f"the machine has no more processes or threads to give; raise the limit (ulimit -u), {AGAIN}",
}
OURS = (errno.EPIPE, errno.EBADF)  # the first is click's, which ends quietly when no one reads on; the other is a bug
NUMBER = re.compile(r"(?:os error |errno:? )(\d+)", re.IGNORECASE)  # in the text of libraries written in Rust and C++
WRITER = "inline_container.cc"  # what torch's own writer says of every failure, the disk's among them
ALONE = (TypeError, NameError, AttributeError, LookupError, AssertionError, SystemExit, KeyboardInterrupt)
MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|Cannot allocate memory|failed to map segment|bad_alloc"
    r"|ALLOC_FAILED|can't start new thread|Resource temporarily unavailable"
    r"|without setting an exception|without exception set",  # the interpreter's own, where it had no memory to say so
    re.IGNORECASE,
)
LOST = re.compile(r"gloo|NCCL|TCPStore", re.IGNORECASE)  # what torch calls the connections of processes
LATE = re.compile(r"tim(ed|e)[ -]?out", re.IGNORECASE)
# What a command's memory grows with, as parameters that may be lowered; tests compare the names with the sections.
SCORING = ["rewards.<component>.batch_size", "rewards.<component>.batch_tokens"]
LESS = {
    "clean": ["clean.limit"],
    "reward_model": ["rewards.<component>.train.batch_size", *SCORING],
    "annotate": SCORING,
    "baseline": SCORING,
    "reference": ["launch.micro_batch", "launch.tokens"],
    "rollout": ["launch.generate_batch"],
    "value": ["launch.micro_batch", "launch.tokens", "value.batch_size"],
    "advantage": ["launch.micro_batch", "launch.tokens"],
    "train": ["launch.micro_batch", "launch.tokens", "launch.generate_batch"],
    "evaluate": ["launch.generate_batch", *SCORING],
    "evaluate_checkpoint": ["launch.generate_batch", *SCORING],
    "judge": ["judge.rows", "judge.requests"],
}
RECOMPUTE = ("reference", "train")  # commands that read launch.recompute


def line(error: BaseException, command: str | None) -> str | None:
    """What to tell the user of an error that ended `command`, in one line; None for a bug of ours."""
    found = culprit(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("alol."):
        file = f"{error.name.replace('.', '/')}.py"
        return f"{file} is not there, but other code imports it; write it, or take the import out"
    if found is None or isinstance(found, InputError | KeyboardInterrupt):
        return found and (str(found) or "interrupted")
    if out_of_memory(found):
        return _memory(command)
    if lost(found):
        return _lost(found)
    number = _number(found)
    file, reason = _file(error, found), SYSTEM.get(number)
    if reason is None:
        text = os.strerror(number) if number else first_line(found)
        reason = f"it could not be read or written ({text}); see to its disk and its limits, {AGAIN}"
    return f"{file}: {reason}" if file else reason


@contextlib.contextmanager
def reading(mistake: Callable[[str], InputError]) -> Iterator[None]:
    """Raises `mistake(why)` for whatever a library raises over damaged files; a lack of memory or of rights passes."""
    try:
        yield
    except Exception as error:  # of any kind: libraries raise what comes
        system = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
        if system or isinstance(error, InputError) or out_of_memory(error):
            raise
        raise mistake(first_line(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a library written in Rust raises over a damaged file
            raise
        raise mistake(first_line(error)) from None


def culprit(error: BaseException) -> BaseException | None:
    """The error that explains `error`: itself, or what led to it; None where there is only a bug of ours.

    Bad input comes first, since cleaning up behind it may fail as well.
    """
    found = [one for one in _chain(error) if isinstance(one, InputError | KeyboardInterrupt) or _is_fault(one)]
    return next((one for one in found if isinstance(one, InputError)), found[0] if found else None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, as a traceback shows them.

    What was being handled when an error of programming came (a wrong name or type), or a signal, does not explain it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        context = None if isinstance(error, ALONE) or error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the accelerator's too; libraries say so in errors of many kinds."""
    if isinstance(error, MemoryError) or any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return not isinstance(error, InputError) and bool(MEMORY.search(str(error)))


def lost(error: BaseException) -> bool:
    """Whether the error says that another process of the same run cannot be reached any more."""
    named = any(cls.__name__ == "DistError" for cls in type(error).__mro__)
    return named or (isinstance(error, RuntimeError) and bool(LOST.search(str(error))))


def _lost(error: BaseException) -> str:
    if LATE.search(str(error)):
        return (
            "another process of this run did not answer in time; see whether it still runs, or raise "
            f"launch.wait_minutes, {AGAIN}"
        )
    why = first_line(error)
    return f"another process of this run has ended, or its machine cannot be reached ({why}); see what it said, {AGAIN}"


def _is_fault(error: BaseException) -> bool:
    if lost(error):
        return True
    number = _number(error)
    if isinstance(error, OSError):
        return number not in OURS
    return out_of_memory(error) or number in SYSTEM or (isinstance(error, RuntimeError) and WRITER in str(error))


def _number(error: BaseException) -> int | None:
    """The system's number of an error, which libraries only write into its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = NUMBER.search(str(error))
    return int(found.group(1)) if found else None


def _file(*errors: BaseException) -> str | None:
    """The file that the errors are about, as the user knows it."""
    names = [name for error in errors for name in (getattr(error, "filename", None), getattr(error, "filename2", None))]
    notes = [note for error in errors for note in getattr(error, "__notes__", ())]
    names += [note.removeprefix(ABOUT) for note in notes if note.startswith(ABOUT)]
    found = next((os.fsdecode(name) for name in names if isinstance(name, str | bytes)), None)
    return found and TARGET.sub(r"\1", found)


def _memory(command: str | None) -> str:
    held = f"the process held {memory.peak():,.0f} MB at most"
    if accelerator := memory.accelerator_peak():
        held += f", and {accelerator:,.0f} MB of the accelerator"
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        held += f" (ulimit -v allows it {limit / 2**20:,.0f} MB)"
    lower = f"lower {', '.join(LESS[command])}, " if command in LESS else ""
    recompute = "set launch.recompute to true, " if command in RECOMPUTE else ""
    advice = f"{lower}{recompute}or use a machine with more".removeprefix("or ") if lower else "use a machine with more"
    return f"{command or 'the command'} ran out of memory: {held}; {advice}"
