"""Linear heads on frozen states: a ridge for numbers, a logistic regression for classes and for pairs.

The strength of the penalty is given or chosen by cross-validation within the examples that a head is fitted to, whose
folds keep the examples of a prompt together.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alol.base.errors import InputError
from alol.base.files import damaged, read_json, write_json
from alol.rewards.examples import Examples

log = logging.getLogger(__name__)
TENSORS, ABOUT = "head.safetensors", "head.json"
STRENGTHS = (1e5, 1e4, 1e3, 1e2, 1e1, 1e0)  # that cross-validation chooses from, strongest first
INNER = 3  # folds of that cross-validation


@dataclass(frozen=True)
class Head:
    """Outputs of states x [H] are weight x + bias, in float64: weight [C, H], bias [C]; `l2` is the penalty's."""

    weight: np.ndarray
    bias: np.ndarray
    l2: float

    def save(self, folder: Path, backbone: str) -> None:
        """`backbone` tells the model whose states these are from others."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True)
        save_file({"weight": np.ascontiguousarray(self.weight), "bias": self.bias}, folder / TENSORS)
        write_json(folder / ABOUT, {"l2": self.l2, "backbone": backbone})


def load(folder: Path, width: int, backbone: str, where: str) -> Head:
    """The head of a folder; raises InputError where it is damaged or was made for another model."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    about = read_json(folder / ABOUT, dict[str, Any])
    try:
        found = load_file(folder / TENSORS)
        head = Head(found["weight"], found["bias"], float(about["l2"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged(folder / TENSORS, str(error)) from None
    if head.weight.shape != (len(head.bias), width) or about.get("backbone") != backbone:
        raise InputError(f"{where}.train.init is not the model that {folder} was made for; run `dvc repro`")
    return head


def fit(states: np.ndarray, examples: Examples, indices: Sequence[int], outputs: int, l2: float | None) -> Head:
    """A head with `outputs` logits, fitted to the examples `indices`; `states` [rows, H] are of all rows.

    Numbers are to be standardised. Raises InputError for classes of which only one is there.
    """
    members = np.array([examples.members[i] for i in indices])
    targets = np.array([examples.targets[i] for i in indices])
    pairs = examples.objective == "pairs"
    inputs = states[members[:, 0]].astype(np.float64)
    if pairs:
        inputs = inputs - states[members[:, 1]]
    centre = np.zeros(inputs.shape[1]) if pairs else inputs.mean(0)
    spread = np.sqrt(((inputs - centre) ** 2).mean(0))
    spread[spread < 1e-12] = 1.0
    inputs = (inputs - centre) / spread
    if l2 is None:
        _, groups = np.unique([examples.keys[i] for i in indices], return_inverse=True)
        l2 = _chosen(examples.objective, inputs, targets, groups)
    model = linear(examples.objective, inputs, targets, l2)
    weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_).astype(np.float64)
    if pairs:
        bias = np.zeros(1)
    if len(weight) == 1 and outputs == 2:  # softmax of 0 and z is the sigmoid of z
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.array([0.0, *bias])
    if len(weight) != outputs:
        raise InputError(f"a fold holds {len(weight)} of the {outputs} classes; give more texts of each class")
    weight = weight / spread
    return Head(weight, bias - weight @ centre, float(l2))


def linear(objective: str, inputs: Any, targets: np.ndarray, l2: float) -> Any:
    """scikit-learn's model with `coef_` and `intercept_`, fitted: inputs [N, H], dense or sparse.

    The penalty is l2/2 x |w|^2 beside the summed losses. Of pairs the inputs are better minus worse, and the loss is
    -log sigmoid(w x) (Bradley-Terry): a logistic regression without an intercept, in which each pair stands both ways
    round with half a weight, since one class alone cannot be fitted.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    if objective == "scores":
        return Ridge(alpha=l2).fit(inputs, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of a weak penalty's weights
        if objective == "labels":
            if len(np.unique(targets)) < 2:
                raise InputError("a fold holds texts of one class only; give more texts of each class")
            return LogisticRegression(C=1 / l2, max_iter=1000).fit(inputs, targets.astype(int))
        both = _stacked(inputs)
        sides = np.repeat([1, 0], len(targets))
        model = LogisticRegression(C=1 / l2, max_iter=1000, fit_intercept=False)
        return model.fit(both, sides, sample_weight=np.full(len(sides), 0.5))


def _stacked(inputs: Any) -> Any:
    if isinstance(inputs, np.ndarray):
        return np.concatenate([inputs, -inputs])
    from scipy.sparse import vstack

    return vstack([inputs, -inputs]).tocsr()


def _chosen(objective: str, inputs: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> float:
    """The strength with the smallest loss on the examples that the inner folds leave out; ties go to the strongest."""
    losses = np.zeros(len(STRENGTHS))
    for kept, out in _inner(groups):
        if objective == "labels" and len(np.unique(targets[kept])) < len(np.unique(targets)):
            continue
        for i, l2 in enumerate(STRENGTHS):
            model = linear(objective, inputs[kept], targets[kept], l2)
            losses[i] += _loss(objective, model, inputs[out], targets[out])
    best = STRENGTHS[int(losses.argmin())]
    log.debug("summed losses %s of the strengths %s", losses, STRENGTHS)
    return best


def _inner(groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import GroupKFold

    count = min(INNER, len(np.unique(groups)))
    return GroupKFold(count).split(groups, groups=groups) if count > 1 else iter(())


def _loss(objective: str, model: Any, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The summed loss of examples: squared errors, or -log p."""
    if objective == "scores":
        return float(((model.predict(inputs) - targets) ** 2).sum())
    if objective == "pairs":
        return float(np.logaddexp(0, -(inputs @ model.coef_[0])).sum())
    columns = np.searchsorted(model.classes_, targets.astype(int))
    return float(-model.predict_log_proba(inputs)[np.arange(len(targets)), columns].sum())
