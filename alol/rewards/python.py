"""A reward that is a Python function, named by its dotted path.

`def reward(prompt: list[str], response: list[str], context: list[dict]) -> list[float]`
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from alol.base.errors import InputError
from alol.config.sections import Launch
from alol.rewards.components import Origin
from alol.rewards.options import Python

SIGNATURE = "def reward(prompt, response, context) -> list of numbers"


def resolve(name: str | None, where: str) -> Callable[[list[str], list[str], list[dict]], list[float]]:
    """The function at a dotted path; raises InputError when it can't be imported or called with three arguments."""
    module, _, attribute = (name or "").rpartition(".")
    if not module or not attribute:
        raise InputError(f"{where}.function is {name!r}; give a function's dotted path, such as custom.example.concise")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise InputError(f"{where}.function: importing {module} failed: {_described(error)}") from error
    if not callable(function):
        raise InputError(f"{where}.function: {module} has no function '{attribute}'")
    try:
        inspect.signature(function).bind([], [], [])
    except TypeError as error:
        reason = f"{name} cannot be called with three arguments ({error})"
        raise InputError(f"{where}.function: {reason}; write {SIGNATURE}") from None
    except ValueError:  # a built-in without a signature: it will show when it is called
        pass
    return function


def _described(error: Exception) -> str:
    """The error in one line, with the last place in the code that it came from."""
    machinery = ("<", __file__, importlib.__file__)  # the frames of the import itself say nothing
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(machinery)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


class PythonReward:
    """Calls the user's function with lists of its own, once for all responses."""

    def __init__(self, where: str, options: Python, folder: Path, launch: Launch) -> None:
        self._where, self._name, self._function = where, options.function, resolve(options.function, where)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> list[float]:
        """What the function returns; its exception becomes an InputError that names it and the line."""
        try:
            return self._function(list(prompts), list(responses), list(contexts))
        except Exception as error:  # whatever the user's function raises
            raise InputError(f"{self._where}: {self._name} failed: {_described(error)}") from error
