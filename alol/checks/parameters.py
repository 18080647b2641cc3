"""What can be known to be wrong before anything runs: names, keys, numbers that do not fit together, missing sources.

Nothing is downloaded and no model is loaded, so the answer comes within seconds.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from alol.algorithms.registry import NAMES, hyperparameters
from alol.base.errors import InputError
from alol.base.files import is_local
from alol.checks import reward_parameters
from alol.config import build, params, paths
from alol.config.params import Params
from alol.data import download, formats
from alol.evaluation import endpoint


def problems(path: Path = params.PARAMS) -> list[str]:
    """One line for each mistake in the file, for the chosen task and algorithm and the entries of the others."""
    try:
        raw = params.read(path)
        chosen = params.load(path=path)
    except InputError as error:
        return [str(error)]
    found = [line for name in raw["algorithms"] for line in _algorithm(name, raw["algorithms"][name])]
    found += [
        line for item in raw["defaults"]["clean"]["formats"].items() for line in _raised(partial(_defaults, *item))
    ]
    found += _raised(lambda: endpoint.settings(raw["judge"]))
    for name in raw["tasks"]:
        found += _raised(lambda name=name: params.load(name, path=path))
    checks: list[Callable[[Params], Iterator[str]]] = [_sources, _format, _policy, _runs, _value]
    for check in checks:
        found += check(chosen)
    found += reward_parameters.check(chosen)
    test = reward_parameters.check(dataclasses.replace(chosen, rewards=chosen.test_rewards))
    return found + [line.replace("rewards.", "test_rewards.", 1) for line in test if line not in found]


def _raised(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except InputError as error:
        return [str(error)]
    return []


def _algorithm(name: str, given: object) -> Iterator[str]:
    """The hyperparameters of an algorithm are the keyword arguments of its loss that are no tensors."""
    if name not in NAMES:
        yield f"params.yaml: unknown algorithm '{name}' in algorithms; known: {', '.join(sorted(NAMES))}"
        return
    expected = hyperparameters(name)
    given = set(given) if isinstance(given, dict) else set()
    for key in sorted(given - expected):
        known = ", ".join(sorted(expected)) or "none"
        yield f"params.yaml: unknown key '{key}' in algorithms.{name}; known: {known}"
    for key in sorted(expected - given):
        yield f"params.yaml: missing key '{key}' in algorithms.{name}"


def _defaults(name: str, table: object) -> None:
    """An entry of defaults.clean.formats has a format's name and some of its options."""
    options = {field.name for field in dataclasses.fields(formats.get(name).options)}
    build.check_keys(table, options, set(), f"defaults.clean.formats.{name}")


def _sources(chosen: Params) -> Iterator[str]:
    for name, source in chosen.source.items():
        yield from _raised(lambda: download.check(name, source, f"tasks.{chosen.task}.source.{name}"))  # noqa: B023


def _format(chosen: Params) -> Iterator[str]:
    where = f"tasks.{chosen.task}.clean.options"
    yield from _raised(lambda: build.build(formats.get(chosen.clean.format).options, chosen.clean.options, where))


def _policy(chosen: Params) -> Iterator[str]:
    policy, where = chosen.policy, f"params.yaml: tasks.{chosen.task}.policy"
    if policy.model == "scratch":
        longest = policy.max_prompt + max(policy.max_response, chosen.generate.max_new_tokens)
        if policy.scratch.architecture != "t5" and longest > policy.scratch.context:
            yield (
                f"{where}: max_prompt and the response take {longest} tokens, more than the model's context of "
                f"{policy.scratch.context}; raise scratch.context or lower max_prompt"
            )
        if policy.scratch.width % policy.scratch.heads:
            yield f"{where}.scratch: width = {policy.scratch.width} is no multiple of heads = {policy.scratch.heads}"
        if not chosen.reference.train:
            yield f"{where}.model is scratch, so it has to be trained; set reference.train: true"
        if policy.tuning == "qlora" and policy.scratch.width % 64:
            yield f"{where}.scratch: width = {policy.scratch.width} is no multiple of 64, the block of 4-bit weights"
        if policy.adapter:
            yield f"{where}.adapter needs a published model, but model is scratch"
        return
    for key, revision in (
        ("model", policy.revision),
        ("adapter", policy.adapter_revision),
        ("tokenizer", policy.tokenizer_revision),
    ):
        name = getattr(policy, key)
        if name and Path(name).is_relative_to(paths.raw(chosen.task)):
            continue  # stage download brings it
        if name and is_local(name) and not Path(os.path.expandvars(name)).is_absolute():
            # a queued experiment runs in another folder, where a relative path would mean something else
            yield f"{where}.{key}: '{name}' must be absolute or start with an environment variable"
        if name and name != "scratch" and not is_local(name) and revision is None:
            yield f"{where}.{key}: '{name}' is no folder, and a hub id needs a revision beside it"
    if policy.adapter and policy.tuning == "full":
        yield f"{where}.tuning is full, but an adapter is trained with lora or qlora"


def _runs(chosen: Params) -> Iterator[str]:
    for name in ("reference", "train"):
        section = getattr(chosen, name)
        if (section.updates is None) == (section.epochs is None):
            yield f"params.yaml: tasks.{chosen.task}.{name}: set exactly one of updates and epochs, the other to null"
        if section.batch_size < chosen.launch.processes:
            yield f"params.yaml: launch.processes = {chosen.launch.processes} is more than {name}.batch_size"
    known = ["reward", *(f"reward_{name}" for name in chosen.rewards)]
    if chosen.train.success not in known:
        yield f"params.yaml: train.success is '{chosen.train.success}'; known: {', '.join(known)}"


def _value(chosen: Params) -> Iterator[str]:
    width, heads = chosen.policy.scratch.width, chosen.value.heads
    if chosen.policy.model == "scratch" and width % heads:
        yield f"params.yaml: value.heads = {heads} does not divide the model's width {width}"
    if chosen.value.folds < 3:
        yield f"params.yaml: value.folds = {chosen.value.folds}, but must be at least 3"
