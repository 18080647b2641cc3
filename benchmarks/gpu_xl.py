"""GPT-2 XL in full: how much of the device's matrix rate goes into useful work."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config

from alol.compute.kernels import fused
from alol.config import params
from alol.models import trainable
from benchmarks import measure
from benchmarks.gpu_run import (
    SOURCE,
    Ours,
    Run,
    device,
    lengths,
    measured,
    say,
    settled,
    target,
    texts,
    useful,
    with_reference,
)

UTILISATION = 0.45  # target: of the matrix rate at least


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
        trainable.recompute(model)
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
