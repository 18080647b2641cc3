"""Plans a run: which examples of a table an algorithm trains on, and which of them each update draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from alol.algorithms import sampling, selection
from alol.algorithms.offline import Algorithm
from alol.algorithms.selection import Selection
from alol.base.errors import InputError
from alol.compute.batching import Batch
from alol.config.runs import check_warmup
from alol.config.sections import Train

SHIFT = "reward.shift"  # the parameter that raises all rewards
ADVICE = "check what the reward's components compute, and their weights"


@dataclass(frozen=True)
class Plan:
    """The plan of a run: `draws` [updates, batch] are indices of examples; after the updates `points` it is evaluated.

    `discarded` is the share of responses with A <= 0. `warning` says why the run can learn little, if it can.
    """

    draws: Tensor
    points: list[int]
    discarded: float
    warning: str = ""


class Examples:
    """The rows of an Arrow table: token ids, `ref_logp`, `reward`, `advantage`. `pad_id` fills the ends of a Batch."""

    responses = 1  # of one example

    def __init__(self, table: pa.Table, pad_id: int) -> None:
        self.table, self.pad_id = table.combine_chunks(), pad_id
        names = ("prompt_ids", "response_ids")
        self.lengths = sum(self.table[name].combine_chunks().value_lengths().to_numpy() for name in names)

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> np.ndarray:
        return self.table[name].to_numpy()

    def shaped(self, tokens: Tensor) -> Tensor:
        """Reshapes numbers of response tokens [B x responses, T] to the shape that the loss takes."""
        return tokens

    def batch(self, rows: list[int], columns: tuple[str, ...], device: torch.device) -> tuple[Batch, dict]:
        """A Batch of the rows and their `columns`: ref_logp [B, T], the others [B]."""
        taken = self.table.take(pa.array(rows))
        batch = Batch(taken["prompt_ids"].to_pylist(), taken["response_ids"].to_pylist(), self.pad_id, device)
        extra = {name: torch.tensor(taken[name].to_numpy(), device=device) for name in columns if name != "ref_logp"}
        if "ref_logp" in columns:
            values = [torch.tensor(row) for row in taken["ref_logp"].to_pylist()]
            extra["ref_logp"] = nn.utils.rnn.pad_sequence(values, batch_first=True).to(device)
        return batch, extra


class Groups(Examples):
    """Prompts with all their responses by rank; K is the largest number of responses to a prompt.

    A Batch of B prompts has B x K rows. A response that a prompt lacks is one without a token: its mask is 0.
    """

    def __init__(self, table: pa.Table, pad_id: int) -> None:
        super().__init__(table, pad_id)
        members: dict[str, list[int]] = {}
        ranks, names = self.column("rank"), self.table["prompt_id"].to_pylist()
        for row, name in enumerate(names):
            members.setdefault(name, []).append(row)
        self.members = [sorted(rows, key=lambda row: ranks[row]) for rows in members.values() if len(rows) > 1]
        self.responses = max(map(len, self.members), default=1)
        longest = [max(self.lengths[row] for row in rows) for rows in self.members]
        self.lengths = np.array(longest) * self.responses

    def __len__(self) -> int:
        return len(self.members)

    def shaped(self, tokens: Tensor) -> Tensor:
        """Reshapes [B x K, T] to [B, K, T]."""
        return tokens.view(-1, self.responses, tokens.shape[-1])

    def batch(self, rows: list[int], columns: tuple[str, ...], device: torch.device) -> tuple[Batch, dict]:
        """A Batch of the prompts `rows` and their `columns`: ref_logp [B, K, T], the others [B, K]."""
        present = [k < len(self.members[i]) for i in rows for k in range(self.responses)]
        indices = [row for i in rows for row in self.members[i] + self.members[i][:1] * self._lacking(i)]
        taken = self.table.take(pa.array(indices)).select(["prompt_ids", "response_ids", *columns]).to_pydict()
        prompts, responses = taken.pop("prompt_ids"), taken.pop("response_ids")
        responses = [ids if here else [] for ids, here in zip(responses, present, strict=True)]
        batch = Batch(prompts, responses, self.pad_id, device)
        shape = (len(rows), self.responses)
        extra = {
            name: torch.tensor(values, device=device).view(shape) * torch.tensor(present, device=device).view(shape)
            for name, values in taken.items()
            if name != "ref_logp"
        }
        if "ref_logp" in columns:
            values = [torch.tensor(v if here else []) for v, here in zip(taken["ref_logp"], present, strict=True)]
            extra["ref_logp"] = self.shaped(nn.utils.rnn.pad_sequence(values, batch_first=True).to(device))
        return batch, extra

    def _lacking(self, i: int) -> int:
        return self.responses - len(self.members[i])


def selected(table: pa.Table, train_on: str) -> tuple[pa.Table, float]:
    """The rows that `train_on` selects, and the share of them whose advantage is not above 0."""
    if train_on == "preferred":
        table = table.filter(pa.array(table["rank"].to_numpy() == 0))
    return table, float((table["advantage"].to_numpy() <= 0).mean())


def plan(table: pa.Table, algorithm: Algorithm, settings: Train, seed: int, pad_id: int) -> tuple[Examples, Plan]:
    """Selects the examples that an algorithm trains on, and draws those of each update.

    `train_on` selects the ranks; under the filter only A > 0 are kept, and `discarded` is the share of those rows
    that had none. Algorithms over groups take every prompt that has two responses or more, whatever `train_on` says.
    Raises InputError when nothing is left, or when a reward algorithm meets a negative reward.
    """
    everything, rule = table, selection.of(algorithm, settings)
    table, discarded = selected(table, settings.train_on)
    if algorithm.group:
        groups, warning = (
            _groups(everything, pad_id),
            _warning(everything, algorithm, rule, settings.batch_size),
        )
        return groups, _uniform(groups, settings, seed, discarded, warning)
    advantage = table["advantage"].to_numpy()
    rows, share, warning = len(table), 1.0, _warning(table, algorithm, rule, settings.batch_size)
    if "reward" in algorithm.columns and (lowest := float(table["reward"].to_numpy().min())) < 0:
        raise InputError(
            f"this algorithm needs rewards >= 0, but the lowest is {lowest:.4g}; "
            f"raise {SHIFT} by at least {-lowest:.4g}, or choose an advantage algorithm"
        )
    if rule.positive:
        table = table.filter(pa.array(advantage > 0))
        share = 1.0 - discarded
        if not len(table):
            raise InputError(
                f"none of the {rows} training examples has a positive advantage: no reward is above V(x); "
                f"{warning or ADVICE}, or use an algorithm that does not filter (nll, wbc, r_gold, r_lol), with "
                "train.filter: auto"
            )
    weights = table[rule.by].to_numpy() if rule.by else None
    if weights is not None and not weights.sum() > 0:
        raise InputError(
            f"every training reward is 0: nothing to draw by; set train.sampling: uniform or raise {SHIFT}"
        )
    kept = rows if weights is not None else len(table)
    why = f" ({warning})" if warning else f", of which {len(table)} have a reward above V(x)" if share < 1 else ""
    share = share if weights is not None else 1.0
    updates = sampling.run_length(settings.updates, settings.epochs, kept, settings.batch_size, share, "train", why)
    check_warmup(settings.optimizer, updates, "train")
    order = sampling.draws(len(table), updates, settings.batch_size, seed, weights)
    points = sampling.evaluation_points(updates, settings.evaluations)
    return Examples(table, pad_id), Plan(order, points, discarded, warning)


def _warning(table: pa.Table, algorithm: Algorithm, rule: Selection, batch_size: int) -> str:
    """Says why little can be learnt from the rewards: all are equal, or fewer than a batch count. Empty if neither."""
    rewards = table["reward"].to_numpy()
    used = {*algorithm.columns, "advantage"} if rule.positive else {*algorithm.columns}
    if not len(rewards) or not {"reward", "raw_reward", "advantage"} & used:
        return ""
    if rewards.max() == rewards.min():
        number = f"{rewards[0]:.4g}"
        return f"all {len(rewards)} training rewards are {number}, so that they tell no example from another; {ADVICE}"
    column = "advantage" if rule.positive else algorithm.priority
    above = int((table[column].to_numpy() > 0).sum()) if column else len(rewards)
    if 0 < above < min(batch_size, len(rewards)):
        bar = "V(x)" if column == "advantage" else "0"
        return (
            f"only {above} of the {len(rewards)} training rewards are above {bar}, the others teach nothing; {ADVICE}"
        )
    return ""


def _groups(table: pa.Table, pad_id: int) -> Groups:
    groups = Groups(table, pad_id)
    if not len(groups):
        raise InputError(
            f"this algorithm compares responses to one prompt, but none of the {len(table)} training rows has a "
            "second response to its prompt; give the source pairs (ranked responses), or choose an algorithm that "
            "learns from single responses (a_lol, wbc, nll, ...)"
        )
    return groups


def _uniform(examples: Examples, settings: Train, seed: int, discarded: float, warning: str) -> Plan:
    updates = sampling.run_length(settings.updates, settings.epochs, len(examples), settings.batch_size, 1.0, "train")
    check_warmup(settings.optimizer, updates, "train")
    order = sampling.draws(len(examples), updates, settings.batch_size, seed)
    return Plan(order, sampling.evaluation_points(updates, settings.evaluations), discarded, warning)
