"""Trains the reward components that have a `train` section, and fits tf-idf.

A component whose examples share prompts with the training split gets one model per fold, which has not seen the fold's
prompts, and a full one for everything else. What is reported is always of examples the model has not seen.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from alol.base.errors import InputError, known
from alol.base.files import read_json, replacing, write_json
from alol.base.work import Work
from alol.compute.progress import Progress
from alol.compute.shards import Bar, Done, Pool
from alol.config import model_names
from alol.config.params import SETTINGS
from alol.config.sections import Launch
from alol.data import schema
from alol.data.parts import Parts, pieces
from alol.models.loading import quiet
from alol.rewards import adapters, backbones, heads, mismatched, precision, tfidf, trained, untrained
from alol.rewards.critic import sentences
from alol.rewards.examples import divide, gather
from alol.rewards.fitting import Dataset, Scale, fit
from alol.rewards.folds import fold_folder, text
from alol.rewards.measures import MISMATCHED, Rules, measure, outputs
from alol.rewards.network import Network, all_logits, device
from alol.rewards.options import FULL, Critic, Preference, Tfidf, Trainable, fitted
from alol.rewards.preference import dialogue

log = logging.getLogger(__name__)
HELD = "held.json"
STATES = pa.schema([("state", pa.list_(pa.float32()))])
Held = list[list[list[float]]]  # of each held-out example, for each of its members, the logits


def train(
    specs: dict[str, dict[str, Any]], clean: Path, folder: Path, launch: Launch, work: Work | None = None
) -> dict[str, dict[str, float]]:
    """Fits every component and writes its state to `folder`; returns, by component, its figures on unseen examples.

    They are those of `measures.measure`, and the number of models.

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
        names = {path.stem for path in path.parent.glob("*.parquet")} or ["none; write null for the training responses"]
        raise known(f"text table at {where}.texts:", options.texts, names)
    return path


