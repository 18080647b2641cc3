"""A reward that is a Python function, named by its dotted path.

`def reward(prompt: list[str], response: list[str], context: list[dict]) -> list[float]`
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alol.base.errors import InputError, ParameterError
from alol.config.sections import Launch
from alol.rewards.components import Origin
from alol.rewards.options import Python

ROOM = "custom"  # the folder that stages depend on for reward functions
SIGNATURE = "def reward(prompt, response, context) -> list of numbers"


def resolve(name: str | None, where: str) -> Callable[[list[str], list[str], list[dict]], list[float]]:
    """The function at a dotted path below custom/, whose edits score the responses again.

    Raises ParameterError when it lies elsewhere, cannot be imported or cannot be called with three arguments.
    """
    key = f"{where}.function"
    module, _, attribute = (name or "").rpartition(".")
    if not attribute or module.partition(".")[0] != ROOM:
        raise ParameterError(key, f"is {name!r}; name a function of {ROOM}/, such as {ROOM}.example.concise")
    with _running(lambda why: ParameterError(key, f"is {name}, but importing {module} failed: {why}")):
        function = getattr(importlib.import_module(module), attribute, None)
    if not callable(function):
        raise ParameterError(key, f"is {name}, but {module} has no function '{attribute}'")
    home = str(getattr(function, "__module__", None) or "")
    if inspect.isroutine(function) and home.partition(".")[0] != ROOM:
        raise ParameterError(key, f"is {name}, which is a function of {home or 'no module'}; write one in {ROOM}/")
    if any(
        kind(function)
        for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    ):
        raise ParameterError(key, f"is {name}, which does not return a list; write {SIGNATURE}")
    try:
        inspect.signature(function).bind([], [], [])
    except TypeError as error:
        reason = f"is {name}, which cannot be called with three arguments ({error})"
        raise ParameterError(key, f"{reason}; write {SIGNATURE}") from None
    except ValueError:  # a built-in without a signature: it will show when it is called
        pass
    return function


@contextlib.contextmanager
def _running(mistake: Callable[[str], InputError]) -> Iterator[None]:
    """Within it a user's code runs: whatever that raises is raised as `mistake(why)`, and its `os.chdir` is undone."""
    with contextlib.chdir("."):
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, and what else is no Exception
            raise mistake(_described(error)) from error


def _described(error: BaseException) -> str:
    """The error in one line, with the last place in the code that it came from."""
    machinery = ("<", __file__, importlib.__file__)  # the frames of the import itself say nothing
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(machinery)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    said = " ".join(str(error).split())[:500]
    return type(error).__name__ + (f": {said}" if said else "") + place


class PythonReward:
    """Calls the user's function with lists and contexts of its own, which it may change, once for all responses."""

    def __init__(self, where: str, options: Python, folder: Path, launch: Launch) -> None:
        self._where, self.function, self._call = where, options.function, resolve(options.function, where)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> list[float]:
        """What the function returns; its exception becomes an InputError that names it and the line."""
        with _running(lambda why: InputError(f"{self._where}: {self.function} failed: {why}")):
            return self._call(list(prompts), list(responses), [_copied(context) for context in contexts])


def _copied(value: Any) -> Any:
    """Of tables and lists within each other."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value
