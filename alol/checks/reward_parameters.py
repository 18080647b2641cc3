"""What can be known to be wrong with the rewards' parameters without loading a model or reading data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alol.base.errors import ParameterError
from alol.config import model_names, paths
from alol.config.params import Params
from alol.config.sections import Labels
from alol.models import templates
from alol.rewards.folds import CONTEXT
from alol.rewards.options import (
    PAIRS,
    RESPONSES,
    Classifier,
    Critic,
    Likelihood,
    Options,
    Preference,
    Python,
    Stored,
    Toxichat,
    Trainable,
    objective,
    parse,
)
from alol.rewards.python import resolve


def check(params: Params) -> list[ParameterError]:
    """One error for each mistake, naming the key; empty when there is none."""
    found = [*_names(params), *_weights(params)]
    for name, table in params.rewards.items():
        where = f"rewards.{name}"
        try:
            found += _component(where, parse(table, where), params)
        except ParameterError as error:
            found.append(error)
    return found


def _names(params: Params) -> Iterator[ParameterError]:
    for name, end in (("low", "lower"), ("high", "upper")):
        if name in params.rewards:
            reason = f"is no name for a component: reward_{name} is the {end} end of the reward's interval"
            yield ParameterError(f"rewards.{name}", reason)


def _weights(params: Params) -> Iterator[ParameterError]:
    weights, names = params.reward.weights, params.rewards
    listed = ", ".join(names)
    for name in weights:
        if name not in names:
            yield ParameterError(f"reward.weights.{name}", f"is of no component; known: {listed}")
    for name in names:
        if name not in weights:
            yield ParameterError("reward.weights", f"lacks the component '{name}'; give it a weight (0 to ignore it)")


def _component(where: str, built: Options, params: Params) -> Iterator[ParameterError]:
    """The checks that every kind shares, then the kind's own."""
    if built.low is not None and built.high is not None and not built.low < built.high:
        yield ParameterError(f"{where}.low", f"is {built.low:g}, which is not below {where}.high, {built.high:g}")
    if isinstance(built, Python):
        yield from _python(where, built)
    elif isinstance(built, Trainable):
        yield from _model(where, built, params)
    elif isinstance(built, Toxichat):
        if not built.model:
            yield ParameterError(f"{where}.model", "is not set; name the folder of ToxiChat's classifier")
        yield from _source(where, "model", built.model, "sha256", built.sha256)
    elif isinstance(built, Likelihood):
        yield from _likelihood(where, built)
    elif isinstance(built, Stored):
        yield from _stored(where, built, params)


def _python(where: str, built: Python) -> Iterator[ParameterError]:
    try:
        resolve(built.function, where)
    except ParameterError as error:
        yield error


def _model(where: str, built: Trainable, params: Params) -> Iterator[ParameterError]:
    if (built.model is None) == (built.train is None):
        given = "neither" if built.model is None else "both"
        yield ParameterError(where, f"has {given} of `model` (a model's name) and `train`; give one")
    yield from _source(where, "model", built.model, "sha256", built.sha256)
    if isinstance(built, Classifier):
        yield from _inputs(where, built.inputs)
    yield from _template(where, built.template)
    labels = params.clean.labels
    if built.train is not None:
        yield from _training(f"{where}.train", built, labels)
    if isinstance(built, Critic) and not built.relations:
        yield ParameterError(f"{where}.relations", "is empty; give the words of each relation")
    if built.train is not None and objective(built) == "labels":
        texts = built.train.texts
        classes = 2 if texts == RESPONSES else len(labels[texts].classes) if texts in labels else 0
        if classes > 1:  # else that is the mistake, and named by itself
            yield from _classes(where, built, classes)


def _template(where: str, template: str) -> Iterator[ParameterError]:
    if templates.is_file(template):
        try:
            templates.path(template, f"{where}.template")
        except ParameterError as error:
            yield error


def _source(where: str, key: str, model: str | None, hash_key: str, sha256: str | None) -> Iterator[ParameterError]:
    """The keys of a model and of its sha256, below `where`."""
    if not model or Path(model).is_relative_to(paths.raw("")):
        return  # stage download brings it
    _, wrong = model_names.find(model)
    if wrong:
        yield ParameterError(f"{where}.{key}", f"is {model}, but {wrong}")
    elif unfit := model_names.unfit(model, sha256):
        yield ParameterError(f"{where}.{hash_key}", unfit)


def _inputs(where: str, inputs: list[str]) -> Iterator[ParameterError]:
    if not 1 <= len(inputs) <= 2:
        yield ParameterError(f"{where}.inputs", f"has {len(inputs)} texts; a classifier reads one or two")
        return
    for name in inputs:
        if name not in ("prompt", "response") and not name.startswith(CONTEXT):
            yield ParameterError(
                f"{where}.inputs", f"names the unknown text '{name}'; known: prompt, response, context.<key>"
            )


