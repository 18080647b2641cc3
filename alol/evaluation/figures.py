"""The figures of the report and of the comparison, drawn with matplotlib; equal data give equal bytes.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; lines differ in dash or marker as well.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alol.evaluation.metrics import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"gold": "#E69F00", "reference": "#555555", "policy": "#0072B2"}
DASHES = {"gold": (0, (1, 1)), "reference": (0, (5, 2)), "policy": "solid"}
LABEL_WIDTH = 36  # characters of a line of the comparison's labels
KEPT, DISCARDED = "#0072B2", "#D55E00"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = "osD^vPX<>hp"  # 11 to 7 colours: 77 algorithms look different
BINS = 30
STYLE = {
    "svg.hashsalt": "alol",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Group:
    """One line of the comparison: a run's settings, with one reward per seed."""

    label: str
    rewards: list[float]
    reference: float | None


@dataclass(frozen=True)
class Point:
    """A run's distance from the reference and its reward, with the settings that made it."""

    x: float
    y: float
    label: str


def edges(values: Array, at: float | None = None) -> Array:
    """BINS + 1 bin edges over the values; one edge lies at `at`, where given and within them."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    if at is None or not low < at < high:
        return np.linspace(low, high, BINS + 1)
    width = (high - low) / (BINS - 1)
    return at + width * np.arange(np.floor((low - at) / width), np.ceil((high - at) / width) + 1)


def _canvas(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _styled() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def reward_distribution(bins: Array, shares: Mapping[str, Array], means: Mapping[str, float]) -> bytes:
    """Outlines of the models' reward histograms over the bin edges `bins`, with their means. An SVG file."""
    with _styled():
        figure, axes = _canvas("Reward of test responses", "total reward", "share of prompts")
        for name, share in shares.items():
            style = {"color": COLOURS[name], "linestyle": DASHES[name], "linewidth": 1.8}
            axes.stairs(share, bins, label=f"{name} (mean {means[name]:.3f})", **style)
            axes.plot(means[name], 0, marker="^", markersize=9, color=COLOURS[name], clip_on=False, zorder=4)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9, title="triangles: means", title_fontsize=8)
        return _svg(figure)


def advantage(bins: Array, kept: Array, discarded: Array) -> bytes:
    """Histogram counts of training responses by advantage; the discarded ones hatched. An SVG file."""
    total = int(kept.sum() + discarded.sum())
    with _styled():
        figure, axes = _canvas("Advantage of training responses", "advantage A = R - V(x)", "training responses")
        parts = (("discarded, A <= 0", discarded, DISCARDED, "///"), ("kept, A > 0", kept, KEPT, ""))
        bottom = np.zeros(len(bins) - 1)
        for name, counts, colour, hatch in parts:
            label = f"{name} ({counts.sum() / total:.1%})"
            style = {"color": colour, "edgecolor": "white", "hatch": hatch, "linewidth": 0.5}
            axes.bar(bins[:-1], counts, np.diff(bins), bottom=bottom, align="edge", label=label, **style)
            bottom = bottom + counts
        axes.axvline(0, color="black", linewidth=1)
        axes.legend(loc="best", fontsize=9)
        return _svg(figure)


def violins(groups: Mapping[str, Array]) -> bytes:
    """The distribution of each group of numbers, with its quartiles and median. An SVG file."""
    with _styled():
        figure, axes = _canvas("Value, reward and advantage of training data", "", "reward units")
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
        return _svg(figure)


