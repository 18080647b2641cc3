"""What the figures of a comparison show of its groups: rewards by run, and rewards against the distance.

How they are drawn is in `alol.evaluation.comparison_figures`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from alol.evaluation.comparison_figures import Line, Panel, Point
from alol.evaluation.experiments import FIRST, POLICY, UNSET, Group
from alol.evaluation.summary import DISTANCE


def panel(groups: Sequence[Group], title: str) -> Panel:
    """What the figure shows of runs that may be compared."""
    return Panel(title, [_line(g) for g in groups])


def _line(group: Group) -> Line:
    rewards = group.values(FIRST[0])
    ends = [group.values(f"{FIRST[0]}_{end}") for end in ("low", "high")]
    interval = (ends[0][0], ends[1][0]) if len(rewards) == 1 and all(ends) else None
    return Line(group.label, rewards, _mean(group.values(FIRST[1])), interval)


def frontier(groups: Sequence[Group]) -> dict[str, list[Point]]:
    """Line -> its points, by distance from the reference: the groups of one algorithm, without those that did not
    measure it.

    Numbers are strengths, along a line; another word among the settings (a filter, say) makes a line of its own. Points
    name the strengths that vary on their line, and one that stands alone those that are unusual among all lines. Joined
    are those that differ in one of them alone, the one with the most values.
    """
    lines: dict[str, list[Group]] = {}
    measured = [g for g in groups if g.values(f"{POLICY}{DISTANCE}")]
    by_algorithm: dict[str, list[Group]] = {}
    for g in measured:
        by_algorithm.setdefault(g.algorithm, []).append(g)
    for algorithm, kin in sorted(by_algorithm.items()):
        for g in kin:
            words = {key: value for key, value in g.settings.items() if not _is_number(value)}
            name = " ".join(
                [algorithm, *(f"{key}={words[key]}" for key in _varying(kin) if words.get(key, UNSET[0]) not in UNSET)]
            )
            lines.setdefault(name, []).append(g)
    usual = {key: _usual(measured, key) for key in _varying(measured)}
    return {name: sorted(_points(own, usual), key=lambda one: (one.x, one.y)) for name, own in lines.items()}


def _points(groups: Sequence[Group], everywhere: Mapping[str, str]) -> Iterator[Point]:
    """Of the groups of one line; `everywhere` is what is usual among all lines."""
    varying = _varying(groups)
    main = max(varying, key=lambda key: len({g.settings.get(key) for g in groups}), default=None)
    usual = {key: _usual(groups, key) for key in varying if key != main}
    for g in groups:
        other = [key for key, value in usual.items() if g.settings.get(key) != value]
        own = [key for key, value in everywhere.items() if g.settings.get(key, value) != value]
        named = other or ([main] if main else [key for key in own if _is_number(g.settings[key])])
        label = " ".join(f"{key}={g.settings.get(key)}" for key in named)
        distance, reward = (statistics.fmean(g.values(name)) for name in (f"{POLICY}{DISTANCE}", FIRST[0]))
        yield Point(distance, reward, label, joined=not other)


def _varying(groups: Sequence[Group]) -> list[str]:
    """The settings in which the groups differ."""
    keys = dict.fromkeys(key for g in groups for key in g.settings)
    return [key for key in keys if len({g.settings.get(key) for g in groups}) > 1]


def _usual(groups: Sequence[Group], key: str) -> str:
    """The value of a setting that most of the groups have."""
    return statistics.mode(g.settings[key] for g in groups if key in g.settings)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def reference(groups: Sequence[Group]) -> float | None:
    """The reference's mean reward."""
    return _mean([value for g in groups for value in g.values(FIRST[1])])


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
