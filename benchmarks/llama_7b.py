"""One a_lol run and one generation batch of the paper's sizes on a LLaMA-7B-shaped base with random weights in NF4.

Needs neither dvc nor a hub: the base is made here, saved to a temporary folder (13 GB at full size), and loaded by the
pipeline's own code; training and generation are the pipeline's as well, with the settings of a task of params.yaml.

python -m benchmarks.llama_7b --out llama_7b.json
"""

from __future__ import annotations

import dataclasses
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase

from alol import algorithms, generate, launch, models, params, train, tuning
from alol.batching import Batch
from alol.logprob import response_logp


def random_base(config: LlamaConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> nn.Module:
    """A base with random weights, in bf16 on disk, as the pipeline loads it in NF4."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return models.base_model(str(folder), None, quantized=True)


def examples(model: nn.Module, count: int, prompt: int, response: int, pad_id: int, device: torch.device) -> pa.Table:
    """`count` rows of random ids of those lengths, advantage 1, and the model's own log-probabilities."""
    words = model.config.vocab_size
    ids = np.random.default_rng(1).integers(3, words, (count, prompt + response))
    prompts, responses = ids[:, :prompt].tolist(), ids[:, prompt:].tolist()
    logp = []
    for one, answer in zip(prompts, responses, strict=True):
        with torch.no_grad():
            logp += response_logp(model, Batch([one], [answer], pad_id, device)).float().tolist()
    ones = [1.0] * count
    columns = {"prompt_ids": prompts, "response_ids": responses, "ref_logp": logp, "reward": ones, "advantage": ones}
    return pa.table({**columns, "rank": [0] * count})


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, its seconds, and its peak memory in MiB (of the accelerator where there is one)."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.monotonic() - start
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else process
    return result, {"seconds": round(seconds, 3), "peak_memory_mb": round(peak, 1)}


def measure(
    p: params.Params, config: LlamaConfig, prompt: int, response: int, updates: int, folder: Path
) -> dict[str, Any]:
    """Seconds, tokens a second and peak memory of loading, of `updates` updates after a first, and of generation."""
    main: Accelerator = launch.accelerator(p.launch)
    tokenizer = models.train_tokenizer(["a few words for a tokenizer"], 300)
    pad_id = tokenizer.pad_token_id
    model, loading = timed(lambda: random_base(config, tokenizer, folder))
    lora = p.policy.lora
    adapter = LoraConfig(task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, target_modules=lora.targets)
    model = get_peft_model(model, adapter).to(main.device).eval()
    if p.launch.recompute:
        tuning.recompute(model)
    size = p.train.batch_size
    with main.autocast():
        table = examples(model, size, prompt, response, pad_id, main.device)

    def fit(count: int) -> train.History:
        plan = train.Plan(torch.stack([_order(size, i) for i in range(count)]), [], 0.0)
        return train.fit(
            model, pad_id, train.Examples(table), plan, algorithms.FROM_DATA["a_lol"], p.hyperparameters,
            p.train.optimizer, p.launch, main, evaluate=lambda: 0.0, keep=lambda: None, bar=float("nan"),
        )  # fmt: skip

    first = fit(1).curve[0]  # compiles kernels
    history, training = timed(lambda: fit(updates))
    model.eval()
    settings = dataclasses.replace(p.generate, max_new_tokens=response, stop=[], stop_ids=[])
    prompts = table["prompt_ids"].to_pylist()
    ids, generation = timed(
        lambda: generate.sample_ids(model, tokenizer, prompts, settings, p.launch, seed=1, main=main, name="generate")
    )
    tokens = updates * size * (prompt + response)
    return {
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "making_and_loading": loading,
        "abs_log_ratio_of_the_first_update": first["abs_log_ratio"],
        "training": {**training, "updates": updates, "tokens_per_second": round(tokens / training["seconds"], 1)},
        "losses": [entry["loss"] for entry in history.curve],
        "generation": {**generation, "tokens_per_second": round(sum(map(len, ids)) / generation["seconds"], 1)},
    }


def _order(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


@click.command()
@click.option("--task", default="hha", help="Whose settings of adapter, optimizer and generation are used.")
@click.option("--layers", default=32, help="The defaults are LLaMA-7B's.")
@click.option("--width", default=4096)
@click.option("--heads", default=32)
@click.option("--intermediate", default=11008)
@click.option("--vocabulary", default=32000)
@click.option("--prompt", default=640, help="Tokens of a prompt.")
@click.option("--response", default=128, help="Tokens of a response.")
@click.option("--batch", default=16, help="Responses of an update, and prompts of the generation batch.")
@click.option("--micro", default=4, help="Responses of one forward and backward pass.")
@click.option("--updates", default=3, help="Measured after a first one.")
@click.option("--recompute/--keep-activations", default=False, help="Gradient checkpointing.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the result.")
def main(
    task: str, layers: int, width: int, heads: int, intermediate: int, vocabulary: int, prompt: int, response: int,
    batch: int, micro: int, updates: int, recompute: bool, out: Path | None,
) -> None:  # fmt: skip
    """Measure a training step and a generation batch on a random base of LLaMA's architecture in NF4."""
    p = params.load(task, "a_lol")
    limits = {"micro_batch": micro, "tokens": micro * (prompt + response), "generate_batch": batch}
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    p = dataclasses.replace(
        p,
        launch=dataclasses.replace(p.launch, precision=precision, recompute=recompute, **limits),
        train=dataclasses.replace(p.train, batch_size=batch),
    )
    config = LlamaConfig(
        vocab_size=vocabulary, num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads,
        intermediate_size=intermediate, max_position_embeddings=prompt + response, tie_word_embeddings=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = measure(p, config, prompt, response, updates, Path(folder))
    text = json.dumps(result, indent=2)
    click.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
