"""SmolLM2-135M with adapters on real small talk: updates against TRL's trainers, as `smollm2` compares them."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from accelerate.state import AcceleratorState

from alol.config import params
from benchmarks import gpu_run
from benchmarks.size import Size
from benchmarks.smollm2 import ASKED, Turns, compared, each, first_of, ours_of, padding, settings, with_our_adapter
from benchmarks.smollm2_model import WORK, examples, library_model, tokenizer


def updates(size: Size) -> Iterator[dict[str, Any]]:
    """Updates of nll and dpo against TRL's, in both precisions."""
    kinds = itertools.product(("fp32", "bf16"), ("nll", "dpo"))
    yield from each(size, *((against_trl, *kind) for kind in kinds))


def against_trl(size: Size, precision: str, algorithm: str) -> list[dict[str, Any]]:
    """TRL's SFT trainer, or its DPO trainer with the base as a live reference, with peft's adapter."""
    from transformers import TrainerCallback

    work, pairs = WORK[size], algorithm == "dpo"
    batch = work.pairs if pairs else work.batch
    p = settings(algorithm, precision, batch)
    table, exact = examples(size, batch * work.rounds, 2 if pairs else 1, by_length=True), None
    if precision == "bf16":
        exact = first_of(ours_of(size, settings(algorithm, "fp32", batch), algorithm, table)[0])
    ours, table = ours_of(size, p, algorithm, table)
    turns = Turns(ours, exact)
    answers = gpu_run.lengths(table)[1]
    losses: list[float] = []

    class InTurn(TrainerCallback):
        """Times TRL's update, and runs ours when it has its gradients."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **__: Any) -> None:
            # TRL's SFT loss is a mean over tokens, ours a mean over dialogues of sums
            rows = ours.rows(state.global_step).numpy()
            scale = 1.0 if pairs else float(answers[rows].sum()) / len(rows)
            turns.between(losses[-1], trainer.model, scale)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end()

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(size, p, table, algorithm, folder)
        with_our_adapter(trainer.model, ours.model)
        original = trainer.compute_loss

        def noted(*arguments: Any, **options: Any) -> Any:
            loss = original(*arguments, **options)
            losses.append(float(loss.detach()))
            return loss

        trainer.compute_loss = noted
        trainer.add_callback(InTurn())
        trainer.train()
    yardstick = "TRL's DPO trainer, live reference" if pairs else "TRL's SFT trainer"
    return [compared(
        f"{algorithm}, {precision}", yardstick, turns.times, gpu_run.useful(table), ASKED[algorithm],
        parity=turns.parity, padding=padding(table, 2 * batch if pairs else batch, apart=False),
    )]  # fmt: skip


def trl_trainer(size: Size, p: params.Params, table: pa.Table, algorithm: str, folder: str) -> Any:
    """Activations kept, rows of similar length in one batch; the examples are ours, as token ids."""
    import trl
    from datasets import Dataset

    AcceleratorState._reset_state(True)
    common: dict[str, Any] = {
        "output_dir": folder, "bf16": p.launch.precision == "bf16", "gradient_checkpointing": False, "use_cpu": True,
        "report_to": [], "per_device_train_batch_size": p.train.batch_size, "max_steps": WORK[size].rounds,
        "learning_rate": p.train.optimizer.lr, "max_length": None, "train_sampling_strategy": "sequential",
        "remove_unused_columns": False, "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no",
        "max_grad_norm": 0.0,
    }  # fmt: skip
    columns, base = table.to_pydict(), library_model(size)
    made = {"processing_class": tokenizer(size), "peft_config": gpu_run.adapter(p)}
    prompts, said = columns["prompt_ids"], columns["response_ids"]
    if algorithm == "nll":
        texts = Dataset.from_dict({
            "input_ids": [x + y for x, y in zip(prompts, said, strict=True)],
            "completion_mask": [[0] * len(x) + [1] * len(y) for x, y in zip(prompts, said, strict=True)],
        })  # fmt: skip
        config = trl.SFTConfig(completion_only_loss=True, **common)
        return trl.SFTTrainer(base, args=config, train_dataset=texts, **made)
    config = trl.DPOConfig(beta=p.hyperparameters["beta"], **common)
    one = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])
    trainer = trl.DPOTrainer(base, args=config, train_dataset=one, **made)
    pairs = {"prompt_ids": prompts[::2], "chosen_ids": said[::2], "rejected_ids": said[1::2]}
    trainer.train_dataset = Dataset.from_dict(pairs)
    return trainer