class _Trainer:
    """Trains the models of one component."""

    def __init__(self, name: str, options: Trainable, clean: Path, launch: Launch, work: Work | None) -> None:
        self.work = work
        self.name, self.where, self.options, self.launch = name, f"rewards.{name}", options, launch
        train = options.train
        if train.init != "scratch":
            model_names.check_sha256(train.init, train.init_sha256, f"{self.where}.train.init_sha256")
        self.examples = mismatched.added(gather(clean, options, self.where), options, self.where)
        self._check_bounds()
        self.outputs = self._count()
        self.backbone: str | None = None  # what tells the model of `init` from others
        if train.tuning == "head":
            self.frozen = untrained.frozen(options, self.where)
            self.backbone = backbones.identity(options, self.where, self.frozen.model.config)
            self.encoded = self.frozen.encode(*zip(*self.examples.rows, strict=True))
            self.states = self._states()
        else:
            self.tokenizer = self._tokenizer()
            network = self._network()
            if train.tuning == "lora":
                self.backbone = backbones.identity(options, self.where, network.model.config)
            self.encoded = network.encode(*zip(*self.examples.rows, strict=True))

    def run(self, folder: Path) -> dict[str, float]:
        train, logits = self.options.train, {}
        held = divide(self.examples, train.folds, train.holdout)
        rules = Rules(self.examples, self.options, self.where)
        everything = range(len(self.examples.members))
        for number, (out, kept) in enumerate(held):
            if len(kept) == len(everything):  # the full model has not seen this fold's prompts either
                continue
            if not kept:
                raise InputError(f"{self.where}.train: all examples have the same prompt, so none can be held out")
            title = f"{self.name}, fold {number + 1} of {len(held)}" if self.examples.shared else self.name
            target = folder / (fold_folder(number) if self.examples.shared else FULL)
            logits |= dict(zip(out, self._model(kept, out, title, target), strict=True))
            if out:
                self._try(lambda kept=kept, out=out: rules.fold(kept, out))
        if self.examples.shared:
            self._model(everything, [], f"{self.name}, all", folder / FULL)
        measured = outputs(self.examples, logits)
        result = measure(self.examples, measured, rules.outputs(measured.rows), train.measured, train.seed)
        result["models"] = sum(path.is_dir() for path in folder.iterdir())
        log.info("%s: %s", self.name, in_words(result))
        return result

    def _model(self, indices: Sequence[int], out: Sequence[int], title: str, folder: Path) -> Held:
        """Trains a model on the examples `indices`, saves it in `folder` and returns its logits for those `out`."""
        if self.options.train.tuning == "head":
            return self._head(indices, out, folder)
        work = self.work.of(folder.name) if self.work is not None else None
        finished = work.folder / "finished" if work is not None else None
        if finished is not None and finished.exists():
            shutil.copytree(finished / "model", folder)
            return read_json(finished / HELD)
        network, scale, peft = self._trained(
            indices, title, Progress(work.of("training") if work is not None else None)
        )
        held = self._held(network, out, scale)
        self._save(network, peft, scale, folder)
        if finished is not None:
            with replacing(finished) as partial:
                shutil.copytree(folder, partial / "model")
                write_json(partial / HELD, held)
        return held

    def _save(self, network: Network, peft: Any, scale: Scale | None, folder: Path) -> None:
        with quiet():
            if peft is None:
                network.model.save_pretrained(folder)
                network.tokenizer.save_pretrained(folder)
            else:
                adapters.save(peft, self.options.train.init, folder)
        if scale is not None or peft is not None:
            trained.note(folder, self.outputs, self.backbone, scale)

    def _states(self) -> np.ndarray:
        """The frozen model's pooled states of all rows [rows, H], each computed once; `work` keeps them."""
        network = self.frozen
        precision.frozen(network.model.to(device(self.launch)), self.options.precision)
        bare = backbones.HeadNetwork(network, backbones.pooling(self.options, network.model))
        parts = Parts(self.work.of("states") if self.work is not None else None, STATES)

        def compute(model: Any, _: int, rows: Sequence[Any], done: Done) -> list[dict[str, Any]]:
            return [{"state": row.tolist()} for row in all_logits(model, rows, self.options, self.name)]

        bar = Bar(len(self.encoded), f"{self.name}, states", "text")
        through = Pool(lambda: bare).map(lambda: pieces([self.encoded], schema.BATCH_ROWS), compute, parts, bar)
        return np.array([row["state"] for _, piece in through for row in piece], np.float32)

    def _head(self, indices: Sequence[int], out: Sequence[int], folder: Path) -> Held:
        scale = self._scale(indices)
        examples = self.examples
        if scale is not None:
            mean, std = scale
            examples = dataclasses.replace(examples, targets=[(target - mean) / std for target in examples.targets])
        head = self._try(lambda: heads.fit(self.states, examples, indices, self.outputs, self.options.train.l2))
        head.save(folder, str(self.backbone))
        if scale is not None:
            trained.note(folder, self.outputs, self.backbone, scale)
        logits = self.states.astype(np.float64) @ head.weight.T + head.bias
        return [_rescaled([logits[row].tolist() for row in examples.members[i]], scale) for i in out]

    def _try(self, fit: Callable[[], Any]) -> Any:
        try:
            return fit()
        except InputError as error:
            raise InputError(f"{self.where}.train: {error}") from None

    def _scale(self, indices: Sequence[int]) -> Scale | None:
        """Mean and standard deviation of the numbers to learn; None of classes and pairs."""
        if self.examples.objective != "scores":
            return None
        targets = np.array([self.examples.targets[i] for i in indices])
        return float(targets.mean()), float(targets.std()) or 1.0

    def _check_bounds(self) -> None:
        """Predictions are kept within the declared bounds, so the numbers that they are learnt from must be."""
        if self.examples.objective != "scores":
            return
        least, most = min(self.examples.targets), max(self.examples.targets)
        low, high = self.options.low, self.options.high
        if (low is not None and least < low) or (high is not None and most > high):
            bounds = ", ".join("open" if end is None else f"{end:g}" for end in (low, high))
            raise InputError(
                f"{self.where}.train: the numbers to learn run from {least:g} to {most:g}, beyond the component's "
                f"bounds [{bounds}]; set {self.where}.low and high (null: open)"
            )

    def _tokenizer(self) -> Any:
        train, rows = self.options.train, self.examples.rows
        if train.init != "scratch":
            return backbones.checkpoint_tokenizer(self.options, self.where)
        if isinstance(self.options, Preference):
            dialogues = (dialogue(self.options, self.where, untrained.END, *row)[0] for row in rows)
            return untrained.preference_tokenizer(dialogues, train, self.options)
        if isinstance(self.options, Critic):
            texts = (part for row in rows for part in sentences(self.options, self.where, *row[1:]))
        else:
            texts = (text(name, self.where, *row) for row in rows for name in self.options.inputs)
        return untrained.classifier_tokenizer(texts, train, self.options.max_length)

    def _count(self) -> int:
        """How many logits a model has: one for pairs, numbers and two classes that a single one tells apart."""
        if self.examples.objective != "labels":
            return 1
        classes, output = int(max(self.examples.targets)) + 1, self.options.output
        single = output == "sigmoid" or (output == "logit" and (classes == 2 or isinstance(self.options, Preference)))
        if classes < 2 or (single and classes > 2):
            needed = "two" if single else "two or more"
            raise InputError(f"{self.where}.train: the texts have {classes} classes, but {output} needs {needed}")
        return 1 if single else classes

    def _network(self) -> Network:
        if isinstance(self.options, Preference):
            return untrained.preference(self.options, self.where, self.tokenizer)
        return untrained.classifier(self.options, self.where, self.tokenizer, self.outputs)

    def _trained(self, indices: Sequence[int], title: str, progress: Progress) -> tuple[Network, Scale | None, Any]:
        """Fits a network to the examples `indices`; returns it with the scale of its numbers and its adapters, or None.

        The same numbers for the same seed on one machine.
        """
        train, scale = self.options.train, self._scale(indices)
        with torch.random.fork_rng():
            torch.manual_seed(train.seed)
            network = self._network()
            peft = adapters.wrapped(network.model, train.lora, self.where) if train.tuning == "lora" else None
            network.model.to(device(self.launch))
            fit(network, Dataset(self.examples, self.encoded, scale), indices, self.options, title, progress)
        return network, scale, peft

    def _held(self, network: Network, out: Sequence[int], scale: Scale | None) -> Held:
        rows = sorted({row for i in out for row in self.examples.members[i]})
        logits = all_logits(network, [self.encoded[row] for row in rows], self.options, self.name)
        of = dict(zip(rows, logits.tolist(), strict=True))
        return [_rescaled([of[row] for row in self.examples.members[i]], scale) for i in out]


