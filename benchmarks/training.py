"""One update of the policy: ours against the method written plainly, and against TRL's trainers.

Every measurement starts by comparing the loss and the gradient of one batch on both sides.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from alol.algorithms import registry
from alol.compute import launch
from alol.compute.batching import Batch
from alol.compute.kernels import fused
from alol.compute.logprob import ResponseLogp, response_logp
from alol.config import params
from alol.training import loop, planning
from benchmarks import dialogues, measure, plain
from benchmarks.size import Size

TOLERANCE = 1e-5
CLIP, BETA, LR = 0.9, 0.1, 1e-4


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples in the order of the file, with the reference's log-probabilities of one vocabulary."""

    table: pa.Table
    tokens: int  # of one pass over the examples, without padding


class Ours:
    """The pipeline's own step and optimizer over the batches 0, 1, 2, ... of the shuffled examples."""

    def __init__(self, size: Size, model: nn.Module, data: Data, algorithm: str, options: dict[str, float]) -> None:
        settings = params.load(size.task, "a_lol", dialogues.ROOT)
        chosen = registry.FROM_DATA[algorithm]
        examples = (planning.Groups if chosen.group else planning.Examples)(data.table, 0)
        # TRL and the plain method run a batch at once, so ours does too
        limits = dataclasses.replace(settings.launch, micro_batch=size.batch * examples.responses, tokens=10**9)
        self.model, self.count = fused(model).train(), len(examples)
        optimizer = dataclasses.replace(settings.train.optimizer, name="adamw", lr=LR)
        self.optimizer = loop.make_optimizer(model, optimizer)
        main = launch.accelerator(dataclasses.replace(limits, device="cpu", precision="fp32"))
        recipe = loop.Recipe(chosen, options, optimizer)
        self.gradients = loop.Step(ResponseLogp(model), examples, recipe, launch.Machine(main, limits))
        self.order = torch.tensor(dialogues.shuffled(self.count))
        self.batch = size.batch

    def rows(self, update: int) -> torch.Tensor:
        start = update * self.batch % (self.count - self.batch + 1)
        return self.order[start : start + self.batch]

    def update(self, update: int) -> float:
        loss = self.gradients(self.rows(update))["loss"]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def examples(size: Size, vocabulary: int, *, pairs: bool, count: int | None = None) -> Data:
    """Preferred responses (of the first `count` prompts), or pairs of two, with a random advantage each."""
    found = dialogues.load(size)
    ranks = (0, 1) if pairs else (0,)
    members: dict[str, list[dict[str, Any]]] = {}
    for row in found.train:
        if row["rank"] in ranks:
            members.setdefault(row["prompt_id"], []).append(row)
    groups = [group for group in members.values() if len(group) == len(ranks)][:count]
    rows = [row for group in groups for row in group]
    prompts, responses = dialogues.encoded(rows, found.tokenizer, size)
    reference = dialogues.policy(size, vocabulary).eval()
    logp = []
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            part = slice(start, start + 16)
            batch = Batch(prompts[part], responses[part], 0, "cpu")
            for line, ids in zip(response_logp(reference, batch).tolist(), responses[part], strict=True):
                logp.append(line[: len(ids)])
    rewards = np.random.default_rng(0).uniform(0.1, 1.0, len(rows)).astype(np.float32)
    columns = {
        "prompt_id": [row["prompt_id"] for row in rows], "rank": [row["rank"] for row in rows], "prompt_ids": prompts,
        "response_ids": responses, "ref_logp": pa.array(logp, pa.list_(pa.float32())),
        "reward": rewards, "raw_reward": rewards, "advantage": rewards - np.float32(0.3),  # of some below 0
    }  # fmt: skip
    return Data(pa.table(columns), sum(map(len, prompts)) + sum(map(len, responses)))


