"""Figures of commands that are no stages, as PNG files: runs side by side, verdicts, what the filter keeps."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alol.evaluation.drawing import DISCARDED, KEPT, png, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL_WIDTH = 36  # characters of a line of the comparison's labels
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
MARKERS = "osD^vPX<>hp"  # 11 to 7 colours: 77 algorithms look different
RANGE, WHISKER = "#9DC3E0", "#777777"
FOOT = 0.9  # inches below the panels, for the legend


@dataclass(frozen=True)
class Line:
    """One line of the comparison: a run's settings, with one reward per seed.

    `interval`: the 95 % bootstrap interval over test prompts, of a run with one seed.
    """

    label: str
    rewards: list[float]
    reference: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """Lines whose rewards mean the same: one task, one reference, one test set."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class Point:
    """A run's distance from the reference and its reward; `label` says which of a line's runs it is.

    `joined`: part of the line; else it stands beside it.
    """

    x: float
    y: float
    label: str
    joined: bool = True


def comparison(panels: Sequence[Panel], title: str = "") -> bytes:
    """Mean test reward of each line with a point per seed, and the reference; each panel has axes of its own.

    Several seeds have their mean as a mark and their range as a bar; one seed has the interval over test prompts.
    """
    from matplotlib.figure import Figure

    with styled():
        labels = [[textwrap.fill(line.label, LABEL_WIDTH) for line in panel.lines] for panel in panels]
        tall = [0.25 + 0.15 * max(label.count("\n") + 1 for label in own) for own in labels]  # inches a line
        heights = [0.7 + height * len(own) for height, own in zip(tall, labels, strict=True)]
        figure = Figure(figsize=(7.2, FOOT + sum(heights)), layout="constrained", dpi=150)
        if title:
            figure.suptitle(title, fontsize=11, fontweight="bold")
        ratios = {"height_ratios": heights}
        for axes, panel, own in zip(
            figure.subplots(len(panels), squeeze=False, gridspec_kw=ratios)[:, 0], panels, labels, strict=True
        ):
            _panel(axes, panel, own)
        axes.set_xlabel("mean reward of test responses")
        _legend(axes, [line for panel in panels for line in panel.lines])
        return png(figure)


def _panel(axes: Axes, panel: Panel, labels: Sequence[str]) -> None:
    axes.set_title(panel.title, fontsize=10, fontweight="bold")
    axes.grid(axis="y", visible=False)
    for i, line in enumerate(panel.lines):
        y = len(panel.lines) - 1 - i
        if len(line.rewards) > 1:
            axes.plot([min(line.rewards), max(line.rewards)], [y, y], color=RANGE, linewidth=3)
            axes.plot(np.mean(line.rewards), y, marker="|", markersize=17, markeredgewidth=3, color="black")
        elif line.interval is not None:
            axes.errorbar(line.rewards, [y], xerr=_reach(line), color=WHISKER, capsize=4, elinewidth=1, linestyle="")
        axes.plot(line.rewards, [y] * len(line.rewards), "o", color=KEPT, markersize=6, markeredgecolor="white")
    _reference_lines(axes, panel.lines)
    _margins(axes, panel.lines)
    axes.set_yticks(range(len(panel.lines)), labels[::-1])
    axes.tick_params(axis="y", length=0)


def _reach(line: Line) -> list[list[float]]:
    """How far the interval goes below and above the one reward, as matplotlib takes it."""
    assert line.interval is not None
    low, high = line.interval
    return [[max(0.0, line.rewards[0] - low)], [max(0.0, high - line.rewards[0])]]


REFERENCE: dict[str, Any] = {"color": DISCARDED, "linestyle": (0, (4, 2)), "linewidth": 1.6}


def _reference_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """One line across where all share a reference's mean, else one mark per line."""
    if len({round(line.reference, 9) for line in lines if line.reference is not None}) == 1:
        axes.axvline(next(line.reference for line in lines if line.reference is not None), **REFERENCE)
        return
    for i, line in enumerate(lines):
        if line.reference is not None:
            y = len(lines) - 1 - i
            axes.plot([line.reference] * 2, [y - 0.4, y + 0.4], **REFERENCE)


