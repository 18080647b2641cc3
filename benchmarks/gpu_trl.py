"""LLaMA in NF4 with LoRA: updates of DPO against TRL's trainer, where `trl` is installed."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from alol.config import params
from benchmarks import measure
from benchmarks.gpu_run import (
    Ours,
    Run,
    adapted,
    adapter,
    base,
    moved,
    parity,
    say,
    settled,
    texts,
    trained,
    with_reference,
)


def has_trl() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("trl", "datasets"))


def against_trl(run: Run) -> dict[str, Any] | str:
    """Time of a sequence in DPO updates, ours and TRL's, the latter with the micro-batch that suits it best."""
    if not has_trl():
        return "not installed"
    sizes = run.sizes
    pairs = max(1, sizes.batch // 2)
    p = run.settings("dpo", pairs, run.tokens)
    model, other = adapted(run, p), base(run)
    table = with_reference(run, p, model, texts(sizes.vocabulary, sizes, sizes.updates * pairs, responses=2))
    ours = Ours(run, p, model, table, "dpo")
    moved(model)
    found = []
    for micro in sorted({size for size in (sizes.micro // 2, sizes.micro, pairs) if size and pairs % size == 0}):
        say(f"LLaMA: DPO in turn with TRL, micro-batches of {micro} pairs")
        try:
            row, other = trl_in_turn(run, p, ours, other, table, micro)
        except torch.OutOfMemoryError:
            say("out of memory")
            break
        found.append(row)
    return {"best": min(found, key=lambda row: row["yardstick_seconds_per_sequence"], default=None), "all": found}


def trl_in_turn(
    run: Run, p: params.Params, ours: Ours, other: nn.Module, table: pa.Table, micro: int
) -> tuple[dict[str, Any], nn.Module]:
    """Two passes over the pairs, of which the second counts; also returns TRL's base, without its adapter again."""
    from transformers import TrainerCallback

    times: tuple[list[float], list[float]] = [], []

    class InTurn(TrainerCallback):
        """Times TRL's update, then runs one of ours."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
            settled(lambda: None)
            times[1].append(time.perf_counter() - self.start)
            times[0].append(measure.timed(settled, ours.update, (state.global_step - 1) % run.sizes.updates))

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(run, p, other, table, micro, folder)
        same = trl_parity(run, ours, trainer, micro)
        trainer.add_callback(InTurn())
        trainer.train()
    second = tuple(side[run.sizes.updates :] for side in times)
    each = [sum(side) / len(table) for side in second]
    names = ("seconds_per_sequence", "yardstick_seconds_per_sequence")
    row = measure.row(
        "dpo", "TRL's DPO trainer, its reference computed before", measure.ratio(*second, parts=1), micro_batch=micro,
        parity=same, **dict(zip(names, each, strict=True)),
    )  # fmt: skip
    return row, trainer.model.unload()


def trl_trainer(run: Run, p: params.Params, other: nn.Module, table: pa.Table, micro: int, folder: str) -> Any:
    """bf16 on a GPU, activations kept unless asked, batches grouped by length; the examples are ours, as token ids."""
    import trl
    from datasets import Dataset

    cuda, settings = torch.cuda.is_available(), p.train.optimizer
    config = trl.DPOConfig(
        output_dir=folder, beta=p.hyperparameters["beta"], precompute_ref_log_probs=True, bf16=cuda, use_cpu=not cuda,
        gradient_checkpointing=p.launch.recompute, per_device_train_batch_size=micro,
        gradient_accumulation_steps=p.train.batch_size // micro, num_train_epochs=2, max_length=None,
        train_sampling_strategy="group_by_length", learning_rate=settings.lr, max_grad_norm=settings.clip_norm or 0.0,
        optim="paged_adamw_32bit" if settings.name == "paged_adamw_32bit" else "adamw_torch_fused",
        remove_unused_columns=False, disable_tqdm=True, logging_strategy="no", save_strategy="no", report_to=[],
    )  # fmt: skip
    one = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])
    trainer = trl.DPOTrainer(
        other, args=config, train_dataset=one, processing_class=run.tokenizer, peft_config=adapter(p)
    )
    columns = table.to_pydict()
    sums = [sum(line) for line in columns["ref_logp"]]
    before, chosen, rejected = columns["prompt_ids"][::2], columns["response_ids"][::2], columns["response_ids"][1::2]
    trainer.train_dataset = Dataset.from_dict({
        "prompt_ids": before, "chosen_ids": chosen, "rejected_ids": rejected,
        "ref_chosen_logps": sums[::2], "ref_rejected_logps": sums[1::2],
        "length": [len(x) + max(len(y), len(z)) for x, y, z in zip(before, chosen, rejected, strict=True)],
    })  # fmt: skip
    return trainer


def trl_parity(run: Run, ours: Ours, trainer: Any, micro: int) -> dict[str, float | bool]:
    """Over the first pairs, with our adapter in TRL's model; TRL keeps it in bf16 beside a base in 4 bits."""
    mine = trained(ours.model)
    for name, parameter in trained(trainer.model).items():
        kept = parameter.dtype if torch.cuda.is_available() else torch.float32
        parameter.data = mine[name].data.to(kept, copy=True)

    def gradients(rows: Tensor) -> float:
        batch = trainer.data_collator([trainer.train_dataset[int(i)] for i in rows])
        with run.main.autocast():
            loss = trainer.compute_loss(
                trainer.model.train(), {name: x.to(run.main.device) for name, x in batch.items()}
            )
        loss.backward()
        return loss.item()

    return parity(ours, torch.arange(micro), gradients, trainer.model)
