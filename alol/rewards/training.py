"""Trains the reward components that have a `train` section, and fits tf-idf.

A component whose examples share prompts with the training split gets one model per fold, which has not seen the fold's
prompts, and a full one for everything else. Reported accuracy is always that on examples the model has not seen.
"""

from __future__ import annotations

import itertools
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid
from tqdm import tqdm

from alol.base.errors import InputError, known
from alol.base.files import read_json, replacing, write_json
from alol.base.work import Work
from alol.compute.progress import Progress
from alol.config import model_names
from alol.config.params import SETTINGS
from alol.config.sections import Launch
from alol.data import schema
from alol.models.loading import quiet
from alol.rewards import tfidf, untrained
from alol.rewards.critic import sentences
from alol.rewards.examples import Examples, divide, gather
from alol.rewards.folds import fold_folder, text
from alol.rewards.network import Encoded, Network, all_logits, by_length, device
from alol.rewards.options import FULL, Critic, Preference, Tfidf, Trainable, Training, fitted
from alol.rewards.preference import dialogue

log = logging.getLogger(__name__)
HITS = "hits.json"
CHUNK = 32  # batches that are sorted by length together


def train(
    specs: dict[str, dict[str, Any]], clean: Path, folder: Path, launch: Launch, work: Work | None = None
) -> dict[str, dict[str, float]]:
    """Writes the fitted state of every component to `folder`; component -> accuracy, rows (measured on) and models.

    `specs` are written beside it, as by `alol.config.params.keep`. `work`: where a run that is killed leaves what it
    has done, and this one goes on.
    """
    metrics: dict[str, dict[str, float]] = {}
    with replacing(folder) as partial:
        partial.mkdir()
        for name, options in fitted(specs):
            if isinstance(options, Tfidf):
                groups = schema.read(_texts(clean, options, f"rewards.{name}"), ["response"])
                tfidf.save(partial / name, tfidf.fit(row["response"] for group in groups for row in group))
            elif isinstance(options, Trainable) and options.train is not None:
                own = work.of(name) if work is not None else None
                metrics[name] = _Trainer(name, options, clean, launch, own).run(partial / name)
        write_json(partial / SETTINGS, {"rewards": specs})
    return metrics


def _texts(clean: Path, options: Tfidf, where: str) -> Path:
    """The table that tf-idf is fitted to."""
    if options.texts is None:
        return clean / "train.parquet"
    path = clean / "texts" / f"{options.texts}.parquet"
    if not path.exists():
        given = {path.stem for path in path.parent.glob("*.parquet")} or ["none; write null for the training responses"]
        raise known(f"text table at {where}.texts:", options.texts, given)
    return path