def moved(model: nn.Module) -> nn.Module:
    """The policy a little away from the reference, so that no importance weight is 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 1e-3)
    return model


class Plain:
    """The plain method over the same batches."""

    def __init__(self, size: Size, vocabulary: int, data: Data) -> None:
        self.reference = dialogues.policy(size, vocabulary).eval()
        self.model = moved(dialogues.policy(size, vocabulary)).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR)
        self.table = data.table

    def gradients(self, rows: torch.Tensor) -> float:
        chosen = self.table.take(pa.array(rows.numpy()))
        loss = plain.a_lol(
            self.model, self.reference, chosen["prompt_ids"].to_pylist(), chosen["response_ids"].to_pylist(),
            torch.tensor(chosen["advantage"].to_numpy()), CLIP, 0,
        )  # fmt: skip
        loss.backward()
        return loss.item()

    def update(self, rows: torch.Tensor) -> None:
        self.gradients(rows)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def against_plain(size: Size) -> Iterator[dict[str, Any]]:
    """A-LoL with a live reference, full logits and padded batches, as most would write it first."""
    for vocabulary in size.vocabularies:
        data = examples(size, vocabulary, pairs=False, count=size.batch * size.updates)
        ours = Ours(size, moved(dialogues.policy(size, vocabulary)), data, "a_lol", {"clip": CLIP})
        theirs = Plain(size, vocabulary, data)
        first = ours.rows(0)
        loss = measure.equal("the loss", ours.gradients(first)["loss"], theirs.gradients(first), TOLERANCE)
        gradient = measure.gradient_difference(measure.gradients(ours.model), measure.gradients(theirs.model))
        measure.below("the gradient", gradient, TOLERANCE)
        for side in (ours, theirs):
            side.optimizer.zero_grad()
        times: tuple[list[float], list[float]] = [], []
        for update in range(size.updates):
            times[0].append(measure.timed(ours.update, update))
            times[1].append(measure.timed(theirs.update, ours.rows(update)))
        yield measure.row(
            f"a_lol, {vocabulary} words", "the method written plainly", measure.ratio(*times),
            **measure.speed(done(ours, data, size.updates), times),
            memory_mb=round(measure.over_idle(our_updates, size, vocabulary, "a_lol"), 1),
            yardstick_memory_mb=round(measure.over_idle(plain_updates, size, vocabulary), 1),
            parity={"loss": loss, "gradient": gradient},
        )  # fmt: skip


def done(ours: Ours, data: Data, updates: int) -> int:
    """Tokens of prompts and responses in so many updates."""
    lengths = [x + y for x, y in zip(*(data.table[c].combine_chunks().value_lengths().to_pylist()
                                       for c in ("prompt_ids", "response_ids")), strict=True)]  # fmt: skip
    responses = ours.gradients.examples.responses
    rows = [row for update in range(updates) for row in ours.rows(update).tolist()]
    return sum(lengths[responses * row + k] for row in rows for k in range(responses))


MEASURED = 3  # updates in the measurement of memory


def our_updates(size: Size, vocabulary: int, algorithm: str) -> Callable[[], None]:
    pairs = registry.FROM_DATA[algorithm].group
    data = examples(size, vocabulary, pairs=pairs, count=size.batch * MEASURED)
    options = OPTIONS.get(algorithm, {})

    def work() -> None:
        ours = Ours(size, moved(dialogues.policy(size, vocabulary)), data, algorithm, options)
        for update in range(MEASURED):
            ours.update(update)

    return work


def plain_updates(size: Size, vocabulary: int) -> Callable[[], None]:
    data = examples(size, vocabulary, pairs=False, count=size.batch * MEASURED)
    order = torch.tensor(dialogues.shuffled(len(data.table)))

    def work() -> None:
        theirs = Plain(size, vocabulary, data)
        for update in range(MEASURED):
            theirs.update(order[update * size.batch :][: size.batch])

    return work


def has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


OPTIONS = {
    "a_lol": {"clip": CLIP}, "dpo": {"beta": BETA}, "ipo": {"beta": BETA},
    "kto_zero": {"beta": BETA, "desirable": 1.0, "undesirable": 1.0},
}  # fmt: skip
STORED = "its reference computed before"


def against_trl(size: Size) -> Iterator[dict[str, Any]]:
    """TRL's SFT, DPO and KTO trainers at their best settings for this machine."""
    for vocabulary in size.vocabularies:
        yield _against_trl(size, vocabulary, "nll", "TRL's SFT trainer", False)
    smallest = min(size.vocabularies)
    yield _against_trl(size, smallest, "dpo", "TRL's DPO trainer, live reference", False)
    yield _against_trl(size, smallest, "dpo", f"TRL's DPO trainer, {STORED}", True)
    yield _against_trl(size, smallest, "ipo", f"TRL's DPO trainer (loss ipo), {STORED}", True)
    yield _against_trl(size, smallest, "kto_zero", f"TRL's KTO trainer (loss apo_zero_unpaired), {STORED}", True)


