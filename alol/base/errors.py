"""What means "the user's input is wrong"; the stages print it as a single line and exit with 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ABOUT = "file: "  # begins the note that names the file an error is about


class InputError(ValueError):
    """Bad input: the message says what is wrong, in which file, row or key, and what to do."""


class SharedError(InputError):
    """Bad input that every process of a run meets at once, with the same message, which the first one says for all."""


class ParameterError(InputError):
    """A parameter is wrong: `key` is its dotted path, `reason` what is wrong with it and what to do.

    Code that gets a parameter does not know its file: `alol.config.places.located` adds it to the message.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} {reason}")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple:  # an exception is made anew of its message alone otherwise
        return type(self), (self.key, self.reason), self.__dict__


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line: the first of its text, or its kind where it says nothing.

    A first line that only announces what follows goes with the next one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] += f" {lines[1]}"
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Notes on an error that passes that it is about this file: a write that fails does not say where it was."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, InputError):  # which says it
            error.add_note(f"{ABOUT}{path}")
        raise


def known(kind: str, name: object, names: object) -> InputError:
    """An error for an unknown name that lists the known ones."""
    return InputError(f"unknown {kind} '{name}'; known: {', '.join(sorted(map(str, names)))}")
