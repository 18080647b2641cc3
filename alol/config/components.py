"""What a task leaves out of its reward components and its format comes from the defaults of their kinds.

Plain tables in, plain tables out: `alol.rewards` and `alol.data.formats` build dataclasses of them.
"""

from __future__ import annotations

from typing import Any

from alol.base.errors import ParameterError
from alol.config.build import merge, table
from alol.config.ranges import check_name


def named(own: Any, where: str, what: str) -> dict[str, Any]:
    """A table whose keys are the user's own names."""
    if not isinstance(own, dict):
        raise ParameterError(where, f"is {own!r:.80}, but must be a table of keys")
    for name in own:
        if problem := check_name(name, what):
            raise ParameterError(where, f"is wrong: {problem}")
    return own


def rewards(defaults: Any, own: Any, where: str) -> dict[str, dict[str, Any]]:
    """Each component's keys over its kind's, and its `train:` (and a nested `scorer`) over the training defaults.

    `defaults` are the content of tasks/shared/rewards.yaml.
    """
    if not named(own, where, "component"):
        raise ParameterError(where, "must name at least one reward component")
    return {name: _component(defaults, given, f"{where}.{name}") for name, given in own.items()}


def test_rewards(defaults: Any, own: Any, changes: Any, where: str) -> dict[str, dict[str, Any]]:
    """The components of `own`, with the `changes` of those that score the test split otherwise."""
    for name in table(changes, where):
        if name not in own:
            raise ParameterError(f"{where}.{name}", f"is no reward component; known: {', '.join(sorted(own))}")
    merged = {name: merge(own[name], changes.get(name, {}), f"{where}.{name}") for name in own}
    return rewards(defaults, merged, where)


def _component(defaults: dict, own: Any, where: str) -> dict[str, Any]:
    if not isinstance(own, dict) or "kind" not in own:
        raise ParameterError(where, f"needs a `kind`; known: {', '.join(sorted(defaults['kinds']))}")
    kind = _kind(defaults["kinds"], own["kind"], where)
    merged = merge(kind, {**own, "kind": kind["kind"]}, where)
    if merged.get("train") is not None:
        merged["train"] = merge(defaults["training"], merged["train"], f"{where}.train")
    if merged.get("scorer") is not None:
        merged["scorer"] = _component(defaults, merged["scorer"], f"{where}.scorer")
    return merged


def _kind(kinds: dict, name: Any, where: str) -> dict[str, Any]:
    """The keys of a kind, and those of the kind that it is made of, if it has a `kind` of its own."""
    if not isinstance(name, str) or name not in kinds:
        listed = ", ".join(sorted(map(str, kinds)))
        raise ParameterError(f"{where}.kind", f"is {name!r:.80}, which is no reward kind; known: {listed}")
    own = table(kinds[name], f"rewards.kinds.{name}")
    if "kind" not in own:
        return {**own, "kind": name}
    others = {key: kind for key, kind in kinds.items() if key != name}  # it cannot be made of itself
    base = _kind(others, own["kind"], f"rewards.kinds.{name}")
    return merge(base, {**own, "kind": base["kind"]}, where)
