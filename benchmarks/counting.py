"""What is computed: how much of it is padding, and how often the reference reads each row."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from click.testing import CliRunner
from torch import nn

from alol.algorithms import registry
from alol.compute import generate, launch, packed_models, packing
from alol.compute.logprob import ResponseLogp
from alol.config import params
from alol.data import schema
from alol.models.tokens import Encoder
from alol.rewards import options, untrained
from alol.rewards.network import Network, all_logits
from alol.training import advantage, loop, planning, value_head
from benchmarks import dialogues, project
from benchmarks.size import Size

BEFORE_TRAIN = (
    "download", "clean", "reward_model", "annotate", "reference", "rollout", "baseline", "value", "advantage",
)  # fmt: skip
SMALL = {
    "source.corpus.options.train_prompts": 60,
    "source.corpus.options.validation_prompts": 24,
    "source.corpus.options.test_prompts": 12,
    "source.corpus.options.labels": 90,
    "rewards.helpful.train.epochs": 1,
    "policy.scratch.layers": 1,
    "reference.epochs": None,
    "reference.updates": 8,
    "reference.optimizer.warmup": 2,
    "generate.max_new_tokens": 12,
    "train.epochs": None,
    "train.updates": 8,
}  # a demo of seconds


class Tokens:
    """Counts the tokens that go through a model, and those of them that are padding."""

    def __init__(self, model: nn.Module) -> None:
        self.computed = self.padding = 0
        model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, arguments: Any, given: dict[str, Any]) -> None:
        ids = arguments[0] if arguments else given["input_ids"]
        mask = given.get("attention_mask")
        self.computed += ids.numel()
        if mask is not None and mask.shape == ids.shape:
            self.padding += int((mask == 0).sum())

    def row(self, name: str, yardstick: float) -> dict[str, Any]:
        return {
            "name": f"padding, {name}",
            "padding": round(self.padding / self.computed, 4),
            "tokens": self.computed,
            "padding_as_they_come": round(yardstick, 4),
        }


def padding(size: Size) -> Iterator[dict[str, Any]]:
    """The share of padding with the task's own settings, in all that runs a model over much data.

    Beside it that of batches of rows as they come, prompts padded to the longest and responses too: as many rows as an
    update has, for train and advantage, and as many as are generated or scored at once.
    """
    found = dialogues.load(size)
    p = params.load(size.task, "a_lol", dialogues.ROOT)
    p = dataclasses.replace(p, launch=dataclasses.replace(p.launch, device="cpu", precision="fp32"))
    rows = [row for row in found.train if row["response"]][: size.scored]
    encoder = Encoder(found.tokenizer, p.policy)
    prompts, responses = encoder.prompts(rows), encoder.responses([row["response"] for row in rows])
    few, many = p.train.batch_size, p.launch.generate_batch
    for name, work, parts, batch in (
        ("train", _train, (prompts, responses), few),
        ("advantage", _advantage, (prompts, responses), few),
        ("generate", _generate, (prompts,), many),
    ):
        model = dialogues.policy(size, len(found.tokenizer)).eval()
        tokens = Tokens(model)
        work(model, encoder, rows, p)
        yield tokens.row(name, _as_they_come(parts, batch))
    for name, built, network in _networks(p, rows):
        tokens = Tokens(network.model)
        texts = network.encode(
            [row["prompt"] for row in rows], [row["response"] for row in rows], schema.contexts(rows)
        )
        all_logits(network, texts, built, name)
        yield tokens.row(f"annotate ({name})", _as_they_come(([row.ids for row in texts],), built.batch_size))


def _as_they_come(parts: Sequence[Sequence[Sequence[int]]], batch: int) -> float:
    """The share of padding in batches of consecutive rows."""
    lengths = [[len(row) for row in part] for part in parts]
    useful = sum(map(sum, lengths))
    starts = range(0, len(lengths[0]), batch)
    computed = sum(len(part[i : i + batch]) * max(part[i : i + batch]) for part in lengths for i in starts)
    return 1 - useful / computed


def _train(model: nn.Module, encoder: Encoder, rows: list[dict[str, Any]], p: params.Params) -> None:
    """Gradients of one pass over the rows."""
    prompts, responses = encoder.prompts(rows), encoder.responses([row["response"] for row in rows])
    ones = np.ones(len(rows), np.float32)
    zeros = pa.array([[0.0] * len(ids) for ids in responses], pa.list_(pa.float32()))
    columns = {"prompt_ids": prompts, "response_ids": responses, "ref_logp": zeros, "reward": ones, "advantage": ones}
    machine = launch.Machine(launch.accelerator(p.launch), p.launch)
    recipe = loop.Recipe(registry.FROM_DATA["a_lol"], p.hyperparameters, p.train.optimizer)
    step = loop.Step(ResponseLogp(model), planning.Examples(pa.table(columns), 0), recipe, machine)
    for part in torch.tensor(dialogues.shuffled(len(rows))).split(p.train.batch_size):
        step(part)


def _advantage(model: nn.Module, encoder: Encoder, rows: list[dict[str, Any]], p: params.Params) -> None:
    head = value_head.ValueHead(model.config.n_embd, p.value.heads, 0.0, p.value.head, (None, None)).eval()
    reward = dataclasses.replace(p.reward, weights={}, raw="identity")
    advantage.advantages(model, head, encoder, rows, reward, launch.Machine(Accelerator(cpu=True), p.launch))


def _generate(model: nn.Module, encoder: Encoder, rows: list[dict[str, Any]], p: params.Params) -> None:
    settings = dataclasses.replace(p.generate, max_new_tokens=min(p.generate.max_new_tokens, 8))
    machine = launch.Machine(launch.accelerator(p.launch), p.launch)
    generate.generate(model, encoder.tokenizer, encoder.prompts(rows), generate.Decoding(settings, 1), machine)


def _networks(p: params.Params, rows: list[dict[str, Any]]) -> Iterator[tuple[str, options.Trainable, Network]]:
    """The task's reward networks, untrained, with their options."""
    texts = [text for row in rows for text in (row["prompt"], row["response"])]
    for name, built in options.fitted(p.rewards):
        if isinstance(built, options.Preference) and built.train is not None:
            tokenizer = untrained.preference_tokenizer(texts, built.train, built)
            yield name, built, untrained.preference(built, name, tokenizer)
        elif isinstance(built, options.Classifier) and built.train is not None:
            tokenizer = untrained.classifier_tokenizer(texts, built.train, built.max_length)
            yield name, built, untrained.classifier(built, name, tokenizer, 2)