def _legend(axes: Axes, lines: Sequence[Line]) -> None:
    """Names what the lines have, and nothing else."""
    axes.plot([], [], label="reference", **REFERENCE)
    axes.plot([], [], "o", color=KEPT, markersize=5, label="one seed")
    if any(len(line.rewards) > 1 for line in lines):
        axes.plot([], [], "|", color="black", markersize=11, markeredgewidth=3, label="mean of the seeds")
        axes.plot([], [], color=RANGE, linewidth=3, label="range of the seeds")
    if any(len(line.rewards) == 1 and line.interval for line in lines):
        label = "95 % interval over test prompts (a run with one seed)"
        axes.errorbar([], [], xerr=[[], []], color=WHISKER, capsize=4, elinewidth=1, linestyle="", label=label)
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize=9)


def _margins(axes: Axes, lines: Sequence[Line]) -> None:
    """Room around the points: half a line above and below, a tenth of the range at the sides."""
    values = [value for line in lines for value in [*line.rewards, *_ends(line)]]
    low, high = min(values), max(values)
    pad = 0.1 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(-0.6, len(lines) - 0.4)


def _ends(line: Line) -> list[float]:
    """What a line shows beside its rewards."""
    interval = line.interval if len(line.rewards) == 1 and line.interval else ()
    return [*interval, *([] if line.reference is None else [line.reference])]


def by_setting(
    found: Mapping[str, Mapping[str, Sequence[float]]], values: Sequence[str], metric: str, setting: str, title: str
) -> bytes:
    """The mean gain of each line at each value of a setting, with the range of its seeds. A PNG file."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.axhline(0.0, color=DISCARDED, linestyle=(0, (4, 2)), linewidth=1.6, label="the reference")
        for i, (label, line) in enumerate(found.items()):
            at = [k for k, value in enumerate(values) if value in line]
            means = [float(np.mean(line[values[k]])) for k in at]
            ends = [[abs(end(line[values[k]]) - mean) for k, mean in zip(at, means, strict=True)] for end in (min, max)]
            colour, marker = LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]
            beside = [k + 0.04 * (i - (len(found) - 1) / 2) for k in at]  # so that ranges do not cover each other
            axes.errorbar(beside, means, yerr=ends, color=colour, marker=marker, capsize=2, elinewidth=1, label=label)
        axes.set_xticks(range(len(values)), values)
        axes.set_xlabel(setting)
        axes.set_ylabel(f"{metric}: policy less reference")
        figure.legend(loc="outside lower center", ncols=4, fontsize=9)
        return png(figure)


def frontier(lines: Mapping[str, Sequence[Point]], reference: float | None, title: str) -> bytes:
    """Reward against the distance from the reference: a line per algorithm, over its strengths. A PNG file."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(7.2, 5.0), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.set_xlabel("mean of log pi - log pi_ref, per token of the policy's test responses")
        axes.set_ylabel("mean reward of test responses")
        looks = zip(itertools.cycle(LINES), itertools.cycle(MARKERS))
        labels = []
        for (name, points), (colour, marker) in zip(lines.items(), looks, strict=False):
            style = {"color": colour, "marker": marker, "markersize": 6}
            for joined in (True, False):
                x, y = ([getattr(point, axis) for point in points if point.joined is joined] for axis in "xy")
                axes.plot(x, y, linewidth=1.4 if joined else 0, label=name if joined else None, **style)
            labels += [(point, colour) for point in points if point.label]
        if reference is not None:
            axes.plot(0, reference, "*", color="black", markersize=12, label="reference", linestyle="")
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        _label(axes, labels, [(point.x, point.y) for points in lines.values() for point in points])
        return png(figure)


