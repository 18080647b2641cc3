"""The figures of the report: rewards, advantages, values, and the course of training, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alol.evaluation.drawing import COLOURS, DASHES, DISCARDED, KEPT, canvas, styled, svg
from alol.evaluation.metrics import Array

BINS = 30
HEADROOM = 1.06  # of the highest bar or line to the top of the axes


def edges(values: Array, at: float | None = None) -> Array:
    """BINS + 1 bin edges over the values; one edge lies at `at`, where given and within them."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    if at is None or not low < at < high:
        return np.linspace(low, high, BINS + 1)
    width = (high - low) / (BINS - 1)
    return at + width * np.arange(np.floor((low - at) / width), np.ceil((high - at) / width) + 1)


def reward_distribution(bins: Array, shares: Mapping[str, Array], means: Mapping[str, float]) -> bytes:
    """Outlines of the models' reward histograms over the bin edges `bins`, with their means. An SVG file."""
    with styled():
        figure, axes = canvas("Reward of test responses", "total reward", "share of prompts")
        for name, share in shares.items():
            style = {"color": COLOURS[name], "linestyle": DASHES[name], "linewidth": 1.8}
            axes.stairs(share, bins, label=f"{name} (mean {means[name]:.3f})", **style)
            axes.plot(means[name], 0, marker="^", markersize=9, color=COLOURS[name], clip_on=False, zorder=4)
        axes.set_ylim(0, HEADROOM * max(float(share.max()) for share in shares.values()))
        figure.legend(loc="outside lower center", ncols=3, fontsize=9, title="triangles: means", title_fontsize=8)
        return svg(figure)


def advantage(bins: Array, above: Array, below: Array, names: tuple[str, str]) -> bytes:
    """Histogram counts of training responses, those with A <= 0 hatched; `names` of both kinds. An SVG file."""
    total = int(above.sum() + below.sum())
    with styled():
        figure, axes = canvas("Advantage of training responses", "advantage A = R - V(x)", "training responses")
        parts = ((names[1], below, DISCARDED, "///"), (names[0], above, KEPT, ""))
        bottom = np.zeros(len(bins) - 1)
        for name, counts, colour, hatch in parts:
            label = f"{name} ({counts.sum() / total:.1%})"
            style = {"color": colour, "edgecolor": "white", "hatch": hatch, "linewidth": 0.5}
            axes.bar(bins[:-1], counts, np.diff(bins), bottom=bottom, align="edge", label=label, **style)
            bottom = bottom + counts
        axes.set_ylim(0, HEADROOM * float(bottom.max()))
        axes.axvline(0, color="black", linewidth=1)
        axes.legend(loc="best", fontsize=9)
        return svg(figure)


def violins(groups: Mapping[str, Array]) -> bytes:
    """The distribution of each group of numbers, with its quartiles and median. An SVG file."""
    with styled():
        figure, axes = canvas("Value, reward and advantage of training data", "", "reward units")
        axes.grid(axis="x", visible=False)
        places = range(1, len(groups) + 1)
        drawn = axes.violinplot(list(groups.values()), places, widths=0.8, showextrema=False)
        for body, name in zip(drawn["bodies"], groups, strict=True):
            body.set(facecolor=DISCARDED if "others" in name else KEPT, alpha=0.45, linewidth=0)
        for place, values in zip(places, groups.values(), strict=True):
            low, middle, high = np.percentile(values, [25, 50, 75])
            axes.vlines(place, low, high, color="black", linewidth=4)
            axes.plot(place, middle, "o", color="white", markeredgecolor="black", markersize=5)
        axes.axhline(0, color="black", linewidth=0.8, linestyle=(0, (5, 2)))
        axes.set_xticks(places, list(groups))
        return svg(figure)


def loss(updates: Sequence[float], losses: Sequence[float]) -> bytes:
    """Training loss per update and its running mean. An SVG file."""
    window = max(1, len(losses) // 20)
    with styled():
        figure, axes = canvas("Training loss", "update", "loss")
        marker = "" if len(losses) > 1 else "o"
        axes.plot(updates, losses, color="#9DC3E0" if window > 1 else KEPT, linewidth=0.9, marker=marker)
        if window > 1:
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            label = f"mean of the last {window} updates"
            axes.plot(updates[window - 1 :], smooth, color=KEPT, linewidth=2, label=label)
            axes.legend(loc="best", fontsize=9)
        return svg(figure)


def validation(points: Sequence[Mapping[str, float]], selected: bool, score: str) -> bytes:
    """The checkpoints' mean `score` on validation, against the reference's (the point at update 0). An SVG file."""
    reference = [point["reward"] for point in points if point["update"] == 0][:1]
    updates = [point["update"] for point in points]
    rewards = [point["reward"] for point in points]
    kept = int(np.argmax(rewards)) if selected else len(points) - 1
    with styled():
        figure, axes = canvas("Validation score", "update", f"mean {score}")
        if reference:
            axes.axhline(reference[0], color=COLOURS["reference"], linestyle=DASHES["reference"], label="reference")
        axes.plot(updates, rewards, color=KEPT, marker="o", markersize=4, label="checkpoints")
        style = {"linestyle": "", "marker": "o", "markersize": 11, "markerfacecolor": "none"}
        axes.plot(updates[kept], rewards[kept], color=DISCARDED, markeredgewidth=2, label="kept checkpoint", **style)
        axes.legend(loc="best", fontsize=9)
        return svg(figure)


def value(predicted: Array, reward: Array, constant: float) -> bytes:
    """Held-out rewards against the value function's predictions; `constant` is the mean reward. An SVG file."""
    with styled():
        figure, axes = canvas("Value of held-out prompts", "predicted value V(x)", "reward of the rollout")
        axes.grid(False)
        style = {"s": 14, "alpha": 0.45, "color": KEPT, "linewidths": 0}
        axes.scatter(predicted, reward, label="one validation prompt", **style)
        ends = [float(predicted.min()), float(predicted.max())]
        axes.plot(ends, ends, color="black", linewidth=1.2, label="V(x) = reward")
        axes.axhline(constant, color=DISCARDED, linestyle=(0, (5, 2)), linewidth=1.4, label="best constant")
        axes.legend(loc="best", fontsize=9)
        return svg(figure)
