"""What is still missing of an algorithm, a kind of reward or a format that somebody is adding (docs/extending.md).

Each line names the file and the entry. Files are read or looked for and never run, so that no line costs an import of a
deep-learning library; only modules of formats and losses, which are light, are imported.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

from alol.algorithms import offline, pairs, registry, rivals
from alol.base.errors import InputError
from alol.config import build, yaml_files
from alol.config.yaml_files import CLEAN, PARAMS, REWARDS
from alol.data import formats
from alol.rewards import options
from alol.rewards.options import KINDS

# where an algorithm has its entry: at the foot of the file of its loss
TABLES = {"OFFLINE": offline, "RIVALS": rivals, "PAIRS": pairs}
ALWAYS = {"logp", "mask"}  # arguments that every loss gets
NEEDED = {"kind", "low", "high"}  # fields of the options of every kind of reward


def missing(root: Path = Path()) -> list[str]:
    """One line for each file or entry that is missing."""
    return [*_losses(), *_algorithms(root), *_classes(), *_kinds(root), *_formats(root), *_metrics()]


def unregistered(name: str) -> str:
    """What an algorithm that params.yaml names lacks, in words: its entry in a table, or its loss too."""
    for table, module in TABLES.items():
        if callable(getattr(module, name, None)):
            return f"{_file(module.__name__)} has the loss {name}, but {table}, at its foot, has no entry for it"
    return (
        "a new one is a loss, and its entry in OFFLINE at the foot of alol/algorithms/offline.py (PAIRS and pairs.py "
        "for a loss over several responses)"
    )


def _losses() -> Iterator[str]:
    """Functions of log-probabilities and their mask that no table has."""
    for table, module in TABLES.items():
        known = {algorithm.loss for algorithm in getattr(module, table).values()}
        for name, function in vars(module).items():
            own = inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
            if own and function not in known and set(inspect.signature(function).parameters) >= ALWAYS:
                yield f"{_file(module.__name__)}: {table}, at its foot, has no entry for the loss {name}"


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


def _classes() -> Iterator[str]:
    """Classes of rewards in files that KINDS does not name, but for those that another class is made from."""
    texts = {path.stem: path.read_text("utf-8") for path in sorted(Path(options.__file__).parent.glob("*.py"))}
    named = {dotted.partition(":")[0] for _, dotted in KINDS.values()}
    for stem, text in texts.items():
        for cls in re.findall(r"^class (\w+Reward)\b", text, re.MULTILINE):
            base = any(re.search(rf"^class \w+\(.*\b{cls}\b", other, re.MULTILINE) for other in texts.values())
            if not base and f"alol.rewards.{stem}" not in named:
                yield f"alol/rewards/options.py: KINDS has no entry for alol.rewards.{stem}:{cls}"


def _kinds(root: Path) -> Iterator[str]:
    try:
        entries = yaml_files.read_defaults(root)["rewards"]["kinds"]
    except InputError:
        return
    for name, (declared, dotted) in KINDS.items():
        fields = {field.name for field in dataclasses.fields(declared)}
        if lacking := NEEDED - fields:
            yield f"{_file(declared.__module__)}: {declared.__name__} lacks the fields {', '.join(sorted(lacking))}"
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
        keys = build.fields(formats.get(name).options)
        if keys and name not in entries:
            yield f"{CLEAN}: formats lacks {name}; add {_entry(name, keys)}"


def _metrics() -> Iterator[str]:
    """Functions of responses and references that the table of metrics does not have."""
    path = Path(options.__file__).parents[1] / "evaluation" / "metrics.py"
    text = path.read_text("utf-8")
    table = re.search(r"^METRICS\b.*?^}", text, re.MULTILINE | re.DOTALL)
    for name in re.findall(r"^def ([a-z]\w*)\(responses: [^)]*\breferences: ", text, re.MULTILINE):
        if table is None or not re.search(rf": {name},", table[0]):
            yield f'alol/evaluation/metrics.py: METRICS lacks {name}; add "{name}": {name}'


def _entry(name: str, keys: typing.Iterable[str]) -> str:
    """An entry of a YAML file as one writes it."""
    listed = ", ".join(f"{key}: ..." for key in keys)
    return f"`{name}: {{{listed}}}`, each key with a comment" if listed else f"`{name}: {{}}`"


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"
