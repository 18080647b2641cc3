"""What `python -m stages.check --memory` says that training needs, beside the peak of a process that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.state import AcceleratorState

from alol.algorithms.registry import FROM_DATA
from alol.base import memory as process
from alol.checks import memory, policy_shape
from alol.compute import launch
from alol.compute.launch import Machine
from alol.config import params
from alol.config.params import Params
from alol.config.sections import Scratch
from alol.data import row_store
from alol.data.row_store import Place
from alol.models import policies, scratch, trainable
from alol.models.policies import LoadedPolicy
from alol.training import loop, planning
from benchmarks import dialogues, measure, smollm2_model
from benchmarks.size import TINY, Size

UPDATES = 4  # after which the peak hardly grows: the allocator has met every size


@dataclass(frozen=True)
class Case:
    """A model of random weights, or SmolLM2 where `shape` is None; texts are of `longest` tokens, all of them."""

    name: str
    shape: Scratch | None
    tuning: str
    precision: str
    tokens: int  # of a pass
    longest: int = 256

    @property
    def params(self) -> Params:
        """The demo's, with this model and these texts."""
        p = params.load("demo", "nll", dialogues.ROOT)
        response = self.longest // 4
        sizes = {"tuning": self.tuning, "max_prompt": self.longest - response, "max_response": response}
        model = {"model": smollm2_model.MODEL} if self.shape is None else {"scratch": self.shape}
        limits = {"precision": self.precision, "tokens": self.tokens, "generate_batch": 1, "device": "cpu"}
        return dataclasses.replace(
            p,
            policy=dataclasses.replace(p.policy, **sizes, **model),
            launch=dataclasses.replace(p.launch, **limits),
            train=dataclasses.replace(p.train, batch_size=self.tokens // self.longest),
            rewards={},
            test_rewards={},
        )


def case(architecture: str, layers: int, width: int, tuning: str, precision: str, tokens: int) -> Case:
    shape = Scratch(architecture, layers, width, width // 64, context=256, vocabulary=4000, init_scale=1.0)
    return Case(f"{architecture}, {layers} x {width}, {tuning}, {precision}", shape, tuning, precision, tokens)


SMALL = case("gpt2", 4, 256, "full", "fp32", 2048)
CASES = (
    SMALL,
    case("llama", 6, 512, "full", "fp32", 4096),
    case("llama", 6, 512, "lora", "fp32", 4096),
    case("llama", 6, 512, "lora", "bf16", 4096),
    *(
        Case(f"SmolLM2-135M, {tuning}, {precision}", None, tuning, precision, 1024)
        for tuning, precision in (("full", "fp32"), ("lora", "fp32"), ("lora", "bf16"))
    ),
)


def compared(size: Size) -> Iterator[dict[str, Any]]:
    """Megabytes of stage train, as said and as measured."""
    for one in CASES[:1] if size == TINY else CASES:
        found = said(one), measure.in_process(measured, one)
        yield {
            "name": f"memory, {one.name}, passes of {one.tokens:,} tokens",
            "said mb": round(found[0]), "measured mb": round(found[1]),
            "said by measured": round(found[0] / found[1], 3),
        }  # fmt: skip


def said(one: Case) -> float:
    """Megabytes, before anything is loaded."""
    p = one.params
    found = memory.needs(p, policy_shape.shape_of(p, accelerator=False), accelerator=False)
    return next(need.total for need in found if need.stage == "train") / 2**20


def measured(one: Case) -> float:
    """The peak of this process, in megabytes, which does nothing but train."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(True)
    p, main = one.params, launch.accelerator(one.params.launch)
    policy = trainable.prepare(_loaded(p), p.policy, dialogues.ROOT, p.seed)
    draw = np.random.default_rng(0)
    rows = p.train.batch_size * UPDATES

    def ids(length: int) -> pa.Array:
        return pa.array(draw.integers(3, 2000, (rows, length)).tolist(), pa.list_(pa.int32()))

    table = pa.table({"prompt_ids": ids(p.policy.max_prompt), "response_ids": ids(p.policy.max_response)})
    examples = planning.Examples(row_store.keep(iter([table]), Place(None, main)), 0)
    plan = planning.Plan(torch.arange(rows).reshape(UPDATES, -1), [], discarded=0.0)
    kept = loop.Checkpointing(evaluate=lambda: 0.0, keep=lambda: None, bar=float("inf"))
    recipe = loop.Recipe(FROM_DATA["nll"], {}, p.train.optimizer)
    loop.fit(policy.model, examples, plan, recipe, Machine(main, p.launch), kept)
    return process.peak()


def _loaded(p: Params) -> LoadedPolicy:
    if p.policy.model != "scratch":
        model = policies.base_model(p.policy.model, None, quantized=p.policy.tuning == "qlora")
        return LoadedPolicy(
            model, policies.tokenizer_of(p.policy.model, None), policies.pointer(p.policy, "base", None)
        )
    model = scratch.new_model(p.policy.scratch, policy_shape.words(p.policy.scratch), p.seed)
    return LoadedPolicy(model, None, policies.pointer(p.policy, "base", None))
