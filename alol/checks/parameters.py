"""What can be known to be wrong before anything runs: names, keys, ranges, numbers that do not fit together, sources.

Nothing is downloaded and no model is loaded, so the answer comes within seconds.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from alol.algorithms import registry, selection
from alol.base.errors import InputError, ParameterError
from alol.checks import additions, reward_parameters
from alol.compute import cluster
from alol.config import build, components, model_names, params, paths, places, ranges, runs, yaml_files
from alol.config.params import Params
from alol.config.sections import Scoring, Source
from alol.config.yaml_files import CLEAN, PARAMS, REWARDS, TASKS
from alol.data import clean, download, formats
from alol.evaluation import endpoint
from alol.models import templates
from alol.rewards import options
from alol.rewards.options import Training

TRACKED = ("custom", str(TASKS), templates.FOLDER)  # folders whose files an experiment's copy of the checkout needs


def problems(task: str | None = None, root: Path = Path()) -> list[str]:
    """One line for each mistake: in params.yaml, the defaults, and a task's file (None: the one that is set)."""
    found: list[str] = []
    try:
        found += _of_params(yaml_files.read_params(root))
        chosen = params.load(task, root=root)
    except InputError as error:
        return list(dict.fromkeys([*found, str(error)]))
    found += [*_of_shared(root), *_missing(chosen, root), *_of_task(chosen, root)]
    return list(dict.fromkeys(found))


def every_task(root: Path = Path()) -> tuple[list[str], list[str]]:
    """(mistakes in every task's file, sources of theirs that are not on this machine), a line each."""
    found: dict[str, None] = {}
    missing: list[str] = []
    for name in yaml_files.task_names(root):
        if ranges.check_name(name, "task name"):
            continue  # see misnamed
        try:
            chosen = params.load(name, root=root)
        except InputError as error:
            found[str(error)] = None
            continue
        found |= dict.fromkeys(_of_task(chosen, root))
        missing += _missing(chosen, root)
    return list(found), missing


def untracked(root: Path = Path()) -> list[str]:
    """Files of custom/, tasks/ and templates/ that Git does not track: DVC's copies of the checkout lack them."""
    command = ["git", "ls-files", "--others", "--", *TRACKED]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no Git here, so no experiments either
        return []
    return [name for name in done.stdout.splitlines() if name.endswith((".py", ".yaml", templates.SUFFIX))]


def _of_params(raw: dict[str, Any]) -> list[str]:
    """The entries of params.yaml that loading one task does not look at."""
    lines = [line for name, given in raw["algorithms"].items() for line in _raised(lambda: _algorithm(name, given))]  # noqa: B023
    return [f"{PARAMS}: {line}" for line in lines] + _raised(lambda: endpoint.settings(raw["judge"]))


def _of_shared(root: Path) -> list[str]:
    """The entries of the shared files, whether the task takes them or not."""
    shared = yaml_files.read_defaults(root)
    formats_, rewards = shared["clean"]["formats"], shared["rewards"]
    found = [f"{CLEAN}: {line}" for item in formats_.items() for line in _raised(lambda: _format_defaults(*item))]  # noqa: B023
    checks = [lambda kind=kind: _kind(rewards, kind) for kind in rewards["kinds"]]
    checks.append(lambda: build.build(Training, rewards["training"], "training"))
    checks.append(lambda: build.build(Scoring, rewards["scoring"], "scoring"))
    return found + [f"{REWARDS}: {line}" for check in checks for line in _raised(check)]


def _kind(rewards: dict[str, Any], kind: str) -> None:
    """A component that is of the kind and nothing else."""
    try:
        (table,) = components.rewards(rewards, {"x": {"kind": kind}}, "rewards").values()
        options.parse(table, f"kinds.{kind}")
    except ParameterError as error:
        raise ParameterError(error.key.removeprefix("rewards."), error.reason) from None


def _missing(chosen: Params, root: Path) -> list[str]:
    """One line for each local source that is not there: the task is as it should be, but cannot run here."""
    found = _each_source(chosen, download.check_presence)
    return [str(places.located(error, chosen.task, root)) for error in found]


def _of_task(chosen: Params, root: Path) -> list[str]:
    checks: list[Callable[[Params], Iterable[ParameterError]]] = [
        _sources, _format, _policy, _runs, reward_parameters.check, _cluster,
    ]  # fmt: skip
    found = [error for check in checks for error in check(chosen)]
    seen = {error.key.partition(".")[2] for error in found if error.key.startswith("rewards.")}
    for error in reward_parameters.check(dataclasses.replace(chosen, rewards=chosen.test_rewards)):
        section, _, key = error.key.partition(".")
        if section == "rewards" and key not in seen:
            found.append(ParameterError(f"test_rewards.{key}", error.reason))
    return list(dict.fromkeys(str(places.located(error, chosen.task, root)) for error in found))


