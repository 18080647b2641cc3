"""The arithmetic of a run of any size: hours, money, bytes and memory of each stage, by rates that were measured.

Nothing is measured here. A rate is a card's figure from its data sheet times the share of it that `benchmarks.gpu`
reached (docs/performance.md, "On a GPU"), which is taken to stay the same for larger models. docs/scale.md explains.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import click

PACKED = 0.5625  # bytes of a weight in NF4, with a scale for each 64
# What was measured, on one H200: updates of LLaMA-7B in NF4 with adapters, its answers, updates of all of GPT-2 XL.
LLAMA = 6.74e9  # parameters
NF4_UPDATE = 3269.0  # useful tokens/s, in passes of 1,536 tokens
NF4_ANSWER = 123.0  # tokens/s, 16 responses at once
NF4_BEYOND = 12.8 * 2**30 - PACKED * LLAMA  # bytes at the peak of such an update, beside the base
NF4_PASS, LLAMA_SHAPE = 1536, 32 * 4096  # tokens; layers x width
SHEET = 989e12  # operations/s of dense bf16 products by the data sheet
WHOLE = 0.364 * 796e12 / SHEET  # share of it that updates of all weights reach
CLEANED = 300_000 / 26.6  # rows/s of one core
# What the code needs.
FROZEN, TRAINED, READ = 4, 6, 2  # operations for a token and weight: of an update by adapters, of all weights; to read
TEXT = 4  # bytes of a token of text, about
STATE = 16  # bytes of a weight that is trained: itself, its gradient and two moments, in fp32
USABLE = 0.8  # of a card's memory, beside which activations must find room
MACHINE = 8  # cards of a machine


@dataclass(frozen=True)
class Case:
    """A run, and the cards that it has."""

    rows: float  # training responses
    tokens: float  # of a row, its prompt's and its response's
    response: float  # of these, the response's
    parameters: float  # of the policy
    layers: float
    width: float
    tuning: str  # qlora | full
    kept: float  # share of the rows that have a positive advantage
    epochs: float  # of train over the rows that are kept
    reference_epochs: float  # over all rows; 0: a published reference
    reward_parameters: float
    prompts: float  # of validation, and as many of test
    evaluations: float  # while training
    pass_tokens: float  # launch.tokens
    cards: float
    peak: float  # operations/s
    memory: float  # bytes of a card
    price: float  # of a card and hour


DEFAULT = Case(
    rows=1e9, tokens=400, response=100, parameters=70e9, layers=80, width=8192, tuning="qlora", kept=0.5, epochs=1,
    reference_epochs=1, reward_parameters=1.4e9, prompts=5000, evaluations=10, pass_tokens=512, cards=512, peak=SHEET,
    memory=80e9, price=2.5,
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """What a stage takes: seconds of all cards together, bytes that it writes, bytes that one process's card holds."""

    name: str
    formula: str
    seconds: float
    written: float
    held: float


def rate(case: Case) -> float:
    """Operations/s of one card with the policy's weights: of its data sheet the share that was measured."""
    share = NF4_UPDATE * FROZEN * LLAMA / SHEET if case.tuning == "qlora" else WHOLE
    return share * case.peak


def least(case: Case) -> int:
    """Cards that hold all weights, gradients and moments, sharded."""
    return math.ceil(STATE * case.parameters / (USABLE * case.memory))


def stages(case: Case) -> list[Stage]:
    """In the pipeline's order; those of a few prompts are counted as if each were read in full."""
    p, r, qlora = case.parameters, case.reward_parameters, case.tuning == "qlora"
    operations = FROZEN if qlora else TRAINED
    policy, reward = rate(case), WHOLE * case.peak
    total, answer = case.rows * case.tokens, NF4_ANSWER * LLAMA / p
    beyond = NF4_BEYOND * case.layers * case.width / LLAMA_SHAPE * case.pass_tokens / NF4_PASS
    weights = PACKED * p if qlora else 2 * p
    update = weights + beyond if qlora else STATE * p
    # sharded weights are put together in fp32 to answer, beside this card's share of gradients and moments
    answering = weights if qlora else (4 + (STATE - 4) / least(case)) * p
    ids = 4 * case.tokens + 4 * case.response
    again = 2 * case.tokens - case.response  # in bf16 each prompt is read once more, for V
    score = READ * r * case.tokens / reward
    trained = case.epochs * case.kept * total
    checks = case.evaluations * case.prompts
    return [
        Stage("annotate", "2 R N T / (w F)", READ * r * total / reward, TEXT * total, 2 * r),
        Stage("reference", f"{operations} P N T e / (u F)", operations * p * total * case.reference_epochs / policy,
              case.rows * 4 * case.tokens, update),
        Stage("rollout", "2 Q A / g", 2 * case.prompts * case.response / answer, 0.0, weights),
        Stage("baseline", "2 R 2 Q T / (w F)", 2 * case.prompts * score, 0.0, 2 * r),
        Stage("value", "2 P Q (T - A) / (u F)", READ * p * case.prompts * (case.tokens - case.response) / policy, 0.0,
              weights),
        Stage("advantage", "2 P N (2 T - A) / (u F)", READ * p * case.rows * again / policy, case.rows * (ids + 20),
              weights),
        Stage("train", f"{operations} P k N T e / (u F)", operations * p * trained / policy,
              case.kept * case.rows * ids, update),
        Stage("validations of train", "v Q (A / g + 2 R T / (w F))", checks * (case.response / answer + score), 0.0,
              answering + 2 * r),
        Stage("evaluate", "Q (A / g + 2 R T / (w F))", case.prompts * (case.response / answer + score), 0.0,
              weights + 2 * r),
    ]  # fmt: skip


