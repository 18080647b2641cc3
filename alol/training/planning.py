"""Plans a run: which examples of a table an algorithm trains on, and which of them each update draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from alol.algorithms import sampling, selection
from alol.algorithms.offline import Algorithm
from alol.algorithms.selection import Selection
from alol.base.errors import InputError
from alol.compute.batching import Batch
from alol.config.runs import check_warmup
from alol.config.sections import Train
from alol.data.row_store import RowStore, Source

TOKENS = ("prompt_ids", "response_ids")
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
    """Rows of token ids, beside `ref_logp`, `reward` or `advantage`. `pad_id` fills the ends of a Batch."""

    responses = 1  # of one example

    def __init__(self, rows: RowStore | pa.Table, pad_id: int) -> None:
        self.rows, self.pad_id = rows if isinstance(rows, RowStore) else RowStore.of(rows), pad_id
        self.lengths = self.rows.lengths(*TOKENS)  # of prompt and response together

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray:
        return self.rows.column(name)

    def shaped(self, tokens: Tensor) -> Tensor:
        """Reshapes numbers of response tokens [B x responses, T] to the shape that the loss takes."""
        return tokens

    def batch(self, rows: list[int], columns: tuple[str, ...], device: torch.device) -> tuple[Batch, dict]:
        """A Batch of the rows and their `columns`: ref_logp [B, T], the others [B]."""
        taken = self.rows.take(rows)
        batch = Batch(taken["prompt_ids"].to_pylist(), taken["response_ids"].to_pylist(), self.pad_id, device)
        extra = {name: _tensor(taken[name], device) for name in columns if name != "ref_logp"}
        if "ref_logp" in columns:
            values = [torch.tensor(row) for row in taken["ref_logp"].to_pylist()]
            extra["ref_logp"] = nn.utils.rnn.pad_sequence(values, batch_first=True).to(device)
        return batch, extra


def _tensor(column: pa.ChunkedArray, device: torch.device) -> Tensor:
    """Numbers [B], or lists of equally many numbers [B, k]."""
    if pa.types.is_list(column.type):
        return torch.tensor(column.to_pylist(), device=device)
    return torch.tensor(column.to_numpy(), device=device)


class Groups(Examples):
    """Prompts with all their responses by rank; K is the largest number of responses to a prompt.

    A Batch of B prompts has B x K rows. A response that a prompt lacks is one without a token: its mask is 0.
    """

    def __init__(self, rows: RowStore | pa.Table, pad_id: int) -> None:
        super().__init__(rows, pad_id)
        prompts = _numbered(self.rows.chunks("prompt_id"))
        order, counts = np.lexsort((self.column("rank"), prompts)), np.bincount(prompts)
        self._order = order[(counts > 1)[prompts[order]]]  # rows of the first prompt by rank, of the second, ...
        counts = counts[counts > 1]
        self._starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
        self.responses = int(counts.max(initial=1))
        longest = np.maximum.reduceat(self.lengths[self._order], self._starts[:-1]) if len(counts) else counts
        self.lengths = longest.astype(np.int64) * self.responses

    def __len__(self) -> int:
        return len(self._starts) - 1

    def members(self, i: int) -> list[int]:
        """The rows of prompt `i`, by rank."""
        return self._order[self._starts[i] : self._starts[i + 1]].tolist()

    def shaped(self, tokens: Tensor) -> Tensor:
        """Reshapes [B x K, T] to [B, K, T]."""
        return tokens.view(-1, self.responses, tokens.shape[-1])

    def batch(self, rows: list[int], columns: tuple[str, ...], device: torch.device) -> tuple[Batch, dict]:
        """A Batch of the prompts `rows` and their `columns`: ref_logp [B, K, T], the others [B, K]."""
        members = [self.members(i) for i in rows]
        present = [k < len(group) for group in members for k in range(self.responses)]
        indices = [row for group in members for row in group + group[:1] * (self.responses - len(group))]
        taken = self.rows.take(indices).select([*TOKENS, *columns]).to_pydict()
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


def _numbered(names: pa.ChunkedArray) -> np.ndarray:
    """A number for each name [rows]: 0 for the first and those that are equal, 1 for the next that differs, ..."""
    encoded = pc.dictionary_encode(names.cast(pa.large_string()))  # beyond 2^31 bytes of names
    return np.concatenate([np.zeros(0, dtype=np.int32), *(chunk.indices.to_numpy() for chunk in encoded.chunks)])


def selected(source: Source, train_on: str, *names: str) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Which rows `train_on` selects [rows], the columns `names` of these, and the share of them with A <= 0."""
    numbers = source.numbers("rank", "advantage", *names)
    rank = numbers.pop("rank")
    chosen = rank == 0 if train_on == "preferred" else np.ones(len(rank), dtype=bool)
    numbers = {name: values if chosen.all() else values[chosen] for name, values in numbers.items()}
    return chosen, numbers, float((numbers["advantage"] <= 0).mean())


