"""Fits one network to the examples of a reward: its loss, the order of its batches, and AdamW.

What is fitted, and to which examples, is settled in `alol.rewards.training`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid, mse_loss
from tqdm import tqdm

from alol.compute.batching import chunks
from alol.compute.progress import Progress
from alol.rewards.examples import Examples
from alol.rewards.network import Encoded, Network, by_length
from alol.rewards.options import Objective, Trainable

Scale = tuple[float, float]  # mean and standard deviation
CHUNK = 32  # batches that are sorted by length together


def loss(logits: torch.Tensor, targets: torch.Tensor, objective: Objective) -> torch.Tensor:
    """Mean over the examples: -log sigmoid(s_better - s_worse) of pairs (Bradley-Terry), cross-entropy of classes, or
    squared errors of (standardised) numbers.

    `logits` [B, C]; of pairs [2 x B, 1], the better responses first.
    """
    if objective == "pairs":
        better, worse = logits[:, 0].chunk(2)
        return -logsigmoid(better - worse).mean()
    if objective == "scores":
        return mse_loss(logits[:, 0], targets.to(logits.dtype))
    if logits.shape[-1] == 1:
        return binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype))
    return cross_entropy(logits, targets)


def _batches(lengths: np.ndarray, size: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
    """Every epoch in a new order; within chunks of many batches, examples of like lengths go together."""
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(len(lengths))
        for start in range(0, len(order), CHUNK * size):
            chunk = order[start : start + CHUNK * size]
            batches = list(by_length(lengths[chunk], size))
            for i in draw.permutation(len(batches)):
                yield chunk[batches[i]]


def _parts(lengths: np.ndarray, size: int, options: Trainable) -> list[list[int]]:
    """The places of a batch's examples, of `size` rows each, in parts of at most `batch_size` and `batch_tokens`.

    Not those of `launch`, which no stage depends on: in other parts sums are rounded otherwise.
    """
    rows, tokens = max(1, options.batch_size // size), options.batch_tokens // size
    if len(lengths) <= rows and len(lengths) * lengths.max() <= tokens:
        return [list(range(len(lengths)))]
    return chunks(lengths.tolist(), rows, tokens)


def _lengths(encoded: list[Encoded], examples: Examples, chosen: Sequence[int]) -> np.ndarray:
    return np.array([max(len(encoded[row].ids) for row in examples.members[i]) for i in chosen])


def accumulate(
    network: Network,
    encoded: list[Encoded],
    examples: Examples,
    batch: Sequence[int],
    options: Trainable,
    scale: Scale | None = None,
) -> None:
    """Adds the gradient of the batch's mean loss, computed in parts; `scale` standardises numbers to learn."""
    mean, std = scale or (0.0, 1.0)
    kind = torch.float32 if examples.objective == "scores" else torch.long
    bf16 = options.train.precision == "bf16"
    for part in _parts(_lengths(encoded, examples, batch), len(examples.members[0]), options):
        some = [batch[place] for place in part]
        members = [examples.members[i] for i in some]
        rows = [encoded[row] for column in zip(*members, strict=True) for row in column]
        targets = [(examples.targets[i] - mean) / std if scale else examples.targets[i] for i in some]
        with torch.autocast(network.model.device.type, torch.bfloat16, enabled=bf16):
            logits = network.logits(rows).float()
        found = loss(logits, torch.tensor(targets, dtype=kind, device=logits.device), examples.objective)
        (found if len(part) == len(batch) else found * (len(part) / len(batch))).backward()


def fit(
    network: Network,
    encoded: list[Encoded],
    examples: Examples,
    chosen: Sequence[int],
    options: Trainable,
    title: str,
    progress: Progress,
    scale: Scale | None = None,
) -> None:
    """AdamW with a learning rate that falls linearly to 0, over `epochs` of the chosen examples.

    A batch goes through the model in parts of what may be scored together; `scale` standardises numbers to learn.
    `progress` says where an earlier run was killed.
    """
    train = options.train
    trainable = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    chosen = np.asarray(chosen)
    lengths = _lengths(encoded, examples, chosen)
    steps = train.epochs * math.ceil(len(chosen) / train.batch_size)  # chunks are whole batches, but for the last
    optimizer = torch.optim.AdamW(trainable, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    done = 0
    if found := progress.restore(network.model, optimizer):
        done = found[0]["step"]
        schedule.load_state_dict(found[0]["schedule"])
    network.model.train()
    left = itertools.islice(_batches(lengths, train.batch_size, train.epochs, train.seed), done, None)
    bar = tqdm(left, title, initial=done, total=steps, unit="batch")
    for step, batch in enumerate(bar, start=done + 1):
        optimizer.zero_grad()
        accumulate(network, encoded, examples, chosen[batch], options, scale)
        optimizer.step()
        schedule.step()
        if progress.due():
            progress.write(network.model, optimizer, {"step": step, "schedule": schedule.state_dict()})
    network.model.eval()
