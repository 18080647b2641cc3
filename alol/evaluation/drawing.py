"""How every figure looks: its colours, its fonts, and its bytes, which are equal for equal data.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; lines differ in dash or marker as well.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"gold": "#E69F00", "reference": "#555555", "policy": "#0072B2"}
DASHES = {"gold": (0, (1, 1)), "reference": (0, (5, 2)), "policy": "solid"}
KEPT, DISCARDED = "#0072B2", "#D55E00"
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


def styled() -> Any:
    """A context in which matplotlib draws in STYLE."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def canvas(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure of the report with one pair of axes, which have these labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
