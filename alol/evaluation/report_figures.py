"""The figures of the report with their captions: what each shows, and what it says of this run."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from alol.evaluation import figures
from alol.evaluation.report_run import Run, histograms, points
from alol.evaluation.summary import MODELS
from alol.evaluation.training_rows import Use


def drawn(run: Run) -> list[dict[str, str]]:
    """The figures as data URIs with what they show in words."""
    (bins, shares), advantages = histograms(run)
    rewards = {name: run.measured[name].columns["reward"] for name in MODELS}
    means = {name: float(values.mean()) for name, values in rewards.items()}
    summary, history = run.summary, run.history
    found = [
        (
            figures.reward_distribution(bins, shares, means),
            "How often each total reward occurs among the test responses of gold, reference and policy.",
        ),
        (
            figures.advantage(*advantages, _sides(run.training.use)),
            f"{summary['discarded']:.1%} of the training responses have A <= 0: the reference is expected to do as "
            f"well or better on their prompts. {learned(run)}{_filter(run)}",
        ),
        (
            figures.violins(run.training.groups),
            "Value, reward and advantage of the training prompts and responses: outlines of their distributions, with "
            "the median and the quartiles.",
        ),
        (
            figures.value(*points(run), float(np.mean(run.heldout["reward"]))),
            f"Held-out squared error of V(x): {summary['value_mse']:.4g}; of the best constant: "
            f"{summary['value_mse_constant']:.4g}." + _by_samples(summary),
        ),
    ]
    if history["curve"]:
        losses = [entry["loss"] for entry in history["curve"]]
        found.append((figures.loss([entry["update"] for entry in history["curve"]], losses), "Loss at each update."))
    if history["validation"]:
        kept = bool(summary["selected"])
        caption = f"The dashed line is the reference, the bar that a checkpoint has to beat. {kept_checkpoint(kept)}"
        found.append((figures.validation(history["validation"], kept, run.params.train.success), caption))
    return [
        {"source": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(), "caption": caption}
        for svg, caption in found
    ]


def _sides(use: Use) -> tuple[str, str]:
    """What the histogram calls the responses with A > 0 and the others."""
    return ("kept, A > 0", "discarded, A <= 0") if use.filtered else ("A > 0", "A <= 0")


def learned(run: Run) -> str:
    """What the run did with these responses."""
    use, name = run.training.use, run.params.algorithm
    if not use.logged:
        return f"{name} answers the prompts itself and trains on none of these responses."
    if use.filtered:
        return f"{name} discards those and trains on the others, the leftover lunch."
    which = "all responses to a prompt" if use.grouped else "all of them"
    return f"{name} discards none: it trains on {which}, whatever their advantage."


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
    above, among = ("kept", "kept") if run.training.use.filtered else ("A > 0", "among these")
    return (
        f" By the human judgements ({run.params.aggregate.label}), {found['precision']:.1%} of the {above} responses "
        f"are good and {found['base_rate']:.1%} of all; {found['recall']:.1%} of the good ones are {among}."
    )


def kept_checkpoint(selected: bool) -> str:
    if selected:
        return "The best checkpoint beat the reference on validation and was kept."
    return "No checkpoint beat the reference on validation, so the last one was kept."
