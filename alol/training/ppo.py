"""PPO: the policy answers training prompts, its answers are scored, and it is moved towards those that were better.

The online baseline, with the settings of TRL's former PPO trainer: a value head on the policy's own hidden states, a
penalty on the log-ratio to the reference that adapts itself, clipped ratios and values. One step is one rollout of a
batch of prompts and `epochs` passes over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alol.algorithms import ppo as losses
from alol.algorithms.ppo import Options
from alol.base.errors import InputError
from alol.compute.batching import Batch, chunks, share
from alol.compute.ends import end_ids
from alol.compute.generate import Decoding, decode, sample_ids
from alol.compute.launch import Machine, from_main, placed, prepared, sum_gradients
from alol.compute.logprob import response_logp_and_states
from alol.compute.sharding import evened, gathered, shard
from alol.config.runs import check_warmup
from alol.config.sections import Optimizer
from alol.models.policies import LoadedPolicy
from alol.training.loop import (
    BestCheckpoint,
    Checkpointing,
    History,
    Learner,
    make_optimizer,
    make_schedule,
    remaining_steps,
)
from alol.training.planning import Plan


class ActorCritic(nn.Module):
    """The policy with a linear value head on the hidden state that predicts each response token."""

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model, self.value = model, nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)  # scores are centred, so V starts as their mean
        nn.init.zeros_(self.value.bias)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of the response tokens: [B, T] each, 0 on padding."""
        logp, states = response_logp_and_states(self.model, batch)
        with torch.autocast(states.device.type, enabled=False):  # 16 bits tell few values apart
            return logp, self.value(states).squeeze(-1) * batch.response_mask


@dataclass(frozen=True)
class Experience:
    """A rollout: token ids, and [B, T] tensors on the CPU over the response tokens."""

    prompts: list[list[int]]
    responses: list[list[int]]
    mask: Tensor
    logp: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class Environment:
    """The prompts that the policy answers, and the reward of an answer.

    `prompts` gives, of the numbers of prompts, their rows and their token ids. `reward` takes rows and response texts
    and returns the total rewards [B]; it is None in all processes but the main one, since only that one has the reward
    models.
    """

    prompts: Callable[[list[int]], tuple[list[dict[str, Any]], list[list[int]]]]
    reward: Callable[[list[dict[str, Any]], list[str]], np.ndarray] | None