def table(case: Case) -> str:
    """Markdown: a line for each stage, and one for all of them."""
    found = stages(case)
    cards = f"days of {case.cards:,.0f} cards"
    lines = [
        f"| stage | card seconds | card-hours | money | {cards} | writes, GB | a card holds, GB | fits |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {one.name} | {one.formula} | {_costs(one.seconds, case)} | {_number(one.written / 1e9)} | "
        f"{_number(one.held / 1e9)} | {'yes' if one.held <= case.memory else '**no**'} |"
        for one in found
    ]
    written = sum(one.written for one in found)
    lines += [f"| all | | {_costs(sum(one.seconds for one in found), case)} | {_number(written / 1e9)} | | |"]
    return "\n".join(lines)


def _costs(seconds: float, case: Case) -> str:
    hours = seconds / 3600
    return f"{_number(hours)} | {_number(hours * case.price)} | {_number(hours / 24 / case.cards)}"


def _number(value: float) -> str:
    """Three digits, or all of those before the point."""
    if 0 < value < 0.01:
        return "under 0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def limits(case: Case) -> Iterator[str]:
    """What does not fit, and what else bounds such a run."""
    p = case.parameters
    reading = p * (PACKED if case.tuning == "qlora" else 2)
    if large := [one.name for one in stages(case) if one.held > case.memory]:
        why = "a process holds the whole policy" if reading > case.memory else "the update's activations come beside it"
        yield f"Does not fit on a card of {_number(case.memory / 1e9)} GB: {', '.join(large)}; {why}."
    if case.tuning == "full":
        yield (
            f"All weights with gradients and moments take {_number(STATE * p / 1e9)} GB: sharded (FSDP2) over "
            f"{least(case):,} cards at least, with {1 - USABLE:.0%} of each left for activations. What reads or "
            "answers needs the whole policy on one card."
        )
    text = _number(TEXT * case.rows * case.tokens / 1e9)
    yield f"clean takes {_number(case.rows / CLEANED / 3600)} hours of one core and writes {text} GB."
    draws = case.epochs * case.kept * case.rows
    host = 12 * case.rows + 4 * case.kept * case.rows + 8 * draws
    yield (
        f"Each process of train holds {_number(host / 1e9)} GB of numbers about rows while it plans, and the {MACHINE} "
        f"of a machine {_number(MACHINE * host / 1e9)} GB."
    )
    yield (
        f"A batch of B responses keeps B cards busy at most: with {case.cards:,.0f} cards train.batch_size is "
        f"{case.cards:,.0f} at least, and an epoch {_number(case.kept * case.rows / case.cards)} updates."
    )


def _options(command: click.Command) -> click.Command:
    """An option for each number of a case."""
    positive = click.FloatRange(0, min_open=True)
    for field in reversed(dataclasses.fields(Case)):
        kind = click.Choice(["qlora", "full"]) if field.name == "tuning" else positive
        if field.name in ("epochs", "reference_epochs", "evaluations"):
            kind = click.FloatRange(0)
        if field.name == "kept":
            kind = click.FloatRange(0, 1, min_open=True)
        name = f"--{field.name.replace('_', '-')}"
        command = click.option(name, type=kind, default=getattr(DEFAULT, field.name), show_default=True)(command)
    return command


@click.command()
@_options
def main(**given: float | str) -> None:
    """Print what each stage of a run takes, and what does not fit."""
    case = Case(**given)
    if case.response > case.tokens:
        raise click.UsageError("--response is the part of --tokens that the response has; it cannot be more")
    click.echo("\n".join([table(case), "", *(f"- {line}" for line in limits(case))]))


if __name__ == "__main__":
    main()
