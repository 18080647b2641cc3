"""Reward components: one signature for every kind, declared bounds, checked scores; training of those that learn.

May import: base to models. A new kind is an options dataclass (its keys in tasks/shared) and a class with `score`, both
named in `alol.rewards.options.KINDS` (docs/extending.md). `load` gives all components of a task, ready to score.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from alol.config.sections import Launch
from alol.rewards.components import Component, Origin, Rewards, bounds, total
from alol.rewards.options import KINDS, parse

__all__ = ["KINDS", "Component", "Origin", "Rewards", "bounds", "component", "load", "load_both", "total"]


Specs = dict[str, dict[str, Any]]  # component -> its keys, as Params.rewards


def component(name: str, table: dict[str, Any], folder: Path, launch: Launch, where: str | None = None) -> Component:
    """One component, with its models loaded; `folder` is where its fitted state lies, if it has any."""
    where = where or f"rewards.{name}"
    built = parse(table, where)
    module, _, cls = KINDS[table["kind"]][1].partition(":")
    return getattr(importlib.import_module(module), cls)(where, built, folder, launch)


def load_both(specs: Specs, test_specs: Specs, folder: Path, launch: Launch) -> tuple[Rewards, Rewards]:
    """The components that score training and validation texts, and those of the test split; often the same."""
    usual = load(specs, folder, launch)
    return usual, usual if test_specs == specs else load(test_specs, folder, launch)


def load(specs: Specs, folder: Path, launch: Launch) -> Rewards:
    """Every component of `specs` (Params.rewards); `folder` is models/<task>/reward_model."""
    made = {name: component(name, table, folder / name, launch) for name, table in specs.items()}
    return Rewards(made, {name: (table["low"], table["high"]) for name, table in specs.items()})