def who_beats_whom(labels: Sequence[str], differences: np.ndarray, shown: np.ndarray, title: str) -> bytes:
    """How much higher the reward of a line's run is than that of a column's, prompt by prompt. A PNG file.

    `differences` [N, N]; where `shown` [N, N] is false one is not shown to be better, and the number is grey on white.
    """
    from matplotlib.figure import Figure

    with styled():
        size = 0.42 * len(labels)
        figure = Figure(figsize=(max(5.0, 2.6 + size), max(3.6, 2.2 + size)), layout="constrained", dpi=150)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.grid(visible=False)
        limit = float(np.abs(differences).max()) or 1.0
        cells = np.where(shown, differences, np.nan)
        image = axes.imshow(np.ma.masked_invalid(cells), cmap="RdBu", vmin=-limit, vmax=limit)
        for i, j in itertools.product(range(len(labels)), repeat=2):
            if i != j:
                dark = shown[i, j] and abs(differences[i, j]) > 0.6 * limit
                colour = "white" if dark else "black" if shown[i, j] else "#999999"
                text = f"{differences[i, j]:+.2f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=6, color=colour)
        axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(labels)), labels, fontsize=7)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, shrink=0.7, label="reward of the line's run less the column's")
        return png(figure)


SIDES = [(6, 4, "left"), (6, -9, "left"), (-6, 4, "right"), (-6, -9, "right"), (0, 9, "center"), (0, -14, "center")]


def _label(axes: Axes, labels: Sequence[tuple[Point, str]], marks: Sequence[tuple[float, float]]) -> None:
    """Writes each label beside its point, on the side where it covers the fewest of the labels and marks before it."""
    figure: Any = axes.figure
    figure.draw_without_rendering()  # which settles where the axes lie
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    places = axes.transData.transform(np.array(marks)) if marks else np.empty((0, 2))
    taken: list[Any] = []
    for point, colour in labels:
        tried = []
        for x, y, side in SIDES:
            options: dict[str, Any] = {"textcoords": "offset points", "ha": side, "fontsize": 6.5, "color": colour}
            text = axes.annotate(point.label, (point.x, point.y), (x, y), **options)
            box = text.get_window_extent(renderer)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            covered = sum(box.overlaps(one) for one in taken) + sum(box.contains(*place) for place in places)
            tried.append((covered + (0 if inside else 10), len(tried), text, box))
        *_, best, box = min(tried, key=lambda one: one[:2])
        taken.append(box)
        for *_, text, _ in tried:
            if text is not best:
                text.remove()


def lunch(curve: Sequence[Mapping[str, float | None]], title: str) -> bytes:
    """What each threshold of the advantage keeps: the share of responses and their mean reward; with labels, precision.

    `curve` as alol.evaluation.lunch.curve makes it. A PNG file.
    """
    from matplotlib.figure import Figure

    with styled():
        names = {"reward": "mean reward of what is kept"}
        if "precision" in curve[0]:
            names |= {"precision": "precision: share of what is kept that is labelled good"}
        figure = Figure(figsize=(7.2, 2.6 * len(names) + 0.6), layout="constrained", dpi=150)
        panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for axes, (name, label), colour in zip(panels, names.items(), (KEPT, DISCARDED), strict=False):
            shares, values = ([line[key] for line in curve if line[name] is not None] for key in ("share", name))
            axes.plot(shares, values, color=colour, linewidth=1.6)
            at = next((line for line in curve if line["threshold"] == 0 and line[name] is not None), None)
            if at is not None:
                axes.plot(at["share"], at[name], "o", color="black", markersize=6, label="A > 0")
                axes.legend(loc="best", fontsize=9)
            axes.set_ylabel(label.replace(": ", ":\n"), fontsize=8)
        panels[0].set_title(title, fontsize=11, fontweight="bold")
        panels[-1].set_xlabel("share of the responses that a threshold of A keeps")
        panels[-1].set_xlim(1, 0)
        return png(figure)


def verdicts(results: Mapping[str, Any], rates: Sequence[str], title: str) -> bytes:
    """A bar per question, divided by the shares of its outcomes (`results[question][rate]["share"]`). A PNG file."""
    from matplotlib.figure import Figure

    looks = dict(zip(rates, ((KEPT, ""), ("#BBBBBB", ""), (DISCARDED, "///"), ("#FFFFFF", "...")), strict=True))
    with styled():
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
        return png(figure)