@dataclass
class Trainer:
    """Trains `policy` with PPO on its own answers to the prompts of `environment`.

    `reference` computes the reference's log-probabilities [B, T] of a batch. `decoding` holds the seed of the run.
    """

    policy: LoadedPolicy
    reference: Callable[[Batch], Tensor]
    environment: Environment
    options: Options
    decoding: Decoding
    machine: Machine

    def __post_init__(self) -> None:
        self.accelerator, self.launch = self.machine.accelerator, self.machine.launch
        placed(self.policy.model, self.accelerator, trained=True)
        width = self.policy.model.config.hidden_size
        self.actor = ActorCritic(self.policy.model, width).to(self.accelerator.device)
        self.scorer = shard(prepared(self.actor, self.accelerator), self.machine)
        self.kl_coef, self.moments = self.options.kl_coef, losses.RunningMoments()

    def fit(self, plan: Plan, settings: Optimizer, checkpointing: Checkpointing) -> History:
        """Trains in place for `plan.draws` [steps, batch]; the best checkpoint is kept as in alol.training.loop.fit."""
        best = BestCheckpoint(self.scorer, checkpointing)
        settings = dataclasses.replace(settings, lr=settings.lr * self.options.lr_scale)
        optimizer = make_optimizer(self.actor, settings)
        steps = len(plan.draws) * self.options.epochs * self.options.minibatches
        check_warmup(settings, steps, "train")
        learner = Learner(self.actor, optimizer, make_schedule(optimizer, settings, steps))
        for step, drawn, bar in remaining_steps(plan, learner, best, self.accelerator, unit="step", caller=self):
            entry = self._step(step, drawn.tolist(), learner)
            best.history.curve.append({**entry, "update": step, "lr": learner.schedule.get_last_lr()[0]})
            bar.set_postfix(reward=f"{entry['reward']:.3f}", refresh=False)
        return best.finish()

    def state_dict(self) -> dict[str, Any]:
        return {"kl_coef": self.kl_coef, "moments": dataclasses.asdict(self.moments)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kl_coef, self.moments = state["kl_coef"], losses.RunningMoments(**state["moments"])

    def _step(self, step: int, drawn: list[int], learner: Learner) -> dict[str, float]:
        """One rollout of the prompts `drawn`, and `epochs` passes over it."""
        experience, entry = self._rollout(step, drawn)
        generator = torch.Generator().manual_seed(self.decoding.seed * 1_000_003 + step)
        sums: list[dict[str, float]] = []
        for _ in range(self.options.epochs):
            order = torch.randperm(len(drawn), generator=generator)
            for rows in order.tensor_split(self.options.minibatches):
                sums.append(self._minibatch(experience, rows.tolist()))
                if sums[-1]["ratio"] <= self.options.ratio_limit:
                    if self.options.clip_norm is not None:
                        nn.utils.clip_grad_norm_(self.actor.parameters(), self.options.clip_norm)
                    learner.optimizer.step()
                else:
                    sums[-1]["skipped"] = 1.0
                learner.schedule.step()
                learner.optimizer.zero_grad()
        if self.options.kl_target is not None:
            self.kl_coef = losses.adapted_kl_coef(
                self.kl_coef, entry["kl"], self.options.kl_target, len(drawn), self.options.kl_horizon
            )
        means = {name: float(np.mean([one[name] for one in sums])) for name in sums[0]}
        if not np.isfinite(means["loss"]):
            raise InputError(f"the loss is {means['loss']} at step {step}; lower algorithms.ppo.lr_scale")
        return {**means, **entry}

    @torch.no_grad()
    def _rollout(self, step: int, drawn: list[int]) -> tuple[Experience, dict[str, float]]:
        """Samples a response to each drawn prompt and scores it; every process ends with the whole rollout."""
        self.policy.model.eval()
        rows, prompts = self.environment.prompts(drawn)
        settings = dataclasses.replace(
            self.decoding.settings, sample=True, beams=1, repetition_penalty=1.0,
            temperature=self.options.temperature, top_p=self.options.top_p,
        )  # fmt: skip
        tokenizer = self.policy.tokenizer
        ends = end_ids(self.policy.model, tokenizer).union(self.decoding.ends)
        decoding = Decoding(settings, self.decoding.seed * 1_000_003 + step, ends, "sample")
        with gathered(self.scorer):
            responses = sample_ids(self.policy.model, tokenizer, prompts, decoding, self.machine)
        texts = [decode(tokenizer, ids, settings, ends) for ids in responses]
        reward = self.environment.reward
        scores = from_main(reward(rows, texts).tolist() if reward is not None else None, self.accelerator)
        raw = torch.tensor(scores, dtype=torch.float32)
        logp, values, ref_logp = self._measure(prompts, responses)
        mask = torch.zeros_like(logp)
        for i, ids in enumerate(responses):
            mask[i, : len(ids)] = 1
        rewards = losses.token_rewards(
            score=self._scaled(raw), logp=logp, ref_logp=ref_logp, mask=mask, kl_coef=self.kl_coef
        )
        advantages, returns = losses.gae(
            rewards=rewards, values=values, mask=mask, gamma=self.options.gamma, lam=self.options.lam
        )
        entry = {
            "reward": float(raw.mean()),
            "kl": float(((logp - ref_logp) * mask).sum(-1).mean()),
            "kl_coef": self.kl_coef,
            "length": float(mask.sum(-1).mean()),
        }
        return Experience(prompts, responses, mask, logp, values, losses.whiten(advantages, mask), returns), entry

    def _scaled(self, scores: Tensor) -> Tensor:
        self.moments.update(scores)
        if self.options.center_scores:
            scores = scores - self.moments.mean
        return scores / (self.moments.std + 1e-8) if self.options.scale_scores else scores

    def _measure(self, prompts: list[list[int]], responses: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, values and the reference's log-probabilities of a rollout: [B, T] each, on the CPU.

        The processes share the responses.
        """
        found = torch.zeros(3, len(prompts), max(map(len, responses)))
        lengths = [len(x) + len(y) for x, y in zip(prompts, responses, strict=True)]
        with gathered(self.scorer):
            for part, weight in self._parts(list(range(len(prompts))), lengths):
                batch = self._batch(prompts, responses, part)
                longest = batch.response_ids.shape[1]
                with self.accelerator.autocast():
                    measured = (*self.actor(batch), self.reference(batch))
                for target, source in zip(found, measured, strict=True):
                    target[part, :longest] += weight * source.float().cpu()
        # what others have measured is 0 here
        logp, values, ref_logp = self.accelerator.reduce(found.to(self.accelerator.device), reduction="sum").cpu()
        return logp, values, ref_logp

    def _parts(self, rows: list[int], lengths: list[int]) -> Iterator[tuple[list[int], float]]:
        """Yields the micro-batches of this process's share of `rows`, as numbers of rows, with their weight (`evened`).

        `lengths` are those of all rows.
        """
        accelerator = self.accelerator
        own = share([lengths[i] for i in rows], accelerator.num_processes, accelerator.process_index)
        mine = [rows[k] for k in own]
        parts = chunks([lengths[i] for i in mine], self.launch.micro_batch, self.launch.tokens)
        return evened([[mine[k] for k in part] for part in parts], rows, self.machine)

    def _batch(self, prompts: list[list[int]], responses: list[list[int]], rows: list[int]) -> Batch:
        pad_id = self.policy.tokenizer.pad_token_id
        return Batch([prompts[i] for i in rows], [responses[i] for i in rows], pad_id, self.accelerator.device)

    def _minibatch(self, experience: Experience, rows: list[int]) -> dict[str, float]:
        """Leaves the gradient of the mean loss over the tokens of `rows`; returns its parts and the mean ratio."""
        self.policy.model.train()
        tokens = float(experience.mask[rows].sum())
        lengths = [len(x) + len(y) for x, y in zip(experience.prompts, experience.responses, strict=True)]
        sums = torch.zeros(4, dtype=torch.float64)
        for micro, weight in self._parts(rows, lengths):
            batch = self._batch(experience.prompts, experience.responses, micro)
            longest = batch.response_ids.shape[1]
            names = ("mask", "logp", "values", "advantages", "returns")
            mask, old_logp, old_values, advantage, returns = (
                getattr(experience, name)[micro, :longest].to(self.accelerator.device) for name in names
            )
            logp, values = self.scorer(batch)
            options = self.options
            policy = losses.policy_loss(logp=logp, old_logp=old_logp, advantage=advantage, mask=mask, clip=options.clip)
            value = losses.value_loss(
                values=values, old_values=old_values, returns=returns, mask=mask, clip=options.value_clip
            )
            self.accelerator.backward((policy + options.value_weight * value) * (weight / tokens))
            ratio = (logp.detach() - old_logp).exp()
            clipped = ((ratio - 1).abs() > options.clip) * mask
            parts = (policy.detach(), value.detach(), (ratio * mask).sum(), clipped.sum())
            sums += weight * torch.stack(parts).double().cpu()
        if not self.machine.sharded:
            sum_gradients(self.actor, self.accelerator)
        reduced = self.accelerator.reduce(sums.to(self.accelerator.device).float(), reduction="sum") / tokens
        policy_loss, value_loss, ratio, clipped = reduced.tolist()
        loss = policy_loss + self.options.value_weight * value_loss
        names = ("loss", "policy_loss", "value_loss", "ratio", "clipped", "skipped")
        return dict(zip(names, (loss, policy_loss, value_loss, ratio, clipped, 0.0), strict=True))
