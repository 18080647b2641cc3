"""What a parameter may be beyond its type, declared beside it: `lr: Annotated[float, above(0)]`.

`alol.config.build` asks each constraint for what is wrong with a value. A constraint's text stands in messages and in
the comment of the parameter's line in the YAML files, which a test compares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

LARGEST = 2**31 - 1  # of every integer: libraries below count in 32 bits
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
NAME_RULE = "begin with a letter and go on with letters, digits, _ and -"


@dataclass(frozen=True)
class Range:
    """An interval of numbers; `None` is an open end, `low_open` and `high_open` leave the end itself out."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a number; None when it lies in the range."""
        below = self.low is not None and (value <= self.low if self.low_open else value < self.low)
        beyond = self.high is not None and (value >= self.high if self.high_open else value > self.high)
        return f"must be {self}" if below or beyond else None

    def __str__(self) -> str:
        if self.low is None and self.high is None:
            return "any number"
        if not self.low_open and not self.high_open and self.low is not None and self.high is not None:
            return f"from {self.low:,} to {self.high:,}"
        low = "" if self.low is None else f"{'above' if self.low_open else 'at least'} {self.low:,}"
        high = "" if self.high is None else f"{'below' if self.high_open else 'at most'} {self.high:,}"
        return " and ".join(end for end in (low, high) if end)


@dataclass(frozen=True)
class Length:
    """How many items a list has."""

    count: int

    def problem(self, value: Any) -> str | None:
        return None if len(value) == self.count else f"must be a list of {self.count}"


@dataclass(frozen=True)
class Ends:
    """Two ends of an interval, either of which may be open (None)."""

    def problem(self, value: Any) -> str | None:
        ordered = len(value) == 2 and (None in value or value[0] <= value[1])
        return None if ordered else "must be [lowest, highest], null for an open end"


@dataclass(frozen=True)
class NotEmpty:
    """A text or a list that holds something."""

    def problem(self, value: Any) -> str | None:
        return None if value else "must not be empty"


def at_least(low: float) -> Range:
    return Range(low)


def above(low: float) -> Range:
    return Range(low, low_open=True)


def between(low: float, high: float) -> Range:
    """Both ends included."""
    return Range(low, high)


ANY = Range()
Count = Annotated[int, at_least(1)]
Tokens = Annotated[int, between(1, 1_000_000)]
Updates = Annotated[int, between(1, 10_000_000)]  # what is drawn for all of them is held in memory
Epochs = Annotated[float, Range(0, 100_000, low_open=True)]
Passes = Annotated[int, between(1, 100_000)]  # whole epochs
Evaluations = Annotated[int, between(1, 100_000)]
Resamples = Annotated[int, between(10, 10_000_000)]  # of fewer an interval says nothing
Shown = Annotated[int, between(0, 10_000)]  # in the report
Seed = Annotated[int, at_least(0)]
Size = Annotated[int, between(1, 65536)]  # hidden states, heads
Layers = Annotated[int, between(1, 1000)]
Number = Annotated[float, ANY]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]
Rate = Annotated[float, Range(0, 100, low_open=True)]  # a learning rate
Seconds = Annotated[float, between(0, 86_400)]
Share = Annotated[float, between(0, 1)]
Part = Annotated[float, Range(0, 1, low_open=True, high_open=True)]  # something, and something is left
UpToOne = Annotated[float, Range(0, 1, low_open=True)]  # nucleus sampling's top_p
BelowOne = Annotated[float, Range(0, 1, high_open=True)]  # dropout, Adam's betas
Text = Annotated[str, NotEmpty()]
Interval = Annotated[list[Number | None], Ends()]


def check_name(value: Any, what: str) -> str | None:
    """What is wrong with the name of a task, component or source: it is a YAML text of NAME's form."""
    if not isinstance(value, str):
        return f"the {what} {value!r} is no text in YAML; choose a name that does: {NAME_RULE}"
    return None if NAME.fullmatch(value) else f"the {what} {value!r} must {NAME_RULE}"
