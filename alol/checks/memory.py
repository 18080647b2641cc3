"""What each stage that runs the policy will need of memory, worked out from the policy's shape before a weight is read.

And with which keys of `launch` it fits. Of reward models the weights are counted, not what they need while they score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alol.base.text import align
from alol.checks.policy_shape import Shape
from alol.config.params import Params

GIB = 2**30
LIBRARIES, ADAPTERS = 0.46 * GIB, 0.09 * GIB  # torch and transformers in a process, and peft beside them
STATES = 3  # numbers beside each trained weight: its gradient and AdamW's two moments
BLOCK = 2**25 * 4  # bytes of the logits held at once, alol.compute.projection
KERNELS = 0.15 * GIB  # what a processor's library for 16 bits keeps of the shapes of batches that it has met


@dataclass(frozen=True)
class Need:
    """Bytes of one stage by what they are for; `tokens` of a pass and `slots` of a generation are the most it takes."""

    stage: str
    parts: dict[str, float]
    tokens: int
    slots: int = 0

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def needs(p: Params, shape: Shape, *, accelerator: bool) -> list[Need]:
    """What each stage that runs the policy needs at most: full texts, as many at once as `launch` lets."""
    longest = p.policy.max_prompt + p.policy.max_response
    process = LIBRARIES + (ADAPTERS if p.policy.tuning != "full" else 0.0)
    if p.launch.precision == "bf16":
        process += KERNELS
    libraries = {"libraries": 0.0 if accelerator else process, "weights": shape.weights}
    slots, span = p.launch.generate_batch, p.policy.max_prompt + p.generate.max_new_tokens
    answering = {
        "activations": _of_a_layer(shape) * max(p.launch.tokens, p.policy.max_prompt),
        "logits": 12.0 * slots * shape.vocabulary,  # in fp32, and their sums in fp64
        "keys and values": shape.cached_per_token * slots * span,
    }

    def tokens(batch: int) -> int:
        return min(max(p.launch.tokens, longest), min(batch, p.launch.micro_batch) * longest)

    def training(stage: str, batch: int, scorers: float, more: dict[str, float]) -> Need:
        count = tokens(-(-batch // p.launch.processes))
        kept = shape.kept_per_token * count
        if p.launch.recompute:  # the inputs of the layers, and one layer at a time
            kept = kept / shape.layers + shape.layers * shape.width * shape.bytes * count
        in_hand = shape.kept_per_token / shape.layers * count  # gradients on their way through a layer
        logits = min(BLOCK, shape.vocabulary * 4.0 * batch * p.policy.max_response)
        pass_ = {"activations": shape.kept_always + kept + in_hand, "logits": logits}
        held = {**libraries, "trained": (1 + STATES) * shape.trained, "rewards": scorers}
        if p.launch.shard and p.launch.processes > 1:
            one = {**libraries, "trained": shape.trained, "rewards": scorers}
            validation = Need(stage, {**one, **more}, p.launch.tokens, slots) if more else reading(stage)
            return _sharded(Need(stage, {**held, **pass_}, count), validation, shape, p.launch.processes)
        larger = max(pass_, more, key=lambda parts: sum(parts.values()))  # an update, or answers for the validation
        return Need(stage, {**held, **larger}, count, slots if larger is more else 0)

    def reading(stage: str) -> Need:
        count = tokens(p.launch.micro_batch)
        parts = {
            "trained": shape.trained,
            "activations": _of_a_layer(shape) * count,
            "logits": min(BLOCK, shape.vocabulary * 4.0 * count),
        }
        return Need(stage, {**libraries, **parts}, count)

    def generation(stage: str, scorers: float) -> Need:
        held = {**libraries, "trained": shape.trained}
        parts = {**held, **answering, "rewards": scorers}
        if accelerator:  # which has the answers' memory for the rewards, once they are given
            parts = max({**held, **answering}, {**held, "rewards": scorers}, key=lambda parts: sum(parts.values()))
        return Need(stage, parts, p.launch.tokens, p.launch.generate_batch if "logits" in parts else 0)

    found = [training("reference", p.reference.batch_size, 0.0, {})] if p.reference.train else []
    found += [generation("rollout", 0.0), reading("advantage")]
    found += [
        training("train", p.train.batch_size, shape.rewards, answering),
        generation("evaluate", shape.test_rewards),
    ]
    return found if accelerator else [_at_least(need, process + shape.loading) for need in found]


def _sharded(need: Need, validation: Need, shape: Shape, processes: int) -> Need:
    """What a process needs at most where so many share the weights: while it trains (`need`), or in its validation.

    While it trains it has its part, and whole what computes: two blocks and what lies outside of blocks, with their
    gradients. In the validation it has all weights whole, beside its part of them and of the moments.
    """

    def computing(size: float) -> float:
        return min(size, 2 * size / shape.layers + 8.0 * shape.vocabulary * shape.width)

    part = (1 + STATES) * shape.trained / processes
    training = {"trained": part + 2 * computing(shape.trained), "weights": shape.weights / processes}
    training["weights"] += computing(shape.weights)
    validating = {"trained": (1 + STATES / processes) * shape.trained, "weights": (1 + 1 / processes) * shape.weights}
    both = ((need, training), (validation, validating))
    return max((dataclasses.replace(one, parts={**one.parts, **held}) for one, held in both), key=lambda one: one.total)


def _at_least(need: Need, bytes_: float) -> Need:
    """A processor holds the weights as they are read beside those that are used, for a moment."""
    more = bytes_ + need.parts.get("trained", 0.0) - need.total
    return dataclasses.replace(need, parts={**need.parts, "while reading": max(0.0, more)})


def _of_a_layer(shape: Shape) -> float:
    """Bytes a token, without a backward pass: the widest layer's inputs and outputs at once."""
    return (6 * shape.width + 3 * shape.inner) * shape.bytes


def fitting(p: Params, shape: Shape, available: float, *, accelerator: bool) -> dict[str, Any] | None:
    """Keys of `launch` with which every stage fits into `available` bytes, those that differ from what is set: fewer
    prompts at once, fewer tokens of a pass, then activations computed again; None where nothing helps."""
    longest = p.policy.max_prompt + p.policy.max_response
    for recompute in dict.fromkeys((p.launch.recompute, True)):
        launch = dataclasses.replace(p.launch, recompute=recompute)
        while True:
            found = needs(dataclasses.replace(p, launch=launch), shape, accelerator=accelerator)
            large = [need for need in found if need.total > available]
            if not large:
                return {key: value for key, value in vars(launch).items() if value != getattr(p.launch, key)}
            if any(need.slots for need in large) and launch.generate_batch > 1:
                launch = dataclasses.replace(launch, generate_batch=launch.generate_batch // 2)
            elif launch.tokens > longest:
                launch = dataclasses.replace(launch, tokens=max(longest, launch.tokens // 2))
            else:
                break
    return None


COLUMNS = ("weights", "trained", "activations", "logits", "keys and values", "rewards", "libraries", "while reading")


def table(found: Sequence[Need]) -> str:
    """GiB of each stage, and what they are for."""
    header = ["stage", "GiB", *COLUMNS, "tokens of a pass", "answers at once"]
    rows = [
        [
            need.stage,
            *(f"{size / GIB:.2f}" for size in (need.total, *(need.parts.get(name, 0.0) for name in COLUMNS))),
            str(need.tokens),
            str(need.slots or ""),
        ]
        for need in found
    ]
    return align([header, *rows], left=1)
