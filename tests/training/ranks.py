"""What test_ranks runs in one process and in two: the loops on few examples. Each process writes what it saw as JSON.

`python -m tests.training.ranks FOLDER`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from alol.algorithms.offline import OFFLINE
from alol.compute import launch
from alol.compute.generate import Decoding
from alol.compute.launch import Machine
from alol.config import build, params
from alol.models import policies, trainable
from alol.training import loop, planning, reference
from alol.training.ppo import Environment, Options, Trainer
from tests import small
from tests.conftest import TEXTS, scratch, tiny_model

ROWS = [([5, 6, 7], [20, 21, 22, 1]), ([5], [23, 1]), ([8, 9], [30, 31, 1]), ([5, 9, 7, 6], [40, 1]), ([6], [41, 42])]
UNEVEN = [[0, 1, 2], [3, 4, 0], [2, 1, 4]]  # with two processes and one row a micro-batch: two of them and one
FEWER = [[0], [3], [2]]  # than processes


def optimizer(loaded, **changes):
    return dataclasses.replace(loaded.train.optimizer, schedule="constant", warmup=0, **changes)


def offline(loaded, machine, tokenizer, draws, dropout=0.0):
    """Losses, validation and the sum of the trained weights of a run over `ROWS`."""
    torch.manual_seed(7)
    model = tiny_model("gpt2", tokenizer)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    columns = {"prompt_ids": [x for x, _ in ROWS], "response_ids": [y for _, y in ROWS]}
    table = pa.table({name: pa.array(ids, type=reference.IDS) for name, ids in columns.items()})
    examples, one = planning.Examples(table, 0), planning.Examples(table.slice(0, 1), 0)
    plan = planning.Plan(torch.tensor(draws), [len(draws)], 0.0)
    recipe = loop.Recipe(OFFLINE["nll"], {}, optimizer(loaded, lr=1e-3, clip_norm=1.0))
    rules = loop.Checkpointing(lambda: -reference.mean_nll(model, one, machine), lambda: None, float("-inf"))
    history = loop.fit(model, examples, plan, recipe, machine, rules)
    return {
        "loss": [entry["loss"] for entry in history.curve],
        "norm": [entry["grad_norm"] for entry in history.curve],
        "validation": [entry["reward"] for entry in history.validation],
        "weights": [float(weight.double().sum()) for weight in model.parameters()],
    }


def even(rows, texts):
    return np.array([np.mean([ord(c) % 2 == 0 for c in text]) if text else 0.0 for text in texts])


def online(loaded, machine, tokenizer, draws):
    """The curve of PPO over `draws`, and how many responses this process measured in each rollout."""
    options = build.build(Options, loaded.hyperparameters, "algorithms.ppo")
    policy = policies.LoadedPolicy(tiny_model("gpt2", tokenizer), tokenizer, {"base": None})
    prompts = [prompt for prompt, _ in ROWS]
    reward = even if machine.accelerator.is_main_process else None
    environment = Environment(lambda drawn: ([{} for _ in drawn], [prompts[i] for i in drawn]), reward)
    logp, measured = trainable.frozen_logp(policy, None), [0]

    def counted(batch):
        measured[0] += len(batch.prompts)
        return logp(batch)

    decoding = Decoding(dataclasses.replace(loaded.generate, max_new_tokens=6), 1)
    trainer = Trainer(policy, counted, environment, options, decoding, machine)
    plan = planning.Plan(torch.tensor(draws), [len(draws)], 0.0)
    history = trainer.fit(plan, optimizer(loaded, lr=1e-3), loop.Checkpointing(lambda: 1.0, lambda: None, 0.0))
    weights = [float(weight.double().sum()) for weight in trainer.actor.parameters()]
    return {"curve": history.curve, "measured": measured[0] / len(draws), "weights": weights}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    loaded = params.load("demo", "ppo", root=small.ROOT)
    settings = dataclasses.replace(loaded.launch, device="cpu", precision="fp32", micro_batch=1)
    accelerator = launch.accelerator(settings)
    machine, tokenizer = Machine(accelerator, settings), scratch.train_tokenizer(TEXTS * 3, 400)
    layer = nn.Linear(2, 2)
    before = layer.weight.data_ptr()
    launch.placed(layer, accelerator, trained=False)
    torch.manual_seed(5)
    launch.prepared(nn.Linear(2, 2), accelerator)
    found = {
        "moved": layer.weight.data_ptr() != before,
        "drawn": torch.rand(4).tolist(),
        "uneven": offline(loaded, machine, tokenizer, UNEVEN),
        "fewer": offline(loaded, machine, tokenizer, FEWER),
        "dropout": [offline(loaded, machine, tokenizer, UNEVEN, dropout=0.5) for _ in range(2)],
        "ppo": online(loaded, machine, tokenizer, UNEVEN[:2]),
        "ppo_fewer": online(loaded, machine, tokenizer, FEWER[:2]),
    }
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