class _Trainer:
    """Trains the models of one component."""

    def __init__(self, name: str, options: Trainable, clean: Path, launch: Launch, work: Work | None) -> None:
        self.work = work
        self.name, self.where, self.options, self.launch = name, f"rewards.{name}", options, launch
        train = options.train
        if train.init != "scratch":
            model_names.check_sha256(train.init, train.init_sha256, f"{self.where}.train.init_sha256")
        self.examples = gather(clean, options, self.where)
        self.tokenizer = self._tokenizer()
        self.encoded = self._network().encode(*zip(*self.examples.rows, strict=True))

    def run(self, folder: Path) -> dict[str, float]:
        train = self.options.train
        held = divide(self.examples, train.folds, train.holdout)
        everything, hits = range(len(self.examples.members)), []
        for number, (out, kept) in enumerate(held):
            if len(kept) == len(everything):  # the full model has not seen this fold's prompts either
                continue
            if not kept:
                raise InputError(f"{self.where}.train: all examples have the same prompt, so none can be held out")
            title = f"{self.name}, fold {number + 1} of {len(held)}" if self.examples.shared else self.name
            hits += self._model(kept, out, title, folder / (fold_folder(number) if self.examples.shared else FULL))
        if self.examples.shared:
            self._model(everything, [], f"{self.name}, all", folder / FULL)
        models = sum(path.is_dir() for path in folder.iterdir())
        log.info("%s: accuracy %.3f on %d unseen examples", self.name, np.mean(hits), len(hits))
        return {"accuracy": float(np.mean(hits)), "rows": len(hits), "models": models}

    def _model(self, chosen: Sequence[int], out: Sequence[int], title: str, folder: Path) -> list[bool]:
        """Trains one model on the examples `chosen`, into `folder`; whether it is right about each of those `out`."""
        work = self.work.of(folder.name) if self.work is not None else None
        finished = work.folder / "finished" if work is not None else None
        if finished is not None and finished.exists():
            shutil.copytree(finished / "model", folder)
            return read_json(finished / HITS)
        network = self._trained(chosen, title, Progress(work.of("training") if work is not None else None))
        hits = self._hits(network, out)
        _save(network, folder)
        if finished is not None:
            with replacing(finished) as partial:
                shutil.copytree(folder, partial / "model")
                write_json(partial / HITS, hits)
        return hits

    def _tokenizer(self) -> Any:
        train, rows = self.options.train, self.examples.rows
        if train.init != "scratch":
            return untrained.checkpoint_tokenizer(self.options, self.where)
        if isinstance(self.options, Preference):
            dialogues = (dialogue(self.options, self.where, untrained.END, *row)[0] for row in rows)
            return untrained.preference_tokenizer(dialogues, train, self.options)
        if isinstance(self.options, Critic):
            texts = (part for row in rows for part in sentences(self.options, self.where, *row[1:]))
        else:
            texts = (text(name, self.where, *row) for row in rows for name in self.options.inputs)
        return untrained.classifier_tokenizer(texts, train, self.options.max_length)

    def _network(self) -> Network:
        if isinstance(self.options, Preference):
            return untrained.preference(self.options, self.where, self.tokenizer)
        classes, output = max(self.examples.labels) + 1, self.options.output
        if classes < 2 or (output == "sigmoid" and classes > 2):
            needed = "two" if output == "sigmoid" else "two or more"
            raise InputError(f"{self.where}.train: the texts have {classes} classes, but {output} needs {needed}")
        single = output == "sigmoid" or (output == "logit" and classes == 2)
        return untrained.classifier(self.options, self.where, self.tokenizer, 1 if single else classes)

    def _trained(self, chosen: Sequence[int], title: str, progress: Progress) -> Network:
        """A network fitted to the chosen examples; the same numbers for the same seed on one machine."""
        with torch.random.fork_rng():
            torch.manual_seed(self.options.train.seed)
            network = self._network()
            network.model.to(device(self.launch))
            fit(network, self.encoded, self.examples, chosen, self.options.train, title, progress)
        return network

    def _hits(self, network: Network, out: Sequence[int]) -> list[bool]:
        rows = sorted({row for i in out for row in self.examples.members[i]})
        logits = all_logits(network, [self.encoded[row] for row in rows], self.options, self.name)
        of = dict(zip(rows, logits, strict=True))
        return [_right([of[row] for row in self.examples.members[i]], self.examples.labels[i]) for i in out]


def _right(logits: list[np.ndarray], label: int) -> bool:
    """Whether the better response of a pair scores higher, or the class is the likeliest."""
    if len(logits) == 2:
        return bool(logits[0][0] > logits[1][0])
    if len(logits[0]) == 1:
        return bool((logits[0][0] > 0) == (label == 1))
    return int(logits[0].argmax()) == label


def _save(network: Network, folder: Path) -> None:
    with quiet():
        network.model.save_pretrained(folder)
        network.tokenizer.save_pretrained(folder)


def loss(logits: torch.Tensor, labels: torch.Tensor, size: int) -> torch.Tensor:
    """Mean over the examples: cross-entropy of labelled texts, or -log sigmoid(s_better - s_worse) (Bradley-Terry).

    `logits` [size x B, C]; with size 2, the better responses come first.
    """
    if size == 2:
        better, worse = logits[:, 0].chunk(2)
        return -logsigmoid(better - worse).mean()
    if logits.shape[-1] == 1:
        return binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    return cross_entropy(logits, labels)


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


def fit(
    network: Network,
    encoded: list[Encoded],
    examples: Examples,
    chosen: Sequence[int],
    train: Training,
    title: str,
    progress: Progress,
) -> None:
    """AdamW with a learning rate that falls linearly to 0, over `epochs` of the chosen examples.

    `progress` says where an earlier run was killed.
    """
    chosen = np.asarray(chosen)
    lengths = np.array([max(len(encoded[row].ids) for row in examples.members[i]) for i in chosen])
    steps = train.epochs * math.ceil(len(chosen) / train.batch_size)  # chunks are whole batches, but for the last
    optimizer = torch.optim.AdamW(network.model.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    done = 0
    if found := progress.restore(network.model, optimizer):
        done = found[0]["step"]
        schedule.load_state_dict(found[0]["schedule"])
    network.model.train()
    left = itertools.islice(_batches(lengths, train.batch_size, train.epochs, train.seed), done, None)
    bar = tqdm(left, title, initial=done, total=steps, unit="batch")
    for step, batch in enumerate(bar, start=done + 1):
        members = [examples.members[i] for i in chosen[batch]]
        rows = [encoded[row] for column in zip(*members, strict=True) for row in column]
        labels = torch.tensor([examples.labels[i] for i in chosen[batch]], device=network.model.device)
        optimizer.zero_grad()
        loss(network.logits(rows), labels, len(members[0])).backward()
        optimizer.step()
        schedule.step()
        if progress.due():
            progress.write(network.model, optimizer, {"step": step, "schedule": schedule.state_dict()})
    network.model.eval()