def _training(where: str, built: Trainable, labels: dict[str, Labels]) -> Iterator[ParameterError]:
    train, learnt, of = built.train, objective(built), f"{where}.texts"
    if learnt == "pairs":
        if train.texts != PAIRS:
            yield ParameterError(of, f"is '{train.texts}'; objective pairs is trained on '{PAIRS}'")
        if not isinstance(built, Preference) and built.output == "softmax":
            yield ParameterError(f"{where}.objective", "is pairs, which needs one logit; output: logit")
    elif train.texts == RESPONSES:
        if not train.column:
            yield ParameterError(f"{where}.column", "is not set; name the key of `context` with the number to learn")
    elif train.texts not in labels:
        listed = ", ".join([RESPONSES, *labels])
        yield ParameterError(of, f"is '{train.texts}', which is no entry of clean.labels; known: {listed}")
    elif (labels[train.texts].score is not None) != (learnt == "scores"):
        other = "classes" if learnt == "scores" else "a score"
        yield ParameterError(f"{where}.objective", f"is {learnt}, but clean.labels.{train.texts} has {other}")
    if train.column and train.texts != RESPONSES:
        yield ParameterError(f"{where}.column", f"is read with texts: {RESPONSES} alone; delete it")
    if train.mismatched:
        yield from _mismatched(f"{where}.mismatched", built, labels)
    if learnt == "scores" and built.output != "logit":
        reason = "a critic's output is a probability; train a classifier" if isinstance(built, Critic) else (
            "numbers come as they are; set output to logit, and low and high to their bounds (null: open)"
        )  # fmt: skip
        yield ParameterError(f"{where}.objective", f"is scores, but {reason}")
    if train.init == "scratch" and train.width % train.heads:
        yield ParameterError(f"{where}.width", f"is {train.width}, which {train.heads} heads do not divide")
    if train.init == "scratch" and train.tuning != "full":
        yield ParameterError(f"{where}.tuning", f"is {train.tuning}, which needs a model: name one in init")
    init = None if train.init == "scratch" else train.init
    yield from _source(where, "init", init, "init_sha256", train.init_sha256)


def _mismatched(where: str, built: Trainable, labels: dict[str, Labels]) -> Iterator[ParameterError]:
    learnt, given = objective(built), f"is {built.train.mismatched:g}, but"
    classes = len(labels[built.train.texts].classes) if built.train.texts in labels else 2
    if learnt != "labels":
        yield ParameterError(where, f"{given} objective {learnt} has no class for bad examples; set it to 0")
    elif classes > 2:
        yield ParameterError(where, f"{given} clean.labels.{built.train.texts} has {classes} classes; two are needed")
    elif isinstance(built, Classifier) and not ("response" in built.inputs and len(built.inputs) == 2):
        reason = f"{given} inputs has only {', '.join(built.inputs)}; the response and a text of its prompt are needed"
        yield ParameterError(where, reason)


def _classes(where: str, built: Trainable, classes: int) -> Iterator[ParameterError]:
    if built.output == "softmax" and (isinstance(built.label, str) or not 0 <= built.label < classes):
        yield ParameterError(f"{where}.label", f"is {built.label!r}, but the trained classes are 0 to {classes - 1}")
    if (built.output == "sigmoid" or isinstance(built, Preference)) and classes != 2:
        yield ParameterError(
            f"{where}.output",
            f"is {built.output}, which needs 2 classes, but clean.labels.{built.train.texts} has {classes}",
        )


def _likelihood(where: str, built: Likelihood) -> Iterator[ParameterError]:
    if not built.model:
        yield ParameterError(f"{where}.model", "is not set; name a language model")
    yield from _source(where, "model", built.model, "sha256", built.sha256)
    if built.output == "probability" and built.high is not None and built.high <= 0:
        yield ParameterError(
            f"{where}.high", f"is {built.high:g}, but output is probability; write 1.0, and 0.0 as low"
        )
    yield from _template(where, built.template)


def _stored(where: str, built: Stored, params: Params) -> Iterator[ParameterError]:
    if not built.column:
        yield ParameterError(f"{where}.column", "is not set; name the key of `context` that holds the score")
    scorer = f"{where}.scorer"
    if built.scorer is None:
        yield ParameterError(scorer, "is not set; generations have no stored score, so name what scores them")
    elif built.scorer.get("kind") == "stored":
        yield ParameterError(scorer, "is itself stored; it must be a component that scores any text")
    else:
        yield from _component(scorer, parse(built.scorer, scorer), params)
