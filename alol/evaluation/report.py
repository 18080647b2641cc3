"""The report of one run: plot tables, and metrics/report.html as one self-contained page.

Figures are embedded, texts are escaped, and nothing in it depends on the day or the folder, so that equal runs give
equal bytes. What the numbers are is settled in `alol.evaluation.summary`.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alol.base.errors import InputError, ParameterError
from alol.base.files import replacing
from alol.config.params import Params
from alol.config.sections import Reward
from alol.data import schema
from alol.evaluation import figures, metrics
from alol.evaluation.metrics import Array
from alol.evaluation.summary import (
    ALL,
    MODELS,
    Heldout,
    History,
    Measured,
    Rows,
    number,
    ordered,
    resampled,
    show,
    split_names,
)  # fmt: skip

TEMPLATE = Path(__file__).with_name("report.html.j2")
_KEYS = ["prompt_id", "rank"]
_NUMBERS = ("reward", "value", "advantage")


@dataclass(frozen=True)
class Training:
    """Reward, value and advantage of the responses that training chose from (`columns`), and of all of them.

    `groups`: V(x), and R and A of the preferred and of the other responses; `examples`: their extremes with a title.
    """

    columns: dict[str, Array]
    groups: dict[str, Array]
    examples: list[tuple[str, Rows]]
    good: Array | None  # of the responses that training chose from: whether a human judged them good


@dataclass(frozen=True)
class Run:
    """What a report is made of: test rows by model, training.json (`history`), the value function's `heldout` rows."""

    params: Params
    summary: dict[str, Any]
    rows: dict[str, Rows]
    measured: dict[str, Measured]
    training: Training
    history: History
    heldout: Heldout
    reward_model: Mapping[str, Mapping[str, float]]  # what its training measured, by component


def training(annotated: Path, advantages: Path, params: Params) -> Training:
    """Joins the two training tables row by row; InputError where they are not the same rows in the same order."""
    if schema.count(annotated) != schema.count(advantages):
        raise InputError(f"{annotated} and {advantages} differ in their number of rows; run `dvc repro`")
    found: list[tuple[float, ...]] = []
    label = params.aggregate.label
    pairs = zip(
        _flat(annotated, [*_KEYS, "context"] if label else _KEYS), _flat(advantages, [*_KEYS, *_NUMBERS]), strict=True
    )
    for i, (text, row) in enumerate(pairs):
        if (text["prompt_id"], text["rank"]) != (row["prompt_id"], row["rank"]):
            raise InputError(f"{advantages}: row {i} is another response than in {annotated}; run `dvc repro`")
        judged = _judged(text, label) if label else False
        found.append((judged, row["rank"], *(row[name] for name in _NUMBERS)))
    good, rank, *numbers = np.array(found, dtype=np.float64).reshape(-1, 2 + len(_NUMBERS)).T
    every = dict(zip(_NUMBERS, numbers, strict=True))
    chosen = (rank == 0) | (params.train.train_on == "all")
    if not chosen.any():
        raise InputError(f"{advantages} holds no response to train on; check the task's source and clean section")
    extremes = _extremes(every, rank, params.aggregate.examples)
    texts = _texts(annotated, {i for _, index in extremes for i in index})
    examples = [
        (title, [{**texts[i], **{name: float(every[name][i]) for name in _NUMBERS}} for i in index])
        for title, index in extremes
    ]
    columns = {name: column[chosen] for name, column in every.items()}
    return Training(columns, _groups(every, rank), examples, good[chosen] > 0 if label else None)


def _judged(row: dict[str, Any], label: str) -> bool:
    value = row["context"].get(label)
    if not isinstance(value, int | float):
        found = f"prompt {row['prompt_id']}, rank {row['rank']}, has {value!r:.40} there"
        raise ParameterError("aggregate.label", f"is '{label}', which must be a number in every context; {found}")
    return value > 0.5


def _groups(every: Mapping[str, Array], rank: Array) -> dict[str, Array]:
    """V(x) once per prompt; R and A of the preferred responses, and of the others where there are any."""
    groups = {"V(x)": every["value"][rank == 0]}
    for name, rows in (("preferred", rank == 0), ("others", rank > 0)):
        groups |= {f"R, {name}": every["reward"][rows], f"A, {name}": every["advantage"][rows]}
    return {name: values for name, values in groups.items() if len(values)}


