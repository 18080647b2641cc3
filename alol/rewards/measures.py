"""How good a trained reward is on examples that it has not seen, beside a length rule and a bag of words.

What a model puts out for an example is one row of logits per member: of a pair the better one's and the worse one's.
Intervals are from a bootstrap over what the folds keep together, so that the responses to a prompt count as one draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alol.data.words import split
from alol.rewards import heads
from alol.rewards.critic import sentences
from alol.rewards.examples import Examples
from alol.rewards.folds import text
from alol.rewards.options import Critic, Measured, Preference, Trainable

RULES = ("length", "words")
MISMATCHED = "accuracy_mismatched"
SOFT = 1.0  # l2 of the rules: scikit-learn's own
Array = np.ndarray


@dataclass(frozen=True)
class Outputs:
    """Of the held-out examples `rows`: `values` [N] margins of pairs or predicted numbers, or logits [N, C]."""

    rows: list[int]
    values: Array


def outputs(examples: Examples, of: dict[int, Sequence[Sequence[float]]]) -> Outputs:
    """Turns the logits of each example's members into outputs."""
    rows = sorted(of)
    logits = np.array([of[i] for i in rows], np.float64)  # [N, members, C]
    if examples.objective == "pairs":
        return Outputs(rows, logits[:, 0, 0] - logits[:, 1, 0])
    return Outputs(rows, logits[:, 0, 0] if examples.objective == "scores" else logits[:, 0])


class Rules:
    """What is fitted to the same folds as a model: the logarithm of a response's words, and tf-idf of the inputs."""

    def __init__(self, examples: Examples, options: Trainable, where: str) -> None:
        self._examples, self._words = examples, options.train.measured.words
        self._lengths = np.log1p([[len(split(row[1]))] for row in examples.rows])  # [rows, 1]
        self._texts = list(zip(*(_texts(options, where, row) for row in examples.rows), strict=True))
        if examples.objective == "pairs":
            self._texts = self._texts[-1:]  # what comes before the response is the same in both
        self._outputs: dict[str, dict[int, Any]] = {name: {} for name in RULES}

    def fold(self, kept: Sequence[int], out: Sequence[int]) -> None:
        """Fits both rules to the examples `kept`, for their outputs on those left `out`."""
        self._fold("length", self._lengths, kept, out)
        self._fold("words", self._bag(kept), kept, out)

    def _bag(self, kept: Sequence[int]) -> Any:
        """Sparse [rows, words]: tf-idf of each input, with the words and weights of the kept examples."""
        from scipy.sparse import csr_matrix, hstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        known = sorted({row for i in kept for row in self._examples.members[i]})
        parts = []
        for texts in self._texts:
            table = TfidfVectorizer(tokenizer=split, token_pattern=None, max_features=self._words, sublinear_tf=True)
            if any(split(texts[row]) for row in known):
                table.fit([texts[row] for row in known])
                parts.append(table.transform(texts))
        return hstack(parts).tocsr() if parts else csr_matrix((len(self._examples.rows), 1))

    def _fold(self, name: str, inputs: Any, kept: Sequence[int], out: Sequence[int]) -> None:
        members, targets = self._examples.members, np.array(self._examples.targets, np.float64)

        def of(indices: Sequence[int]) -> Any:
            first, *second = (inputs[[members[i][k] for i in indices]] for k in range(len(members[indices[0]])))
            return first - second[0] if second else first

        there = np.unique(targets[list(kept)])
        if self._examples.objective == "labels" and len(there) == 1:  # nothing to fit: that class it is
            self._outputs[name] |= {i: np.where(np.arange(targets.max() + 1) == there[0], 0.0, -np.inf) for i in out}
            return
        model = heads.linear(self._examples.objective, of(kept), targets[list(kept)], SOFT)
        if self._examples.objective == "scores":
            values = model.predict(of(out))
        elif self._examples.objective == "pairs":
            values = of(out) @ model.coef_[0]
        else:
            values = np.full((len(out), int(targets.max()) + 1), -np.inf)  # of classes that the kept ones lack
            values[:, model.classes_] = model.predict_log_proba(of(out))
        self._outputs[name] |= dict(zip(out, values, strict=True))

    def outputs(self, rows: Sequence[int]) -> dict[str, Outputs]:
        """The outputs of each rule for these examples, by the rule's name."""
        return {
            name: Outputs(list(rows), np.array([values[i] for i in rows])) for name, values in self._outputs.items()
        }


def _texts(options: Trainable, where: str, row: tuple[str, str, dict[str, Any]]) -> tuple[str, ...]:
    """The texts that a component reads, the response last where it is among them."""
    if isinstance(options, Critic):
        return sentences(options, where, *row[1:])
    if isinstance(options, Preference):
        return row[:2]
    names = sorted(options.inputs, key=lambda name: name == "response")
    return tuple(text(name, where, *row) for name in names)


