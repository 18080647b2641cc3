"""Fits one network to the examples of a reward: its loss, the order of its batches, and AdamW.

What is fitted, and to which examples, is settled in `alol.rewards.training`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    """Batches of indices: each epoch in a new order, and, within chunks of many batches, similar lengths together."""
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(len(lengths))
        for start in range(0, len(order), CHUNK * size):
            chunk = order[start : start + CHUNK * size]
            batches = list(by_length(lengths[chunk], size))
            for i in draw.permutation(len(batches)):
                yield chunk[batches[i]]


def _parts(lengths: np.ndarray, size: int, options: Trainable) -> list[list[int]]:
    """Splits the examples of a batch, of `size` rows each, into parts of at most `batch_size` rows and `batch_tokens`.

    These limits are the component's and not those of `launch`, on which no stage depends: other parts round sums
    otherwise.
    """
    rows, tokens = max(1, options.batch_size // size), options.batch_tokens // size
    if len(lengths) <= rows and len(lengths) * lengths.max() <= tokens:
        return [list(range(len(lengths)))]
    return chunks(lengths.tolist(), rows, tokens)


@dataclass(frozen=True)
class Dataset:
    """Examples with the token ids of their rows. `scale` standardises the numbers to learn; None: there are none."""

    examples: Examples
    encoded: list[Encoded]
    scale: Scale | None = None

    def lengths(self, indices: Sequence[int]) -> np.ndarray:
        """The tokens of the longest row of each example."""
        return np.array([max(len(self.encoded[row].ids) for row in self.examples.members[i]) for i in indices])

    def targets(self, indices: Sequence[int]) -> list[float]:
        mean, std = self.scale or (0.0, 1.0)
        targets = [self.examples.targets[i] for i in indices]
        return [(target - mean) / std for target in targets] if self.scale else targets


def accumulate(network: Network, dataset: Dataset, batch: Sequence[int], options: Trainable) -> None:
    """Adds the gradient of the batch's mean loss, computed in parts of what may be scored together."""
    examples, encoded = dataset.examples, dataset.encoded
    kind = torch.float32 if examples.objective == "scores" else torch.long
    bf16 = options.train.precision == "bf16"
    for part in _parts(dataset.lengths(batch), len(examples.members[0]), options):
        indices = [batch[place] for place in part]
        members = [examples.members[i] for i in indices]
        rows = [encoded[row] for column in zip(*members, strict=True) for row in column]
        with torch.autocast(network.model.device.type, torch.bfloat16, enabled=bf16):
            logits = network.logits(rows).float()
        targets = torch.tensor(dataset.targets(indices), dtype=kind, device=logits.device)
        mean = loss(logits, targets, examples.objective)
        (mean if len(part) == len(batch) else mean * (len(part) / len(batch))).backward()


def fit(
    network: Network, dataset: Dataset, indices: Sequence[int], options: Trainable, title: str, progress: Progress
) -> None:
    """Trains with AdamW on the examples `indices`, with a learning rate that falls linearly to 0 over all epochs.

    `progress` restores the state of an earlier run that was killed, and writes that of this one.
    """
    train = options.train
    trainable = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    indices = np.asarray(indices)
    lengths = dataset.lengths(indices)
    steps = train.epochs * math.ceil(len(indices) / train.batch_size)  # chunks are whole batches, but for the last
    optimizer = torch.optim.AdamW(trainable, lr=train.lr, weight_decay=train.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    done = 0
    if restored := progress.restore(network.model, optimizer):
        done = restored[0]["step"]
        schedule.load_state_dict(restored[0]["schedule"])
    network.model.train()
    left = itertools.islice(_batches(lengths, train.batch_size, train.epochs, train.seed), done, None)
    bar = tqdm(left, title, initial=done, total=steps, unit="batch")
    for step, batch in enumerate(bar, start=done + 1):
        optimizer.zero_grad()
        accumulate(network, dataset, indices[batch], options)
        optimizer.step()
        schedule.step()
        if progress.due():
            progress.write(network.model, optimizer, {"step": step, "schedule": schedule.state_dict()})
    network.model.eval()
