"""What means "the user's input is wrong"; the stages print it as a single line and exit with 1."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message says what is wrong, in which file, row or key, and what to do."""


class ParameterError(InputError):
    """A parameter is wrong: `key` is its dotted path, `reason` what is wrong with it and what to do.

    Code that gets a parameter does not know its file: `alol.config.places.located` adds it to the message.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} {reason}")
        self.key, self.reason = key, reason


def first_line(error: Exception) -> str:
    """What a library's error says, in one line: the first of its text, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def known(kind: str, name: object, names: object) -> InputError:
    """An error for an unknown name that lists the known ones."""
    return InputError(f"unknown {kind} '{name}'; known: {', '.join(sorted(map(str, names)))}")