def loss(updates: Sequence[float], losses: Sequence[float]) -> bytes:
    """Training loss per update and its running mean. An SVG file."""
    window = max(1, len(losses) // 20)
    with _styled():
        figure, axes = _canvas("Training loss", "update", "loss")
        marker = "" if len(losses) > 1 else "o"
        axes.plot(updates, losses, color="#9DC3E0" if window > 1 else KEPT, linewidth=0.9, marker=marker)
        if window > 1:
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            label = f"mean of the last {window} updates"
            axes.plot(updates[window - 1 :], smooth, color=KEPT, linewidth=2, label=label)
            axes.legend(loc="best", fontsize=9)
        return _svg(figure)


def validation(points: Sequence[Mapping[str, float]], selected: bool, score: str) -> bytes:
    """The checkpoints' mean `score` on validation, against the reference's (the point at update 0). An SVG file."""
    reference = [point["reward"] for point in points if point["update"] == 0][:1]
    updates = [point["update"] for point in points]
    rewards = [point["reward"] for point in points]
    kept = int(np.argmax(rewards)) if selected else len(points) - 1
    with _styled():
        figure, axes = _canvas("Validation score", "update", f"mean {score}")
        if reference:
            axes.axhline(reference[0], color=COLOURS["reference"], linestyle=DASHES["reference"], label="reference")
        axes.plot(updates, rewards, color=KEPT, marker="o", markersize=4, label="checkpoints")
        style = {"linestyle": "", "marker": "o", "markersize": 11, "markerfacecolor": "none"}
        axes.plot(updates[kept], rewards[kept], color=DISCARDED, markeredgewidth=2, label="kept checkpoint", **style)
        axes.legend(loc="best", fontsize=9)
        return _svg(figure)


def value(predicted: Array, reward: Array, constant: float) -> bytes:
    """Held-out rewards against the value function's predictions; `constant` is the mean reward. An SVG file."""
    with _styled():
        figure, axes = _canvas("Value of held-out prompts", "predicted value V(x)", "reward of the rollout")
        axes.grid(False)
        style = {"s": 14, "alpha": 0.45, "color": KEPT, "linewidths": 0}
        axes.scatter(predicted, reward, label="one validation prompt", **style)
        ends = [float(predicted.min()), float(predicted.max())]
        axes.plot(ends, ends, color="black", linewidth=1.2, label="V(x) = reward")
        axes.axhline(constant, color=DISCARDED, linestyle=(0, (5, 2)), linewidth=1.4, label="best constant")
        axes.legend(loc="best", fontsize=9)
        return _svg(figure)


def comparison(groups: Sequence[Group], title: str) -> bytes:
    """Mean test reward of each group with a point per seed, the reference as a line. A PNG file."""
    from matplotlib.figure import Figure

    with _styled():
        labels = [textwrap.fill(group.label, LABEL_WIDTH) for group in groups]
        height = 0.25 + 0.15 * max(label.count("\n") + 1 for label in labels)  # inches a group
        figure = Figure(figsize=(7.2, 1.7 + height * len(groups)), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.set_xlabel("mean reward of test responses")
        axes.grid(axis="y", visible=False)
        for i, group in enumerate(groups):
            y = len(groups) - 1 - i
            axes.plot([min(group.rewards), max(group.rewards)], [y, y], color="#9DC3E0", linewidth=3)
            axes.plot(np.mean(group.rewards), y, marker="|", markersize=17, markeredgewidth=3, color="black")
            axes.plot(group.rewards, [y] * len(group.rewards), "o", color=KEPT, markersize=6, markeredgecolor="white")
        _reference_lines(axes, groups)
        _margins(axes, groups)
        axes.set_yticks(range(len(groups)), labels[::-1])
        axes.tick_params(axis="y", length=0)
        return _png(figure)


def frontier(lines: Mapping[str, Sequence[Point]], reference: float | None, title: str) -> bytes:
    """Reward against the distance from the reference: a line per algorithm, over its settings. A PNG file."""
    from matplotlib.figure import Figure

    with _styled():
        figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.set_xlabel("mean of log pi - log pi_ref, per token of the policy's test responses")
        axes.set_ylabel("mean reward of test responses")
        looks = zip(itertools.cycle(LINES), itertools.cycle(MARKERS))
        for (name, points), (colour, marker) in zip(lines.items(), looks, strict=False):
            x, y = ([getattr(point, axis) for point in points] for axis in "xy")
            axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.4, label=name)
            for point in points if len(points) > 1 else ():
                text = textwrap.fill(point.label, LABEL_WIDTH)
                axes.annotate(text, (point.x, point.y), (4, 4), textcoords="offset points", fontsize=6)
        if reference is not None:
            axes.plot(0, reference, "*", color="black", markersize=12, label="reference", linestyle="")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
        return _png(figure)


def verdicts(results: Mapping[str, Any], rates: Sequence[str], title: str) -> bytes:
    """A bar per question, divided by the shares of its outcomes (`results[question][rate]["share"]`). A PNG file."""
    from matplotlib.figure import Figure

    looks = dict(zip(rates, ((KEPT, ""), ("#BBBBBB", ""), (DISCARDED, "///"), ("#FFFFFF", "...")), strict=True))
    with _styled():
        figure = Figure(figsize=(7.2, 2.4), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.set_xlabel("share of prompts")
        axes.grid(axis="y", visible=False)
        start = np.zeros(len(results))
        for rate, (colour, hatch) in looks.items():
            shares = np.array([found[rate]["share"] for found in results.values()])
            style = {"color": colour, "hatch": hatch, "edgecolor": "#555555", "linewidth": 0.5}
            axes.barh(list(results), shares, left=start, label=rate, height=0.6, **style)
            start = start + shares
        axes.set_xlim(0, 1)
        axes.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=len(looks), fontsize=9)
        return _png(figure)


def _reference_lines(axes: Axes, groups: Sequence[Group]) -> None:
    """One line across where all groups share a reference, else one mark per group; and the legend."""
    style: dict[str, Any] = {"color": DISCARDED, "linestyle": (0, (4, 2)), "linewidth": 1.6}
    if len({round(group.reference, 9) for group in groups if group.reference is not None}) == 1:
        axes.axvline(next(group.reference for group in groups if group.reference is not None), **style)
    else:
        for i, group in enumerate(groups):
            if group.reference is not None:
                y = len(groups) - 1 - i
                axes.plot([group.reference] * 2, [y - 0.4, y + 0.4], **style)
    axes.plot([], [], label="reference", **style)
    axes.plot([], [], "o", color=KEPT, markersize=5, label="one seed")
    axes.plot([], [], "|", color="black", markersize=11, markeredgewidth=3, label="mean over seeds")
    axes.figure.legend(loc="outside lower center", ncols=3, fontsize=9)


def _margins(axes: Axes, groups: Sequence[Group]) -> None:
    """Room around the points: half a line above and below, a tenth of the range at the sides."""
    values = [v for group in groups for v in [*group.rewards, *([] if group.reference is None else [group.reference])]]
    low, high = min(values), max(values)
    pad = 0.1 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(-0.6, len(groups) - 0.4)
