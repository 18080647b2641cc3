"""What an NVIDIA GPU is needed for, measured in one call on random weights of the published shapes.

LLaMA-7B in NF4 with LoRA: updates of A-LoL against the method written plainly, after a comparison of the loss and the
gradient; and a generation batch. GPT-2 XL in full: how much of the device's matrix rate goes into useful work. LLaMA
again: updates of DPO against TRL's trainer, where `trl` is installed. Needs neither dvc nor a hub, but 13 GB of disk.
The result is written after each part, so that what runs out of memory later takes nothing with it.

python -m benchmarks.gpu --out gpu.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerBase

from alol import algorithms, generate, launch, memory, models, params, train, tuning
from alol.batching import Batch, chunks
from alol.kernels import fused
from alol.logprob import ResponseLogp, response_logp
from benchmarks import measure, plain

SPEED, MEMORY, UTILISATION = 2.5, 0.5, 0.45  # targets: times as fast at least, of the memory at most, of the rate
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}  # relative, of the loss and of the gradient
NOISE = 1e-2  # that moves adapters off the reference, so that no importance weight is 1
SOURCE = Path(__file__).parents[1] / "params.yaml"


@dataclass(frozen=True)
class Sizes:
    """The command's options."""

    task: str
    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int
    prompt: int
    response: int
    batch: int
    micro: int
    tokens: int | None
    updates: int
    recompute: bool
    xl_layers: int
    xl_width: int
    xl_heads: int
    xl_vocabulary: int
    xl_batch: int
    xl_tokens: int | None


@dataclass(frozen=True)
class Run:
    """What the parts share; `folder` is where LLaMA's base lies."""

    sizes: Sizes
    main: Accelerator
    tokenizer: PreTrainedTokenizerBase
    folder: Path

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id

    def settings(self, algorithm: str, batch: int, tokens: int) -> params.Params:
        """The task's, with micro-batches that only their tokens limit."""
        p = params.load(self.sizes.task, algorithm, SOURCE)
        limits = {"micro_batch": 10**6, "tokens": tokens, "generate_batch": self.sizes.batch}
        settings = dataclasses.replace(p.launch, precision=precision(), recompute=self.sizes.recompute, **limits)
        return dataclasses.replace(p, launch=settings, train=dataclasses.replace(p.train, batch_size=batch))

    @property
    def tokens(self) -> int:
        """Padded tokens of one of our passes: half of the longest that `micro` rows of the plain method can be."""
        return self.sizes.tokens or self.sizes.micro * (self.sizes.prompt + self.sizes.response) // 2


def precision() -> str:
    return "bf16" if torch.cuda.is_available() else "fp32"


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def say(what: str) -> None:
    click.echo(what, err=True)