def _against_trl(size: Size, vocabulary: int, algorithm: str, name: str, stored: bool) -> dict[str, Any]:
    from transformers import TrainerCallback

    data = examples(size, vocabulary, pairs=registry.FROM_DATA[algorithm].group)
    options = OPTIONS.get(algorithm, {})
    ours = Ours(size, moved(dialogues.policy(size, vocabulary)), data, algorithm, options)
    times: tuple[list[float], list[float]] = [], []

    class InTurn(TrainerCallback):
        """Times TRL's update, then runs one of ours."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
            times[1].append(time.perf_counter() - self.start)
            times[0].append(measure.timed(ours.update, state.global_step - 1))

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(size, vocabulary, data, algorithm, folder, stored=stored, updates=size.updates)
        parity = _parity(ours, trainer, algorithm)
        trainer.add_callback(InTurn())
        trainer.train()
    return measure.row(
        f"{algorithm}, {vocabulary} words", name, measure.ratio(*times),
        **measure.speed(done(ours, data, size.updates), times),
        memory_mb=round(measure.over_idle(our_updates, size, vocabulary, algorithm), 1),
        yardstick_memory_mb=round(measure.over_idle(trl_updates, size, vocabulary, algorithm, stored), 1),
        parity=parity,
    )  # fmt: skip


def trl_trainer(
    size: Size, vocabulary: int, data: Data, algorithm: str, folder: str, *, stored: bool, updates: int
) -> Any:
    """fp32, activations kept, batches grouped by length; the examples are ours, as token ids."""
    import trl
    from datasets import Dataset

    common: dict[str, Any] = {
        "output_dir": folder, "bf16": False, "gradient_checkpointing": False, "use_cpu": True, "report_to": [],
        "per_device_train_batch_size": size.batch, "max_steps": updates, "learning_rate": LR, "max_length": None,
        "train_sampling_strategy": "group_by_length", "remove_unused_columns": False, "disable_tqdm": True,
        "logging_strategy": "no", "save_strategy": "no", "max_grad_norm": 1.0,
    }  # fmt: skip
    tokenizer = dialogues.load(size).tokenizer
    columns = data.table.to_pydict()
    model = moved(dialogues.policy(size, vocabulary))
    if algorithm == "nll":
        pairs = list(zip(columns["prompt_ids"], columns["response_ids"], strict=True))
        texts = Dataset.from_dict({
            "input_ids": [x + y for x, y in pairs],
            "completion_mask": [[0] * len(x) + [1] * len(y) for x, y in pairs],
            "length": [len(x) + len(y) for x, y in pairs],
        })  # fmt: skip
        config = trl.SFTConfig(completion_only_loss=True, **common)
        return trl.SFTTrainer(model, args=config, train_dataset=texts, processing_class=tokenizer)
    sums, reference = [sum(line) for line in columns["ref_logp"]], dialogues.policy(size, vocabulary)
    if algorithm == "kto_zero":
        made = {"prompt_ids": columns["prompt_ids"], "completion_ids": columns["response_ids"], "ref_logps": sums}
        made["label"] = [advantage > 0 for advantage in columns["advantage"]]
        made["length"] = [len(x) + len(y) for x, y in zip(made["prompt_ids"], made["completion_ids"], strict=True)]
        config = trl.KTOConfig(loss_type="apo_zero_unpaired", beta=BETA, precompute_ref_log_probs=stored, **common)
        one = Dataset.from_list([{"prompt": "a", "completion": " b", "label": True}])
        trainer = trl.KTOTrainer(model, reference, args=config, train_dataset=one, processing_class=tokenizer)
        trainer.train_dataset = Dataset.from_dict(made)
        return trainer
    chosen, rejected = columns["response_ids"][::2], columns["response_ids"][1::2]
    prompts = columns["prompt_ids"][::2]
    made = {"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected}
    made["length"] = [len(x) + max(len(y), len(z)) for x, y, z in zip(prompts, chosen, rejected, strict=True)]
    kind = {"dpo": "sigmoid", "ipo": "ipo"}[algorithm]
    config = trl.DPOConfig(loss_type=kind, beta=BETA, precompute_ref_log_probs=stored, **common)
    one = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])
    trainer = trl.DPOTrainer(model, reference, args=config, train_dataset=one, processing_class=tokenizer)
    if stored:
        made |= {"ref_chosen_logps": sums[::2], "ref_rejected_logps": sums[1::2]}
    trainer.train_dataset = Dataset.from_dict(made)
    return trainer


def trl_updates(size: Size, vocabulary: int, algorithm: str, stored: bool) -> Callable[[], None]:
    import trl  # noqa: F401  (idle is after the imports)
    from trl import DPOTrainer, KTOTrainer, SFTTrainer  # noqa: F401

    data = examples(size, vocabulary, pairs=registry.FROM_DATA[algorithm].group, count=size.batch * MEASURED)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trl_trainer(size, vocabulary, data, algorithm, folder, stored=stored, updates=MEASURED).train()

    return work


def _parity(ours: Ours, trainer: Any, algorithm: str) -> dict[str, float]:
    """Loss and gradient of the first batch; TRL's SFT loss is a mean over tokens, ours a mean over examples of sums."""
    rows = ours.rows(0)
    data = trainer.train_dataset
    batch = trainer.data_collator([data[int(i)] for i in rows])
    scale = float((batch["labels"][:, 1:] != -100).sum()) / len(rows) if algorithm == "nll" else 1.0
    loss = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    found = ours.gradients(rows)["loss"]
    result = {
        "loss": measure.equal("the loss", found, loss.item() * scale, TOLERANCE),
        "gradient": measure.below(
            "the gradient",
            measure.gradient_difference(measure.gradients(ours.model), measure.gradients(trainer.model), scale),
            TOLERANCE,
        ),
    }
    ours.optimizer.zero_grad()
    trainer.model.zero_grad()
    return result
