"""Numbers and columns as the project prints them."""

from __future__ import annotations


def show(value: float | None) -> str:
    """Three decimals, one for numbers such as lengths."""
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def show_p(value: float) -> str:
    """A p-value with three decimals."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def align(lines: list[list[str]], left: int) -> str:
    """Columns of equal width, the first `left` ones flush left; a rule below the header."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