def reads(size: Size) -> Iterator[dict[str, Any]]:
    """How often the reference reads what, in the demo's graph and in runs of several algorithms and seeds after it."""
    scored, valued, frozen = Counter[Any](), Counter[Any](), []

    def counted(module: Any, name: str, record: Any) -> Any:
        original = getattr(module, name)

        def call(model: nn.Module, batch: Any, *further: Any) -> Any:
            record(model, batch)
            return original(model, batch, *further)

        return mock.patch.object(module, name, call)

    def of_responses(model: nn.Module, batch: Any) -> None:
        scored.update(zip(map(tuple, batch.prompts), map(tuple, batch.responses), strict=True))

    def of_prompts(model: nn.Module, batch: Any) -> None:
        valued.update(map(tuple, batch.prompts))

    def of_anything(model: nn.Module, packed: Any) -> None:
        # in train, the policy under evaluation writes without gradients (alol.compute.decode); else it were a reference
        if not torch.is_grad_enabled() and type(packed) is packing.Packed:
            frozen.append(packed)

    runs = list(itertools.product(("nll", "a_lol", "a_lol_seq", "dpo"), (1, 2)))
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        _write(seed=1)
        with (
            counted(advantage, "response_logp_and_prompt_states", of_responses),
            counted(value_head, "prompt_states", of_prompts),
        ):
            for stage in BEFORE_TRAIN:
                _stage(stage)
            with counted(packed_models, "states", of_anything):
                for algorithm, seed in runs:
                    _write(seed=seed)
                    _stage("train", algorithm)
        rows, sizes = Counter[Any](), {}
        for split in ("train", "test"):
            path = Path("data/advantages/demo", f"{split}.parquet")
            table = schema.table(path, ["prompt_ids", "response_ids"]).to_pydict()
            rows.update(zip(*(map(tuple, table[name]) for name in ("prompt_ids", "response_ids")), strict=True))
            sizes[split] = len(table["prompt_ids"])
        prompts = sum(row["rank"] == 0 for row in schema.rows(Path("data/clean/demo/validation.parquet"), ["rank"]))
    yield {
        "name": "reads of the reference",
        "training_rows": sizes["train"],
        "test_rows": sizes["test"],
        "reads_of_a_row": sum(scored.values()) / sum(rows.values()),
        "each_as_often": scored == rows,
        "reads_of_a_validation_prompt": sum(valued.values()) / prompts,
        "runs_of_train": len(runs),
        "reads_in_train": len(frozen),
    }


def _write(seed: int) -> None:
    raw = project.parameters("demo")
    project.change(raw["tasks"]["demo"], SMALL)
    raw["seed"] = seed
    project.write(Path(), raw)


def _stage(name: str, algorithm: str | None = None) -> None:
    arguments = ["--task", "demo", *(["--algorithm", algorithm] if algorithm else [])]
    done = CliRunner().invoke(importlib.import_module(f"stages.{name}").main, arguments)
    if done.exit_code:
        raise RuntimeError(f"{name}: {done.output[-1000:]}")