def _extremes(every: Mapping[str, Array], rank: Array, count: int) -> list[tuple[str, list[int]]]:
    """Titles and row numbers: the highest and the lowest by V, and by A of the preferred and the other responses."""
    kinds = (
        ("advantage, preferred responses", every["advantage"], rank == 0),
        ("advantage, other responses", every["advantage"], rank > 0),
        ("value", every["value"], rank == 0),
    )
    result: list[tuple[str, list[int]]] = []
    for title, column, rows in kinds:
        order = np.flatnonzero(rows)
        order = order[np.argsort(column[order], kind="stable")]
        size = min(count, len(order) // 2 or 1)
        if len(order):
            result += [(f"Highest {title}", order[::-1][:size].tolist()), (f"Lowest {title}", order[:size].tolist())]
    return result


def _flat(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for group in schema.read(path, columns):
        yield from group


def _texts(path: Path, wanted: set[int]) -> dict[int, dict[str, Any]]:
    columns = [*_KEYS, "prompt", "response"]
    return {i: row for i, row in enumerate(_flat(path, columns)) if i in wanted}


def _histograms(run: Run) -> tuple[tuple[Array, dict[str, Array]], tuple[Array, Array, Array]]:
    """(bin edges, share of prompts by model) of the test rewards; (edges, kept, discarded counts) of advantages."""
    rewards = {name: run.measured[name].columns["reward"] for name in MODELS}
    bins = figures.edges(np.concatenate(list(rewards.values())))
    shares = {name: np.histogram(values, bins)[0] / len(values) for name, values in rewards.items()}
    advantage = run.training.columns["advantage"]
    ends = figures.edges(advantage, at=0.0)
    kept, discarded = (np.histogram(part, ends)[0] for part in (advantage[advantage > 0], advantage[advantage <= 0]))
    return (bins, shares), (ends, kept, discarded)


def _points(run: Run) -> tuple[Array, Array]:
    """Held-out predictions and rewards, at most `points` of them, drawn with the section's seed."""
    value, reward = (np.array(run.heldout[name], dtype=np.float64) for name in ("value", "reward"))
    options = run.params.aggregate
    if len(value) > options.points:
        index = np.sort(np.random.default_rng(options.seed).permutation(len(value))[: options.points])
        value, reward = value[index], reward[index]
    return value, reward


def plot_tables(run: Run) -> dict[str, Rows]:
    """File name -> rows, for `dvc plots`. A bin is named by its centre."""
    (bins, shares), (ends, kept, discarded) = _histograms(run)
    counts = (("true", kept), ("false", discarded))
    return {
        "reward_distribution.csv": [
            {"bin": number(centre)} | {model: number(shares[model][i]) for model in MODELS}
            for i, centre in enumerate((bins[1:] + bins[:-1]) / 2)
        ],
        "advantage.csv": [
            {"bin": number(centre), "kept": name, "count": int(count)}
            for name, part in counts
            for centre, count in zip((ends[1:] + ends[:-1]) / 2, part, strict=True)
        ],
        "training.csv": run.history["curve"],
        "validation.csv": run.history["validation"],
        "value.csv": [{"value": number(v), "reward": number(r)} for v, r in zip(*_points(run), strict=True)],
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """`columns` come first, then the rows' others in order of appearance; a missing value is left empty."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


PLOT_COLUMNS = {
    "reward_distribution.csv": ("bin", *MODELS),
    "advantage.csv": ("bin", "kept", "count"),
    "training.csv": ("update", "loss"),
    "validation.csv": ("update", "reward"),
    "value.csv": ("value", "reward"),
}


def _figures(run: Run) -> list[dict[str, str]]:
    """The figures as data URIs with what they show in words."""
    (bins, shares), advantages = _histograms(run)
    rewards = {name: run.measured[name].columns["reward"] for name in MODELS}
    means = {name: float(values.mean()) for name, values in rewards.items()}
    summary, history = run.summary, run.history
    drawn = [
        (
            figures.reward_distribution(bins, shares, means),
            "How often each total reward occurs among the test responses of gold, reference and policy.",
        ),
        (
            figures.advantage(*advantages),
            f"{summary['discarded']:.1%} of the training responses have A <= 0 and are discarded: the reference is "
            "expected to do as well or better on their prompts, so advantage algorithms do not train on them."
            + _filter(run),
        ),
        (
            figures.violins(run.training.groups),
            "Value, reward and advantage of the training prompts and responses: outlines of their distributions, with "
            "the median and the quartiles.",
        ),
        (
            figures.value(*_points(run), float(np.mean(run.heldout["reward"]))),
            f"Held-out squared error of V(x): {summary['value_mse']:.4g}; of the best constant: "
            f"{summary['value_mse_constant']:.4g}." + _by_samples(summary),
        ),
    ]
    if history["curve"]:
        losses = [entry["loss"] for entry in history["curve"]]
        drawn.append((figures.loss([entry["update"] for entry in history["curve"]], losses), "Loss at each update."))
    if history["validation"]:
        kept = bool(summary["selected"])
        caption = f"The dashed line is the reference, the bar that a checkpoint has to beat. {_kept(kept)}"
        drawn.append((figures.validation(history["validation"], kept, run.params.train.success), caption))
    return [
        {"source": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(), "caption": caption}
        for svg, caption in drawn
    ]


def _by_samples(numbers: Mapping[str, Any]) -> str:
    """The held-out error against the mean of sampled answers, in its two parts, where V(x) was judged so."""
    if "judge_samples" not in numbers:
        return ""
    return (
        f" Against the mean of {numbers['judge_samples']:.0f} sampled answers to each prompt: "
        f"{numbers['value_judged_mse']:.4g} (the best constant: {numbers['value_judged_mse_constant']:.4g}), of which "
        f"{numbers['value_noise']:.4g} is the noise of that mean and {numbers['value_learnable']:.4g} still to learn."
    )


def _filter(run: Run) -> str:
    """How the filter stands to human judgements, where the task has them."""
    if "filter" not in run.summary:
        return ""
    found = run.summary["filter"]
    return (
        f" By the human judgements ({run.params.aggregate.label}), {found['precision']:.1%} of the kept responses are "
        f"good and {found['base_rate']:.1%} of all; {found['recall']:.1%} of the good ones are kept."
    )


def _kept(selected: bool) -> str:
    if selected:
        return "The best checkpoint beat the reference on validation and was kept."
    return "No checkpoint beat the reference on validation, so the last one was kept."


def headline(run: Run) -> str:
    """Policy against reference, in one sentence."""
    policy, reference, delta = (run.summary[name][ALL] for name in ("policy", "reference", "delta"))
    interval = "95 % interval {reward_low:.3f} to {reward_high:.3f}"
    return (
        f"On {len(run.rows['policy'])} test prompts, {run.params.algorithm} reaches a mean reward of "
        f"{policy['reward']:.3f} ({interval.format(**policy)}) and the reference {reference['reward']:.3f} "
        f"({interval.format(**reference)}): a difference of {delta['reward']:+.3f} ({_p(delta['p_value'])})."
    )


def doubts(run: Run) -> list[str]:
    """One sentence for each simple rule that a trained reward is not better than: its lead's interval reaches 0."""
    found = []
    for component, measured in run.reward_model.items():
        name = "accuracy" if "accuracy" in measured else "spearman"
        figure = "accuracy" if name == "accuracy" else "rank correlation"
        for rule, what in (("length", "the number of words"), ("words", "a bag of words")):
            lead = f"{name}_over_{rule}"
            if measured.get(f"{lead}_low", 1.0) > 0:
                continue
            ends = f"{measured[f'{lead}_low']:+.3f} to {measured[f'{lead}_high']:+.3f}"
            found.append(
                f"The reward '{component}' is not shown to be better than {what}: {figure} {measured[name]:.3f} "
                f"against {measured[f'{rule}_{name}']:.3f} on {measured['rows']:,.0f} unseen examples, a lead of "
                f"{measured[lead]:+.3f} (95 % interval {ends})."
            )
    return found


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _scores(run: Run) -> list[dict[str, Any]]:
    """For each split its rows of the score table; METEOR of gold, against itself, says nothing and is left out."""
    names = _score_names(run)
    tables = []
    for split in split_names(run.summary):
        lines = []
        for model in MODELS:
            values = run.summary[model][split]
            cells = ["" if (model, name) == ("gold", "meteor_stem") else show(values.get(name)) for name in names]
            cells[0] += f" [{values['reward_low']:.3f}, {values['reward_high']:.3f}]"
            lines.append({"model": model, "cells": cells})
        delta = run.summary["delta"][split]
        tables.append({"split": split, "lines": lines, "delta": f"{delta['reward']:+.3f}, {_p(delta['p_value'])}"})
    return tables


def _score_names(run: Run) -> list[str]:
    return [name for name in ordered(list(run.summary["policy"][ALL])) if name not in ("reward_low", "reward_high")]


def _samples(run: Run) -> list[dict[str, Any]]:
    """Test prompts drawn with the section's seed, each with the three responses and their rewards."""
    options = run.params.aggregate
    total = len(run.rows["policy"])
    chosen = np.sort(np.random.default_rng(options.seed).permutation(total)[: options.samples])
    names = ["reward", *(f"reward_{name}" for name in sorted(run.params.reward.weights))]
    return [
        {
            "prompt": run.rows["gold"][i]["prompt"],
            "subset": run.rows["gold"][i]["subset"],
            "answers": [
                {
                    "model": model,
                    "response": run.rows[model][i]["response"],
                    "rewards": [(_short(name), show(run.measured[model].columns[name][i])) for name in names],
                }
                for model in MODELS
            ],
        }
        for i in chosen
    ]


def _formula(reward: Reward) -> str:
    """The total reward in words, such as `0.5 + 2 x good - 1 x short`."""
    terms = [f"{'-' if weight < 0 else '+'} {abs(weight):g} x {name}" for name, weight in reward.weights.items()]
    return " ".join([f"{reward.shift:g}", *terms] if reward.shift else terms).removeprefix("+ ")


def _short(name: str) -> str:
    return name.removeprefix("reward_")


def render(run: Run) -> str:
    """The page. Every text goes through the template's escaping."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["show"] = show
    columns = run.training.columns
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        params=run.params,
        summary=run.summary,
        headline=headline(run),
        doubts=doubts(run),
        formula=_formula(run.params.reward),
        kept=_kept(bool(run.summary["selected"])),
        names=[_short(name) for name in _score_names(run)],
        scores=_scores(run),
        resampled=resampled(run.measured["policy"].conversations),
        figures=_figures(run),
        levels=metrics.PERCENTILES,
        percentiles=[(name, metrics.percentiles(values)) for name, values in run.training.groups.items()],
        examples=run.training.examples,
        responses=len(columns["advantage"]),
        discarded=int((columns["advantage"] <= 0).sum()),
        samples=_samples(run),
    )