def plan(source: Source, algorithm: Algorithm, settings: Train, seed: int, pad_id: int) -> tuple[Examples, Plan]:
    """Selects the examples that an algorithm trains on, and draws those of each update.

    `train_on` selects the ranks; under the filter only A > 0 are kept, and `discarded` is the share of those rows
    that had none. Algorithms over groups take every prompt that has two responses or more, whatever `train_on` says.
    Of the table no row and no column is held that is not trained on. Raises InputError when nothing is left, or when a
    reward algorithm meets a negative reward.
    """
    rule = selection.of(algorithm, settings)
    if algorithm.group:
        return _groups(source, algorithm, settings, seed, pad_id)
    kept, numbers, discarded = selected(source, settings.train_on, "reward")
    advantage, share = numbers["advantage"], 1.0
    rows, warning = len(advantage), _warning(numbers, algorithm, rule, settings.batch_size)
    if "reward" in algorithm.columns and not algorithm.signed and (lowest := float(numbers["reward"].min())) < 0:
        raise InputError(
            f"this algorithm needs rewards >= 0, but the lowest is {lowest:.4g}; "
            f"raise {SHIFT} by at least {-lowest:.4g}, or choose an advantage algorithm"
        )
    if rule.positive:
        positive = advantage > 0
        kept[kept] = positive
        numbers = {name: values[positive] for name, values in numbers.items()}
        share = 1.0 - discarded
        if not positive.any():
            raise InputError(
                f"none of the {rows} training examples has a positive advantage: no reward is above V(x); "
                f"{warning or ADVICE}, or use an algorithm that does not filter (nll, wbc, r_gold, r_lol), with "
                "train.filter: auto"
            )
    count, weights = len(numbers["reward"]), _weights(numbers, rule.by)
    if weights is not None and not weights.sum() > 0:
        raise InputError(
            f"every training {'reward' if rule.by == 'reward' else 'advantage'} is 0: nothing to draw by; set "
            f"train.sampling: uniform or raise {SHIFT}"
        )
    size = rows if weights is not None else count
    why = f" ({warning})" if warning else f", of which {count} have a reward above V(x)" if share < 1 else ""
    share = share if weights is not None else 1.0
    updates = sampling.run_length(settings.updates, settings.epochs, size, settings.batch_size, share, "train", why)
    check_warmup(settings.optimizer, updates, "train")
    order = sampling.draws(count, updates, settings.batch_size, seed, weights)
    points = sampling.evaluation_points(updates, settings.evaluations)
    del numbers, advantage, weights  # before the rows come into memory
    examples = Examples(source.rows((*TOKENS, *algorithm.columns), kept), pad_id)
    return examples, Plan(order, points, discarded, warning)


def _weights(numbers: dict[str, np.ndarray], by: str | None) -> np.ndarray | None:
    """The numbers in proportion to which rows are drawn [rows]."""
    if by is None:
        return None
    return np.abs(numbers["advantage"]) if by == "abs_advantage" else numbers[by]


def _warning(numbers: dict[str, np.ndarray], algorithm: Algorithm, rule: Selection, batch_size: int) -> str:
    """Says why little can be learnt from the rewards: all are equal, or fewer than a batch count. Empty if neither."""
    rewards = numbers["reward"]
    used = {*algorithm.columns, "advantage"} if rule.positive else {*algorithm.columns}
    if not len(rewards) or not {"reward", "raw_reward", "advantage"} & used:
        return ""
    if rewards.max() == rewards.min():
        number = f"{rewards[0]:.4g}"
        return f"all {len(rewards)} training rewards are {number}, so that they tell no example from another; {ADVICE}"
    column = "advantage" if rule.positive else algorithm.priority
    above = int((_weights(numbers, column) > 0).sum()) if column else len(rewards)
    if 0 < above < min(batch_size, len(rewards)):
        bar = "V(x)" if column == "advantage" else "0"
        return (
            f"only {above} of the {len(rewards)} training rewards are above {bar}, the others teach nothing; {ADVICE}"
        )
    return ""


def _groups(source: Source, algorithm: Algorithm, settings: Train, seed: int, pad_id: int) -> tuple[Examples, Plan]:
    """The plan of an algorithm over groups: all of them, drawn uniformly."""
    _, _, discarded = selected(source, settings.train_on)
    numbers = source.numbers("advantage", "reward")
    groups = Groups(source.rows(("prompt_id", "rank", *TOKENS, *algorithm.columns)), pad_id)
    if not len(groups):
        raise InputError(
            f"this algorithm compares responses to one prompt, but none of the {len(groups.rows)} training rows has a "
            "second response to its prompt; give the source pairs (ranked responses), or choose an algorithm that "
            "learns from single responses (a_lol, wbc, nll, ...)"
        )
    warning = _warning(numbers, algorithm, selection.of(algorithm, settings), settings.batch_size)
    updates = sampling.run_length(settings.updates, settings.epochs, len(groups), settings.batch_size, 1.0, "train")
    check_warmup(settings.optimizer, updates, "train")
    order = sampling.draws(len(groups), updates, settings.batch_size, seed)
    return groups, Plan(order, sampling.evaluation_points(updates, settings.evaluations), discarded, warning)
