"""What is still missing of an algorithm, a kind of reward or a format that somebody is adding (docs/extending.md).

Each line names the file and the entry. Files are read or looked for and never run, so that no line costs an import of a
deep-learning library; only modules of formats and losses, which are light, are imported.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import typing
from collections.abc import Iterator
from pathlib import Path

from alol.algorithms import offline, pairs, registry
from alol.base.errors import InputError
from alol.config import build, yaml_files
from alol.config.yaml_files import CLEAN, PARAMS, REWARDS
from alol.data import formats
from alol.rewards.options import KINDS

TABLES = {"OFFLINE": offline, "PAIRS": pairs}  # where an algorithm has its entry: at the foot of the file of its loss
ALWAYS = {"logp", "mask"}  # arguments that every loss gets
NEEDED = {"kind", "low", "high"}  # fields of the options of every kind of reward


def missing(root: Path = Path()) -> list[str]:
    """One line for each file or entry that is missing."""
    return [*_algorithms(root), *_kinds(root), *_formats(root)]


def unregistered(name: str) -> str:
    """What an algorithm that params.yaml names lacks, in words: its entry in a table, or its loss too."""
    for table, module in TABLES.items():
        if callable(getattr(module, name, None)):
            return f"{_file(module.__name__)} has the loss {name}, but {table}, at its foot, has no entry for it"
    return (
        "a new one is a loss, and its entry in OFFLINE at the foot of alol/algorithms/offline.py (PAIRS and pairs.py "
        "for a loss over several responses)"
    )


def _algorithms(root: Path) -> Iterator[str]:
    try:
        entries = yaml_files.read_params(root)["algorithms"]
    except InputError:  # which the other checks report
        return
    for name in registry.NAMES:
        if name not in entries:
            yield f"{PARAMS}: algorithms lacks {name}; add {_entry(name, registry.hyperparameters(name))}"
    for table, module in TABLES.items():
        for name, algorithm in getattr(module, table).items():
            hints = typing.get_type_hints(algorithm.loss, localns={"Tensor": object})
            taken = {key for key in hints if key in registry.TENSORS} - ALWAYS
            if taken != set(algorithm.columns):
                names, listed = (", ".join(sorted(given)) or "none" for given in (taken, algorithm.columns))
                yield (
                    f"{_file(module.__name__)}: the loss of {name} takes the columns {names}, but its entry in {table} "
                    f"lists {listed}"
                )


def _kinds(root: Path) -> Iterator[str]:
    try:
        entries = yaml_files.read_defaults(root)["rewards"]["kinds"]
    except InputError:
        return
    for name, (options, dotted) in KINDS.items():
        fields = {field.name for field in dataclasses.fields(options)}
        if lacking := NEEDED - fields:
            yield f"{_file(options.__module__)}: {options.__name__} lacks the fields {', '.join(sorted(lacking))}"
        if name not in entries:
            yield f"{REWARDS}: kinds lacks {name}; add {_entry(name, sorted(fields - {'kind'}))}"
        module, _, cls = dotted.partition(":")
        file = importlib.util.find_spec(module)
        if file is None or not re.search(rf"^class {cls}\b", Path(file.origin).read_text("utf-8"), re.MULTILINE):
            yield f"alol/rewards/options.py: KINDS names {dotted}, but {_file(module)} has no class {cls}"


def _formats(root: Path) -> Iterator[str]:
    for path in sorted(Path(formats.__file__).parent.glob("*.py")):
        if path.stem not in formats.names() and re.search(r"^FORMAT = ", path.read_text("utf-8"), re.MULTILINE):
            yield (
                f"alol/data/formats/__init__.py: _formats lacks {path.stem}, though {path.name} is there; "
                f'add "{path.stem}": {path.stem}.FORMAT'
            )
    try:
        entries = yaml_files.read_defaults(root)["clean"]["formats"]
    except (InputError, TypeError):
        return
    for name in formats.names():
        options = build.fields(formats.get(name).options)
        if options and name not in entries:
            yield f"{CLEAN}: formats lacks {name}; add {_entry(name, options)}"


def _entry(name: str, keys: typing.Iterable[str]) -> str:
    """An entry of a YAML file as one writes it."""
    listed = ", ".join(f"{key}: ..." for key in keys)
    return f"`{name}: {{{listed}}}`, each key with a comment" if listed else f"`{name}: {{}}`"


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"