def _rescaled(logits: list[list[float]], scale: Scale | None) -> list[list[float]]:
    """Scales standardised logits back to the units of the numbers that were learnt."""
    return logits if scale is None else [[value * scale[1] + scale[0] for value in row] for row in logits]


def in_words(measured: Mapping[str, float]) -> str:
    """Says the figure, its interval and the figures of the rules in one line."""
    name = "accuracy" if "accuracy" in measured else "spearman"
    what = "accuracy" if name == "accuracy" else "rank correlation"
    return (
        f"{what} {measured[name]:.3f} [{measured[f'{name}_low']:.3f}, {measured[f'{name}_high']:.3f}] on "
        f"{measured['rows']:,} unseen examples; length {measured[f'length_{name}']:.3f}, "
        f"bag of words {measured[f'words_{name}']:.3f}"
    ) + (f"; {_mismatched_in_words(measured)}" if MISMATCHED in measured else "")


def _mismatched_in_words(measured: Mapping[str, float]) -> str:
    ends = f"[{measured[f'{MISMATCHED}_low']:.3f}, {measured[f'{MISMATCHED}_high']:.3f}]"
    return (
        f"accuracy {measured[MISMATCHED]:.3f} {ends} on {measured['rows_mismatched']:,} unseen mismatched ones; length "
        f"{measured[f'length_{MISMATCHED}']:.3f}, bag of words {measured[f'words_{MISMATCHED}']:.3f}"
    )
