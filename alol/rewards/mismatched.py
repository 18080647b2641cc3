"""Negative examples of a response that answers another prompt, so that what fits every prompt is no good answer to any.

Texts that people judged one by one teach what is true, not what belongs together: "to be happy" is a plausible end of
nearly anything. The responses to one prompt and the prompt of another are the usual negatives for that (Lowe et al.
2015, "The Ubuntu Dialogue Corpus", next-utterance classification; Gutmann and Hyvärinen 2010, noise-contrastive
estimation). Both halves are drawn from the examples of the best class, so neither half alone tells the negatives from
these: what does is how much likelier a response is with its prompt than with any (van den Oord et al. 2018).
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from typing import Any

import numpy as np

from alol.base.errors import InputError
from alol.rewards.examples import Examples, Row, parts
from alol.rewards.folds import text
from alol.rewards.options import Classifier, Critic, Preference, Trainable

log = logging.getLogger(__name__)
BEST = 1  # the class of good texts, where an option does not name another


def best(options: Trainable) -> int:
    """The class whose probability the component gives."""
    return int(options.label) if isinstance(options, Classifier) and options.output == "softmax" else BEST


def added(examples: Examples, options: Trainable, where: str) -> Examples:
    """The examples, and `train.mismatched` times as many as are of the best class after them, of the other class.

    Each is the response of one of the best class with the prompt side of another that has another prompt, the same
    relation for a critic, and the same fold, so that no model sees half of what it is measured on. What equals an
    example of the best class, but for case and blanks, is drawn again. Raises InputError where nothing can be drawn.
    """
    share = options.train.mismatched
    if share == 0:
        return examples
    good = best(options)
    chosen = [i for i, target in enumerate(examples.targets) if target == good]
    own = parts(examples, options.train.folds, options.train.holdout)
    pools: dict[Any, list[int]] = defaultdict(list)
    for i in chosen:
        pools[own[i], _relation(examples.rows[i], options)].append(i)
    draw = np.random.default_rng(options.train.seed)
    orders = {name: draw.permutation(pool) for name, pool in pools.items()}
    taken = {_cells(examples.rows[i], examples.rows[i][1], options, where) for i in chosen}
    rows, keys, related, without = [], [], [], 0
    for i in _counted(chosen, share, draw):
        order, response = orders[own[i], _relation(examples.rows[i], options)], examples.rows[i][1]
        start = int(draw.integers(len(order)))
        for j in (int(order[(start + step) % len(order)]) for step in range(len(order))):
            cells = _cells(examples.rows[j], response, options, where)
            if set(examples.related[i]).isdisjoint(examples.related[j]) and cells not in taken:
                break
        else:
            without += 1
            continue
        taken.add(cells)
        prompt, _, context = examples.rows[j]
        rows.append((prompt, response, context))
        keys.append(examples.keys[j])
        related.append(tuple(dict.fromkeys([*examples.related[j], *examples.related[i]])))
    if not rows:
        raise InputError(
            f"{where}.train.mismatched is {share:g}, but no response of class {good} can be given another prompt of "
            "its fold; set it to 0"
        )
    log.info("%s: %d responses stand with another prompt too, as class %d", where, len(rows), 1 - good)
    if without:
        log.info("%s: %d responses are not, for no other prompt of their fold is left", where, without)
    first = len(examples.rows)
    return dataclasses.replace(
        examples,
        rows=[*examples.rows, *rows],
        members=[*examples.members, *((first + n,) for n in range(len(rows)))],
        targets=[*examples.targets, *[1 - good] * len(rows)],
        keys=[*examples.keys, *keys],
        related=[*examples.related, *related],
        mismatched=len(rows),
    )


def _counted(indices: list[int], share: float, draw: np.random.Generator) -> list[int]:
    """Repeats the indices `share` times; a fraction is a random part of them, once more."""
    rest = round((share % 1) * len(indices))
    return [*indices * int(share), *draw.permutation(indices)[:rest].tolist()]


def _relation(row: Row, options: Trainable) -> Any:
    return row[2]["relation"] if isinstance(options, Critic) else None


def _cells(row: Row, response: str, options: Trainable, where: str) -> tuple[str, ...]:
    """What the component reads of the row's prompt side, and the response; equal for texts that differ in case only."""
    prompt, _, context = row
    if isinstance(options, Critic):
        texts = [context["head"], context["relation"], response]
    elif isinstance(options, Preference):
        texts = [prompt, response]
    else:
        texts = [text(name, where, prompt, response, context) for name in options.inputs]
    return tuple(" ".join(part.split()).casefold() for part in texts)
