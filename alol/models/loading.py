"""Models, tokenizers, configurations and adapters of others, from a hub or a folder: whole, and without their own code.

Every loading call of transformers and peft goes through here. Whatever they raise over files that are damaged, or not
what their names say, becomes one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import nn

from alol.base import faults
from alol.base.errors import InputError


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises InputError, which begins with `what`, for whatever a library raises over the files that it reads."""
    with faults.reading(lambda why: InputError(f"{what}: {why}")), quiet():
        yield


def loaded(load: Callable[..., Any], name: str, revision: str | None, what: str, **keywords: Any) -> Any:
    """`load(name)`, which is a `from_pretrained`, for a hub id or a folder; `what` begins the line of a mistake.

    A model that asks for code of its own (`auto_map`) is refused, without a question on the terminal.
    """
    with reading(f"{what}: '{name}' could not be loaded"):
        return load(name, revision=revision, trust_remote_code=False, **keywords)


def complete(load: Callable[..., Any], name: str, revision: str | None, what: str, **keywords: Any) -> Any:
    """A model that lacks none of its weights and has finite ones; raises InputError naming some that are wrong.

    A library fills in random weights for those that a file lacks, which no one notices until the results are poor.
    """
    model, info = loaded(load, name, revision, what, output_loading_info=True, **keywords)
    if missing := sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]):
        raise InputError(
            f"{what}: '{name}' is not such a model, or not all of it: it lacks the weights {', '.join(missing[:3])}"
        )
    if broken := next(not_finite(model), None):
        raise InputError(f"{what}: '{name}' has weights that are no finite numbers: {broken}")
    return model


def not_finite(model: nn.Module) -> Iterator[str]:
    """The names of parameters that hold NaN or an infinity; 4-bit ones are not looked at."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.numel():
            low, high = torch.aminmax(parameter.detach())
            if not torch.isfinite(high - low):
                yield name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's bars for reading and writing shards, which come for each small model."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