def measure(
    examples: Examples, model: Outputs, rules: dict[str, Outputs], settings: Measured, seed: int
) -> dict[str, float]:
    """Accuracy or rank correlation with its 95 % interval, calibration, the rules' figures and the model's lead.

    All of these are of the given examples. Of mismatched ones there is the accuracy with its interval, and the rules'.
    """
    own = len(examples.members) - examples.mismatched
    given = _some(model, rules, range(own))
    result = _figures(examples, *given, settings, seed)
    pairs = _some(model, rules, range(own, len(examples.members)))
    if pairs[0].rows:
        figures = _figures(examples, *pairs, settings, seed)
        shown = ("accuracy", "accuracy_low", "accuracy_high", *(f"{key}_accuracy" for key in rules))
        result |= {key.replace("accuracy", MISMATCHED): figures[key] for key in shown}
        result["rows_mismatched"] = figures["rows"]
    objective, values = examples.objective, given[0].values
    targets = np.array([examples.targets[i] for i in given[0].rows], np.float64)
    return result | calibration(objective, values, targets, settings.bins)


def _some(model: Outputs, rules: dict[str, Outputs], wanted: range) -> tuple[Outputs, dict[str, Outputs]]:
    """Selects the outputs of the wanted examples."""
    places = [place for place, row in enumerate(model.rows) if row in wanted]
    few = [model.rows[place] for place in places]
    return Outputs(few, model.values[places]), {key: Outputs(few, one.values[places]) for key, one in rules.items()}


def _figures(
    examples: Examples, model: Outputs, rules: dict[str, Outputs], settings: Measured, seed: int
) -> dict[str, float]:
    name = "spearman" if examples.objective == "scores" else "accuracy"
    targets = np.array([examples.targets[i] for i in model.rows], np.float64)
    _, groups = np.unique([examples.keys[i] for i in model.rows], return_inverse=True)
    figures = {key: _Figure(examples.objective, one.values, targets) for key, one in {"": model, **rules}.items()}
    whole = np.ones(len(targets))
    result = {f"{key}_{name}" if key else name: one.of(whole) for key, one in figures.items()}
    draws: dict[str, list[float]] = {key: [] for key in figures}
    draw, count = np.random.default_rng(seed), int(groups.max()) + 1
    for _ in range(settings.resamples):
        weights = np.bincount(draw.integers(count, size=count), minlength=count)[groups].astype(np.float64)
        for key, one in figures.items():
            draws[key].append(one.of(weights))
    result[f"{name}_low"], result[f"{name}_high"] = _interval(draws[""])
    for key in rules:
        lead = f"{name}_over_{key}"
        result[lead] = result[name] - result[f"{key}_{name}"]
        result[f"{lead}_low"], result[f"{lead}_high"] = _interval(np.subtract(draws[""], draws[key]))
    result["rows"] = len(targets)
    return result


def _interval(values: Any) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


class _Figure:
    """Accuracy or Spearman's correlation of examples that count several times or not at all."""

    def __init__(self, objective: str, values: Array, targets: Array) -> None:
        self._scores = objective == "scores"
        if self._scores:
            self._values, self._targets = (np.unique(x, return_inverse=True)[1] for x in (values, targets))
        else:
            self._hits = hits(objective, values, targets)

    def of(self, weights: Array) -> float:
        if self._scores:
            return spearman(self._values, self._targets, weights)
        return float(self._hits @ weights / weights.sum())


def hits(objective: str, values: Array, targets: Array) -> Array:
    """Whether the better response scores higher (equal ones count half), or the class is the likeliest: float64 [N]."""
    if objective == "pairs":
        return (np.sign(values) + 1) / 2
    if values.shape[1] == 1:
        return ((values[:, 0] > 0) == (targets == 1)).astype(np.float64)
    return (values.argmax(1) == targets).astype(np.float64)


def spearman(values: Array, targets: Array, weights: Array) -> float:
    """The correlation of ranks, ties sharing their mean rank, of examples that stand there `weights` times each.

    Values and targets are given as places in their sorted distinct values (integers [N]). 0 where one does not vary.
    """
    ranks = []
    for places in (values, targets):
        counts = np.bincount(places, weights=weights)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[places])
    total = weights.sum()
    x, y = (rank - (rank @ weights) / total for rank in ranks)
    norm = np.sqrt((x * x) @ weights * ((y * y) @ weights))
    return float((x * y) @ weights / norm) if norm > 0 else 0.0


def calibration(objective: str, values: Array, targets: Array, bins: int) -> dict[str, float]:
    """The expected calibration error, weighted over equal bins of the likeliest answer's probability (Guo et al. 2017).

    Of numbers: the line target = slope x prediction + intercept, the mean squared error and that of the mean.
    """
    if objective == "scores":
        spread = values.var()
        slope = float(((values - values.mean()) * (targets - targets.mean())).mean() / spread) if spread > 0 else 0.0
        return {
            "calibration_slope": slope,
            "calibration_intercept": float(targets.mean() - slope * values.mean()),
            "mse": float(((values - targets) ** 2).mean()),
            "mse_constant": float(targets.var()),
        }
    if values.ndim == 1 or values.shape[1] == 1:
        sure = 1 / (1 + np.exp(-np.abs(values.reshape(-1))))
    else:
        powers = np.exp(values - values.max(1, keepdims=True))
        sure = (powers / powers.sum(1, keepdims=True)).max(1)
    right = hits(objective, values, targets)
    places = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=right - sure, minlength=bins)
    return {"calibration_error": float(np.abs(gaps).sum() / len(sure))}