def settled(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, when the device is through with it."""
    result = work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, its seconds, and the peak in MiB: allocated on the GPU, without one that of the process."""
    cuda = torch.cuda.is_available()
    (torch.cuda.reset_peak_memory_stats if cuda else measure.reset_peak)()
    start = time.perf_counter()
    result = settled(work)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else memory.peak()
    return result, {"seconds": round(seconds, 3), "peak_memory_mb": round(peak, 1)}


def texts(words: int, sizes: Sizes, count: int, responses: int = 1) -> pa.Table:
    """Random ids of `count` prompts of varying length with `responses` each, and an advantage above 0.

    Lengths are log-normal as of dialogues: medians of 160 for prompts of at most 640 tokens and 50 for responses of at
    most 128, in proportion for other limits.
    """
    generator = np.random.default_rng(1)

    def drawn(limit: int, median: float, spread: float, number: int) -> list[list[int]]:
        lengths = generator.lognormal(np.log(median * limit), spread, number).round().clip(1, limit).astype(int)
        return [generator.integers(3, words, length).tolist() for length in lengths]

    rows = count * responses
    prompts = [ids for ids in drawn(sizes.prompt, 160 / 640, 0.8, count) for _ in range(responses)]
    columns = {
        "prompt_id": [str(i // responses) for i in range(rows)], "rank": [i % responses for i in range(rows)],
        "prompt_ids": prompts, "response_ids": drawn(sizes.response, 50 / 128, 0.6, rows),
        "advantage": generator.uniform(0.1, 1.0, rows).astype(np.float32),
    }  # fmt: skip
    return pa.table(columns)


def lengths(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the prompts and of the responses [N]."""
    found = (table[name].combine_chunks().value_lengths().to_numpy() for name in ("prompt_ids", "response_ids"))
    return next(found), next(found)


def useful(table: pa.Table) -> int:
    """Tokens of prompts and responses, padding not counted."""
    return int(sum(x.sum() for x in lengths(table)))


def with_reference(run: Run, p: params.Params, model: nn.Module, table: pa.Table) -> pa.Table:
    """`table` with the log-probabilities that `model` gives without its adapter."""
    prompts, responses = table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist()
    logp: list[list[float]] = [[] for _ in prompts]
    sizes = [len(x) + len(y) for x, y in zip(prompts, responses, strict=True)]
    without = getattr(model, "disable_adapter", contextlib.nullcontext)
    for part in chunks(sizes, p.launch.micro_batch, p.launch.tokens):
        batch = Batch([prompts[i] for i in part], [responses[i] for i in part], run.pad_id, run.main.device)
        with torch.no_grad(), without(), run.main.autocast():
            found = response_logp(model, batch).tolist()
        for i, line in zip(part, found, strict=True):
            logp[i] = line[: len(responses[i])]
    return table.append_column("ref_logp", pa.array(logp, pa.list_(pa.float32())))


def make_base(run: Run) -> None:
    """LLaMA's shape with random weights, in bf16 on disk."""
    sizes = run.sizes
    config = LlamaConfig(
        vocab_size=sizes.vocabulary, num_hidden_layers=sizes.layers, hidden_size=sizes.width,
        num_attention_heads=sizes.heads, intermediate_size=sizes.intermediate,
        max_position_embeddings=sizes.prompt + sizes.response, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(run.folder)
    run.tokenizer.save_pretrained(run.folder)


def base(run: Run) -> nn.Module:
    """The base as the pipeline loads it in NF4."""
    return models.base_model(str(run.folder), None, quantized=True).to(run.main.device)


def adapter(p: params.Params) -> LoraConfig:
    lora = p.policy.lora
    return LoraConfig(task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, target_modules=lora.targets)


def adapted(run: Run, p: params.Params) -> nn.Module:
    """The base with a new adapter, which leaves it as it is."""
    torch.manual_seed(1)
    model = get_peft_model(base(run), adapter(p)).to(run.main.device).eval()
    if p.launch.recompute:
        tuning.recompute(model)
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def moved(model: nn.Module) -> None:
    """Moves what is trained a little away from the reference."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * NOISE)


class Ours:
    """The pipeline's own step and optimizer over the rows of a table, in their order."""

    def __init__(self, run: Run, p: params.Params, model: nn.Module, table: pa.Table, algorithm: str) -> None:
        chosen = algorithms.FROM_DATA[algorithm]
        examples = (train.Groups if chosen.group else train.Examples)(table)
        self.model, self.size, self.clip_norm = model, p.train.batch_size, p.train.optimizer.clip_norm
        self.optimizer = train.make_optimizer(model, p.train.optimizer)
        scorer = run.main.prepare(ResponseLogp(model))
        self.step = train.Step(scorer, run.pad_id, examples, chosen, p.hyperparameters, p.launch, run.main)

    def rows(self, update: int) -> Tensor:
        return torch.arange(update * self.size, (update + 1) * self.size)

    def gradients(self, rows: Tensor) -> dict[str, float]:
        self.model.train()
        return self.step(rows)

    def apply(self) -> None:
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update(self, update: int) -> float:
        loss = self.gradients(self.rows(update))["loss"]
        self.apply()
        return loss


class Plain:
    """The plain method over the same rows, on the same policy and optimizer, with a second base as the reference."""

    def __init__(self, run: Run, p: params.Params, ours: Ours, table: pa.Table) -> None:
        self.run, self.ours, self.table, self.clip = run, ours, table, p.hyperparameters["clip"]
        self.reference = base(run).requires_grad_(False)

    def gradients(self, rows: Tensor) -> float:
        self.ours.model.train()
        return sum(self._micro_batch(part, len(rows)) for part in rows.split(self.run.sizes.micro))

    def _micro_batch(self, rows: Tensor, batch: int) -> float:
        chosen = self.table.take(pa.array(rows.numpy()))
        prompts, responses = chosen["prompt_ids"].to_pylist(), chosen["response_ids"].to_pylist()
        advantages = torch.tensor(chosen["advantage"].to_numpy(), device=self.run.main.device)
        with self.run.main.autocast():
            loss = plain.a_lol(
                self.ours.model, self.reference, prompts, responses, advantages, self.clip, self.run.pad_id
            )
        loss = loss * len(rows) / batch
        loss.backward()
        return loss.item()

    def update(self, update: int) -> None:
        self.gradients(self.ours.rows(update))
        self.ours.apply()


def parity(
    ours: Ours, rows: Tensor, theirs: Callable[[Tensor], float], model: nn.Module | None = None
) -> dict[str, float | bool]:
    """Relative differences of the loss and of the gradient, which `theirs` leaves on `model` (ours if None)."""
    loss = ours.gradients(rows)["loss"]
    mine = _taken(ours.model)
    expected = theirs(rows)
    others = _taken(model or ours.model)
    difference = sum(((mine[name] - one) ** 2).sum().double() for name, one in others.items())
    scale = sum((one**2).sum().double() for one in others.values())
    found = {"loss": abs(loss - expected) / abs(expected), "gradient": float((difference / scale) ** 0.5)}
    limit = TOLERANCE[precision()]
    return {**found, "tolerance": limit, "passed": mine.keys() == others.keys() and max(found.values()) <= limit}


def _taken(model: nn.Module) -> dict[str, Tensor]:
    """The gradients by name, in fp32, taken off the model."""
    found = {name: parameter.grad.float() for name, parameter in trained(model).items() if parameter.grad is not None}
    model.zero_grad()
    return found


def llama(run: Run) -> dict[str, Any]:
    """A-LoL against the plain method. Our memory is measured before the reference is loaded."""
    sizes = run.sizes
    p = run.settings("a_lol", sizes.batch, run.tokens)
    say("LLaMA: making and loading the base")
    model, loading = measured(lambda: (make_base(run), adapted(run, p))[1])
    table = with_reference(run, p, model, texts(sizes.vocabulary, sizes, sizes.updates * sizes.batch))
    ours = Ours(run, p, model, table, "a_lol")
    first = ours.gradients(ours.rows(0))
    ours.optimizer.zero_grad()
    say("LLaMA: our updates")
    losses, alone = measured(lambda: [ours.update(i) for i in range(sizes.updates)])
    say("LLaMA: generation")
    written = generation(run, p, model, table["prompt_ids"].to_pylist()[: sizes.batch])
    say("LLaMA: loading the plain method's reference, and comparing losses and gradients")
    moved(model)
    theirs = Plain(run, p, ours, table)
    same = parity(ours, ours.rows(0), theirs.gradients)
    say("LLaMA: updates of the plain method")
    _, beside = measured(lambda: [theirs.update(i) for i in range(sizes.updates)])
    say("LLaMA: both in turn")
    times: tuple[list[float], list[float]] = [], []
    for i in range(sizes.updates):
        times[0].append(measure.timed(settled, ours.update, i))
        times[1].append(measure.timed(settled, theirs.update, i))
    speed = measure.ratio(*times)
    share = alone["peak_memory_mb"] / beside["peak_memory_mb"]
    return {
        "parameters": sum(parameter.numel() for parameter in trained(model).values()),
        "making_and_loading": loading,
        "abs_log_ratio_of_the_first_update": first["abs_log_ratio"],
        "losses": losses,
        "training": measure.row(
            "a_lol", "the method written plainly", speed, **measure.speed(useful(table), times),
            memory_mb=alone["peak_memory_mb"], yardstick_memory_mb=beside["peak_memory_mb"], parity=same,
            tokens_of_a_pass=run.tokens, updates=sizes.updates,
        ),
        "speed": target(speed.ratio, SPEED, same["passed"] and speed.ratio >= SPEED),
        "memory": target(share, MEMORY, same["passed"] and share <= MEMORY),
        "generation": written,
    }  # fmt: skip


def target(found: float, wanted: float, passed: bool) -> dict[str, float | bool]:
    """A figure beside its target; what was not computed alike does not pass."""
    return {"found": round(found, 4), "target": wanted, "passed": bool(passed)}


def generation(run: Run, p: params.Params, model: nn.Module, prompts: list[list[int]]) -> dict[str, float]:
    """Seconds, peak memory and speed of one batch of responses of full length."""
    model.eval()
    settings = dataclasses.replace(p.generate, max_new_tokens=run.sizes.response, stop=[], stop_ids=[])
    ids, found = measured(
        lambda: generate.sample_ids(
            model, run.tokenizer, prompts, settings, p.launch, seed=1, main=run.main, name="generate"
        )
    )
    return {**found, "tokens_per_second": round(sum(map(len, ids)) / found["seconds"], 1)}


def matrix_rate() -> float:
    """Operations a second of the device's fastest matrix products: bf16 on a GPU; the best of 10 rounds."""
    cuda = torch.cuda.is_available()
    size, rounds, dtype = (8192, 10, torch.bfloat16) if cuda else (512, 3, torch.float32)
    a, b = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))

    def products() -> None:
        for _ in range(rounds):
            torch.mm(a, b)

    settled(products)
    return 2 * size**3 * rounds / min(measure.timed(settled, products) for _ in range(10))


def operations(model: nn.Module, table: pa.Table) -> dict[str, dict[str, int]]:
    """Of forward and backward passes of a GPT-2 over the rows: needed for each, how many there are.

    A weight is multiplied and added once in the forward and twice in the backward pass, 6 operations a token. Tokens
    are the useful ones: no padding, and not the last of a response, which predicts nothing. Embeddings are looked up,
    which is free; the projection onto the vocabulary counts for response tokens alone, which alone are scored. In
    attention, each layer needs of a token 12 x width for each key: the products with keys and values, 2 x width each,
    forward, and twice that backward. A token's keys are those up to itself, n (n + 1) / 2 in a row of n tokens.
    """
    before, after = lengths(table)
    rows = before + after - 1
    config = model.config
    weights = sum(weight.numel() for weight in model.transformer.h.parameters() if weight.dim() == 2)
    return {
        "weights": {"each": 6 * weights, "count": int(rows.sum())},
        "projection": {"each": 6 * config.vocab_size * config.n_embd, "count": int(after.sum())},
        "attention": {"each": 12 * config.n_layer * config.n_embd, "count": int((rows * (rows + 1) // 2).sum())},
    }


def gpt2_xl(run: Run) -> dict[str, Any]:
    """Full training with the pipeline's step: fp32 weights under autocast, as it trains; on a GPU bf16 weights too."""
    say("matrix products")
    rate = matrix_rate()
    kinds = (torch.float32, torch.bfloat16) if torch.cuda.is_available() else (torch.float32,)
    found = {}
    for dtype in kinds:
        name = str(dtype).removeprefix("torch.")
        say(f"GPT-2 XL: updates of {name} weights")
        found[f"{name}_weights"] = utilisation(run, dtype, rate)
        run.main.free_memory()
    return {"matrix_operations_per_second": rate, **found}


def utilisation(run: Run, dtype: torch.dtype, rate: float) -> dict[str, Any]:
    """The operations that useful tokens need, a second, over `rate`. Every row is run once before it is timed."""
    sizes = run.sizes
    tokens = sizes.xl_tokens or params.load(sizes.task, "a_lol", SOURCE).launch.tokens
    p = run.settings("a_lol", sizes.xl_batch, tokens)
    adamw = dataclasses.replace(p.train.optimizer, name="adamw")
    p = dataclasses.replace(p, train=dataclasses.replace(p.train, optimizer=adamw))
    config = GPT2Config(
        vocab_size=sizes.xl_vocabulary, n_layer=sizes.xl_layers, n_embd=sizes.xl_width, n_head=sizes.xl_heads,
        n_positions=sizes.prompt + sizes.response, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        bos_token_id=run.pad_id, eos_token_id=run.pad_id,
    )  # fmt: skip
    with torch.device(device()):
        model = fused(AutoModelForCausalLM.from_config(config, dtype=dtype))
    if p.launch.recompute:
        tuning.recompute(model)
    table = with_reference(run, p, model, texts(sizes.xl_vocabulary, sizes, sizes.updates * sizes.xl_batch))
    ours = Ours(run, p, model, table, "a_lol")
    _, used = measured(lambda: [ours.update(i) for i in range(sizes.updates)])
    seconds = sum(measure.timed(settled, ours.update, i) for i in range(sizes.updates))
    work = operations(model, table)
    done = {name: part["each"] * part["count"] for name, part in work.items()}
    share = sum(done.values()) / seconds / rate
    return {
        "seconds": seconds,
        "peak_memory_mb": used["peak_memory_mb"],
        "tokens_per_second": round(useful(table) / seconds, 1),
        "operations": work,
        "utilisation": target(share, UTILISATION, share >= UTILISATION),
        "utilisation_without_attention": round(share - done["attention"] / seconds / rate, 4),
    }


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


@click.command()
@click.option("--task", default="hha", help="Whose settings of adapter, optimizer and generation are used.")
@click.option("--layers", default=32, help="The defaults are LLaMA-7B's.")
@click.option("--width", default=4096)
@click.option("--heads", default=32)
@click.option("--intermediate", default=11008)
@click.option("--vocabulary", default=32000)
@click.option("--prompt", default=640, help="Tokens of a prompt, at most.")
@click.option("--response", default=128, help="Tokens of a response, at most.")
@click.option("--batch", default=16, help="Responses of an update, and prompts of the generation batch.")
@click.option("--micro", default=4, help="Responses of one pass of the plain method.")
@click.option("--tokens", type=int, help="Padded tokens of one of our passes; else half of the plain method's most.")
@click.option("--updates", default=8, help="Timed, on each side.")
@click.option("--recompute/--keep-activations", default=False, help="Gradient checkpointing, on both sides.")
@click.option("--xl-layers", default=48, help="The defaults are GPT-2 XL's.")
@click.option("--xl-width", default=1600)
@click.option("--xl-heads", default=25)
@click.option("--xl-vocabulary", default=50257)
@click.option("--xl-batch", default=64, help="Responses of an update.")
@click.option("--xl-tokens", type=int, help="Padded tokens of one pass; else launch.tokens of params.yaml.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the result.")
def main(out: Path | None, **options: Any) -> None:
    """Measure updates and generation on random models of LLaMA-7B's and GPT-2 XL's shape."""
    sizes = Sizes(**options)
    result: dict[str, Any] = {**measure.machine(), "precision": precision(), "sizes": dataclasses.asdict(sizes)}
    settings = dataclasses.replace(params.load(sizes.task, "a_lol", SOURCE).launch, precision=precision())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = models.train_tokenizer(["a few words for a tokenizer"], 300)
        run = Run(sizes, launch.accelerator(settings), tokenizer, Path(folder))
        for name, part in {"llama": llama, "gpt2_xl": gpt2_xl, "trl": against_trl}.items():
            result[name] = part(run)
            run.main.free_memory()
            text = json.dumps(result, indent=2)
            if out is not None:
                out.write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