def _raised(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except InputError as error:
        return [str(error)]
    return []


def _cluster(chosen: Params) -> Iterator[ParameterError]:
    yield from _errors(lambda: cluster.check(chosen.launch))


def _errors(call: Callable[[], object]) -> Iterator[ParameterError]:
    try:
        call()
    except ParameterError as error:
        yield error


def _algorithm(name: str, given: object) -> None:
    if name not in registry.NAMES:
        known = ", ".join(sorted(registry.NAMES))
        raise ParameterError(f"algorithms.{name}", f"is no algorithm; known: {known}; {additions.unregistered(name)}")
    registry.checked(name, given)


def _format_defaults(name: str, given: Any) -> None:
    """An entry has a format's name and some of its options."""
    where = f"formats.{name}"
    if name not in formats.names():
        raise ParameterError(where, f"is no format; known: {', '.join(formats.names())}")
    hints = build.fields(formats.get(name).options)
    build.check_keys(given, set(hints), set(), where)
    build.values(hints, given, where)


def _sources(chosen: Params) -> Iterator[ParameterError]:
    if not chosen.source:
        yield ParameterError("source", "names nothing to fetch")
    yield from _each_source(chosen, download.check)


def _each_source(chosen: Params, look: Callable[[Source, str], None]) -> Iterator[ParameterError]:
    for name, source in chosen.source.items():
        yield from _errors(lambda: look(source, f"source.{name}"))  # noqa: B023


def _format(chosen: Params) -> Iterator[ParameterError]:
    if chosen.clean.format not in formats.names():
        known = ", ".join(formats.names())
        yield ParameterError("clean.format", f"is '{chosen.clean.format}', which is no format; known: {known}")
        return
    yield from _errors(lambda: clean.options(chosen.clean))
    for name, labels in chosen.clean.labels.items():
        yield from _errors(lambda: clean.check_labels(labels, f"clean.labels.{name}"))  # noqa: B023


def _policy(chosen: Params) -> Iterator[ParameterError]:
    policy = chosen.policy
    if templates.is_file(policy.template):
        yield from _errors(lambda: templates.path(policy.template))
    if policy.model == "scratch":
        yield from _scratch(chosen)
        return
    for key, revision, hash_key in (
        ("model", policy.revision, "sha256"),
        ("adapter", policy.adapter_revision, "adapter_sha256"),
        ("tokenizer", policy.tokenizer_revision, None),
    ):
        name = getattr(policy, key)
        if name and Path(name).is_relative_to(paths.raw(chosen.task)):
            continue  # stage download brings it
        if not name:
            continue
        path, wrong = model_names.find(name)
        if wrong:
            yield ParameterError(f"policy.{key}", f"is '{name}', but {wrong}")
            continue
        if path is not None and not path.is_absolute():
            # a queued experiment runs in another folder, where a relative path would mean something else
            yield ParameterError(
                f"policy.{key}", f"is '{name}', but must be absolute or start with an environment variable"
            )
        if path is None and revision is None:
            yield ParameterError(f"policy.{key}", f"is '{name}', no folder, and a hub id needs a revision beside it")
        if hash_key and (unfit := model_names.unfit(name, getattr(policy, hash_key))):
            yield ParameterError(f"policy.{hash_key}", unfit)
    if policy.adapter and policy.tuning == "full":
        yield ParameterError("policy.tuning", "is full, but an adapter is trained with lora or qlora")


def _scratch(chosen: Params) -> Iterator[ParameterError]:
    policy, scratch = chosen.policy, chosen.policy.scratch
    longest = policy.max_prompt + max(policy.max_response, chosen.generate.max_new_tokens)
    if scratch.architecture != "t5" and longest > scratch.context:
        yield ParameterError(
            "policy.max_prompt",
            f"and the response take {longest} tokens, more than the model's context of {scratch.context}; raise "
            "policy.scratch.context or lower policy.max_prompt",
        )
    if scratch.width % scratch.heads:
        yield ParameterError("policy.scratch.width", f"is {scratch.width}, no multiple of heads = {scratch.heads}")
    elif scratch.architecture == "llama" and scratch.width // scratch.heads % 2:
        yield ParameterError(
            "policy.scratch.width",
            f"/ heads is {scratch.width // scratch.heads}, but rotary positions need an even number",
        )
    elif scratch.width % chosen.value.heads:
        yield ParameterError(
            "value.heads", f"is {chosen.value.heads}, which does not divide the model's width {scratch.width}"
        )
    if not chosen.reference.train:
        yield ParameterError("reference.train", "is false, but policy.model is scratch, which has to be trained")
    if policy.tuning == "qlora" and scratch.width % 64:
        yield ParameterError(
            "policy.scratch.width", f"is {scratch.width}, no multiple of 64, the block of 4-bit weights"
        )
    if policy.adapter:
        yield ParameterError("policy.adapter", "needs a published model, but policy.model is scratch")


def _runs(chosen: Params) -> Iterator[ParameterError]:
    sections: dict[str, Any] = {"reference": chosen.reference, "train": chosen.train}
    if chosen.policy.model == "scratch" and chosen.policy.tuning != "full":
        sections["reference.pretrain"] = chosen.reference.pretrain
    for name, section in sections.items():
        yield from _errors(lambda: runs.check_length(section.updates, section.epochs, name))  # noqa: B023
        if section.updates is not None:
            yield from _errors(lambda: runs.check_warmup(section.optimizer, section.updates, name))  # noqa: B023
        if name == "train" or chosen.reference.train:
            tuning = chosen.policy.tuning
            yield from _errors(lambda: runs.check_shards(chosen.launch, tuning, section.optimizer, name))  # noqa: B023
    if chosen.algorithm in registry.NAMES:
        algorithm, samples = registry.get(chosen.algorithm), chosen.generate.rollout.train_samples
        yield from _errors(lambda: selection.of(algorithm, chosen.train))
        yield from _errors(lambda: selection.check_columns(algorithm, samples))
    known = ["reward", *(f"reward_{name}" for name in chosen.rewards)]
    if chosen.train.success not in known:
        yield ParameterError("train.success", f"is '{chosen.train.success}'; known: {', '.join(known)}")


def misnamed(root: Path = Path()) -> list[str]:
    """Files of tasks/ that no parameter can name."""
    return [
        f"{TASKS / name}.yaml: {problem}"
        for name in yaml_files.task_names(root)
        if (problem := ranges.check_name(name, "task name"))
    ]
