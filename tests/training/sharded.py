"""What test_sharding runs in one process and in two, which share the weights. Each process writes what it saw as JSON.

`python -m tests.training.sharded FOLDER`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import pyarrow as pa
import torch
from accelerate.state import AcceleratorState

from alol.algorithms.registry import FROM_DATA
from alol.base.files import write_json
from alol.base.work import Work
from alol.compute import launch
from alol.compute.dtensors import whole
from alol.compute.generate import Decoding, generate
from alol.compute.launch import Machine
from alol.compute.logprob import is_encoder_decoder
from alol.compute.progress import Progress
from alol.compute.sharding import shard
from alol.config import build, params
from alol.models import policies, trainable
from alol.training import loop, planning, reference
from alol.training.ppo import Environment, Options, Trainer
from tests import small
from tests.conftest import TEXTS, scratch, tiny_model
from tests.training.ranks import even, optimizer

ROWS = [
    ([5, 6, 7], [20, 21, 22, 1]), ([5, 6, 7], [23, 1]), ([8, 9], [30, 31, 1]), ([8, 9], [40, 1]), ([6], [41, 42]),
    ([6], [43]),
]  # fmt: skip
UNEVEN = [[0, 1, 2], [2, 0, 1]] * 10  # with two processes and one example a micro-batch: two of them and one
FEWER = [[0], [2], [1]] * 2  # than processes: one has no rows
ONLINE = [[0, 1, 2], [4, 3, 5]]
# at a higher rate a rounding grows within 20 updates, as without shards; so it does where a gradient is 0 but for it
LR, EPS = 1e-4, 1e-6
# name: algorithm, architecture, tuning, draws, keys of launch
RUNS = {
    "nll": ("nll", "gpt2", "full", UNEVEN, {}),
    "a_lol": ("a_lol", "llama", "full", UNEVEN, {}),
    "dpo": ("dpo", "gpt2", "full", UNEVEN, {}),
    "t5": ("nll", "t5", "full", UNEVEN[:6], {"recompute": True}),
    "nll_fewer": ("nll", "t5", "full", FEWER, {}),
    "a_lol_fewer": ("a_lol", "gpt2", "full", FEWER, {}),
    "dpo_fewer": ("dpo", "llama", "full", FEWER, {}),
    "lora": ("a_lol", "gpt2", "lora", UNEVEN[:6], {"precision": "bf16"}),
    "bf16": ("a_lol", "llama", "full", UNEVEN[:6], {"precision": "bf16", "recompute": True}),
}


def policy_of(architecture, tuning, tokenizer, settings):
    """A tiny model as `tuning` trains it."""
    model = tiny_model(architecture, tokenizer, init_scale=1.0 if architecture == "t5" else 5.0)  # 5: roundings grow
    start = policies.LoadedPolicy(model, tokenizer, policies.pointer(settings, None, None))
    settings = dataclasses.replace(settings, tuning=tuning)
    return trainable.prepare(start, settings, Path("reference"), 3)


def examples_of(name):
    columns = {"prompt_ids": [x for x, _ in ROWS], "response_ids": [y for _, y in ROWS]}
    table = {key: pa.array(ids, type=reference.IDS) for key, ids in columns.items()}
    table["ref_logp"] = pa.array([[-5.0 - 0.1 * t for t, _ in enumerate(y)] for _, y in ROWS], pa.list_(pa.float32()))
    table |= {"prompt_id": ["a", "a", "b", "b", "c", "c"], "rank": [0, 1] * 3}
    table |= {"advantage": pa.array([0.5, 0.1, 1.0, 0.2, 0.3, 0.4], pa.float32())}
    return (planning.Groups if FROM_DATA[name].group else planning.Examples)(pa.table(table), 0)


class Killed(Exception):
    """What ends a run at an evaluation."""


class EachStep(Progress):
    """Writes the state after each step and each evaluation, however long that takes."""

    written = 0

    def due(self, *, last=False):
        return True

    def write(self, *state):
        super().write(*state)
        self.written += 1


def machine_of(loaded, **keys):
    settings = dataclasses.replace(
        loaded.launch, device="cpu", micro_batch=1, shard=True, **{"precision": "fp32", **keys}
    )
    AcceleratorState._reset_state()  # which is of one precision
    return Machine(launch.accelerator(settings), settings)


def offline(loaded, machine, run, tokenizer, folder=None, work=None, kill=False):
    """Losses, norms and the answers of each evaluation; the last checkpoint is written into `folder`."""
    name, architecture, tuning, draws, _ = run
    policy = policy_of(architecture, tuning, tokenizer, loaded.policy)
    if machine.launch.recompute:
        trainable.recompute(policy.model)
    target = folder if machine.accelerator.is_main_process else None
    limit = 2 if FROM_DATA[name].group else 1  # a pair is one example
    machine = Machine(machine.accelerator, dataclasses.replace(machine.launch, micro_batch=limit))
    prompts = [x for x, _ in ROWS[::2]]
    one = planning.Examples(examples_of("nll").rows.take([0]), 0)
    answers, kept = [], []

    def evaluate():
        if kill:
            raise Killed
        decoding = Decoding(dataclasses.replace(loaded.generate, max_new_tokens=5, sample=False), 1)
        found = generate(policy.model, tokenizer, prompts, decoding, machine)
        answers.append([ids for _, ids in found])
        return -reference.mean_nll(policy.model, one, machine)

    def keep():
        kept.append(len(answers))
        if folder is not None:
            policies.save(policy, target)

    hyperparameters = loaded.hyperparameters if name == "a_lol" else {"beta": 0.1} if name == "dpo" else {}
    recipe = loop.Recipe(FROM_DATA[name], hyperparameters, optimizer(loaded, lr=LR, clip_norm=1.0, eps=EPS))
    progress = EachStep(Work(work, 0.0) if work is not None else None, machine.accelerator)
    rules = loop.Checkpointing(evaluate, keep, -1e9, progress)
    plan = planning.Plan(torch.tensor(draws), [0, len(draws) // 2, len(draws)], 0.0)
    history = loop.fit(policy.model, examples_of(name), plan, recipe, machine, rules)
    return {
        "loss": [entry["loss"] for entry in history.curve],
        "norm": [entry["grad_norm"] for entry in history.curve],
        "validation": [entry["reward"] for entry in history.validation],
        "answers": answers,
        "kept": kept,
        "written": progress.written,
        "weights": sum(float(whole(weight.detach()).double().abs().sum()) for weight in policy.model.parameters()),
    }


def resumed(loaded, first, second, tokenizer, folder):
    """A run that is killed after half of its updates on the `first` machine, and goes on on the `second`."""
    with contextlib.suppress(Killed):
        offline(loaded, first, RUNS["a_lol_fewer"], tokenizer, work=folder / "work", kill=True)
    first.accelerator.wait_for_everyone()
    return offline(loaded, second, RUNS["a_lol_fewer"], tokenizer, folder / "policy", folder / "work")


def held(machine, tokenizer):
    """Numbers that this process holds of the weights after an update, and of the moments of AdamW."""
    model = shard(tiny_model("gpt2", tokenizer), machine)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    return [sum(getattr(x, "_local_tensor", x).numel() for x in each) for each in (model.parameters(), moments)]


def online(loaded, machine, tokenizer, architecture, tuning, draws, folder):
    """The curve of two steps of PPO."""
    options = build.build(Options, params.load("demo", "ppo", root=small.ROOT).hyperparameters, "algorithms.ppo")
    policy = policy_of(architecture, tuning, tokenizer, loaded.policy)
    reward = even if machine.accelerator.is_main_process else None
    environment = Environment(lambda drawn: ([{} for _ in drawn], [ROWS[i][0] for i in drawn]), reward)
    folder = folder / f"reference_{machine.accelerator.process_index}"
    folder.mkdir(exist_ok=True)
    write_json(folder / "policy.json", policies.pointer(loaded.policy, None, None))  # of a reference without an adapter
    logp = trainable.frozen_logp(policy, folder, machine)
    ends = [] if is_encoder_decoder(policy.model) else range(200, 400)  # responses of one token and of six
    decoding = Decoding(dataclasses.replace(loaded.generate, max_new_tokens=6), 1, ends)
    trainer = Trainer(policy, logp, environment, options, decoding, machine)
    plan = planning.Plan(torch.tensor(draws), [len(draws)], 0.0)
    rules = loop.Checkpointing(lambda: 1.0, lambda: None, 0.0)
    return trainer.fit(plan, optimizer(loaded, lr=LR), rules).curve


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    loaded = params.load("demo", "a_lol", root=small.ROOT)
    tokenizer = scratch.train_tokenizer(TEXTS * 3, 400)
    found = {
        name: offline(loaded, machine_of(loaded, **run[-1]), run, tokenizer, folder / name)
        for name, run in RUNS.items()
    }
    sharded = machine_of(loaded)
    plain = Machine(sharded.accelerator, dataclasses.replace(sharded.launch, shard=False))
    found["resumed"] = resumed(loaded, sharded, sharded, tokenizer, folder / "resumed")
    found["without"] = resumed(loaded, sharded, plain, tokenizer, folder / "without")
    found["later"] = resumed(loaded, plain, sharded, tokenizer, folder / "later")
    found["ppo"] = online(loaded, sharded, tokenizer, "llama", "full", ONLINE, folder)
    found["held_weights"], found["held_state"] = held(sharded, tokenizer)
    # the answers that it samples depend on the number of processes
    found["ppo_t5"] = [online(loaded, one, tokenizer, "t5", "full", ONLINE, folder) for one in (sharded, plain)]
    found["ppo_fewer"] = online(loaded, sharded, tokenizer, "gpt2", "full", [[0], [2]], folder)
    found["ppo_lora"] = online(loaded, sharded, tokenizer, "llama", "lora", ONLINE, folder)
    (folder / f"{sharded.accelerator.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
