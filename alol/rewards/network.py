"""What all rewards that are networks share: loading, batches of similar lengths, and scores in the order of the rows.

The pieces that differ (how rows become tokens, how hidden states become a score) are in `classifier` and `preference`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoTokenizer

from alol.base.errors import InputError
from alol.compute import packed_models, packing
from alol.compute.batching import chunks
from alol.compute.kernels import fused
from alol.config import model_names
from alol.config.sections import Launch
from alol.models import loading
from alol.rewards import precision
from alol.rewards.components import Origin
from alol.rewards.folds import fold, fold_folder, key
from alol.rewards.options import FULL, Toxichat, Trainable


class Encoded(NamedTuple):
    """The token ids of one input, never empty, and the segment of each token."""

    ids: np.ndarray  # int32 [T]
    segments: np.ndarray  # int32 [T]


class Network(Protocol):
    """A model with its tokenizer, for one way of making an input of a row."""

    model: Any
    tokenizer: Any

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]: ...

    def logits(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """[B, C]"""


def device(launch: Launch) -> torch.device:
    """Where reward models run: on the processor, or the accelerator that this process is set to."""
    if launch.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def complete(load: Callable[..., Any], name: str, revision: str | None, where: str) -> Any:
    """A model in fp32 that lacks none of its weights: a head that starts at random would give meaningless scores."""
    return fused(loading.complete(load, name, revision, where, dtype=torch.float32))


def pad_id(tokenizer: Any, config: Any) -> int:
    """Any id will do where models mask by the attention mask; some encoders count positions by the pad id itself."""
    ids = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id)
    return next((i for i in ids if i is not None), 0)


def padded(rows: Sequence[Encoded], pad: int, segments: bool, where: torch.device) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask (and token_type_ids): [B, longest of these rows], padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.from_numpy(row.ids)
        types[i, : len(row.ids)] = torch.from_numpy(row.segments)
        mask[i, : len(row.ids)] = 1
    batch = {"input_ids": ids, "attention_mask": mask, **({"token_type_ids": types} if segments else {})}
    return {name: tensor.to(where) for name, tensor in batch.items()}


def batch_of(network: Network, rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    segments = "token_type_ids" in network.tokenizer.model_input_names
    return padded(rows, pad_id(network.tokenizer, network.model.config), segments, network.model.device)


def packed(network: Network, rows: Sequence[Encoded], **options: Any) -> packing.Packed:
    """Packs the inputs into one row of tokens, for architectures that run without padding."""
    return packing.sequences([row.ids.tolist() for row in rows], network.model.device, **options)


def last_states(network: Network, rows: Sequence[Encoded]) -> torch.Tensor:
    """The last hidden state of each input's last token [B, H], of a decoder that runs without padding."""
    texts = packed(network, rows)
    return packed_models.states(network.model, texts, texts.ends)


def last_attended(mask: torch.Tensor) -> torch.Tensor:
    """The position of the last attended token of each row [B], whichever side the padding is on."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (positions * mask.long()).argmax(-1)


def first_position(model: Any) -> int:
    """The position of a text's first token: encoders of the RoBERTa family start counting after their pad id."""
    padding = model.base_model.embeddings.position_embeddings.padding_idx
    return 0 if padding is None else padding + 1


def positions(model: Any) -> int:
    """How many tokens the model can take; encoders of the RoBERTa family start counting after their pad id."""
    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            limit = min(limit, module.num_embeddings)
            limit -= 0 if module.padding_idx is None else module.padding_idx + 1
    return limit


def by_length(lengths: Sequence[int], size: int) -> Iterator[np.ndarray]:
    """Indices in batches of `size` with like lengths, longest first: what does not fit into memory fails at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return (order[start : start + size] for start in range(0, len(order), size))


@torch.inference_mode()
def all_logits(network: Network, rows: Sequence[Encoded], options: Trainable | Toxichat, title: str) -> np.ndarray:
    """Computes the logits of all rows, float64 [N, C] in their order, in batches of similar lengths.

    What shares a batch decides how its logits are rounded, so it depends on the rows and the component's own options,
    as does the precision.
    """
    size, tokens = options.batch_size, options.batch_tokens
    network.model.eval()
    found: list[Any] = [None] * len(rows)
    bar = tqdm(total=len(rows), desc=title, unit="text", leave=False, disable=len(rows) < 4 * size)
    with bar, precision.computing(network.model, options.precision):
        for indices in chunks([len(row.ids) for row in rows], size, tokens):
            logits = network.logits([rows[i] for i in indices]).float().cpu().numpy()
            for index, logit in zip(indices, logits, strict=True):
                found[index] = logit
            bar.update(len(indices))
    return np.asarray(found, np.float64)


class NetworkReward(ABC):
    """A component that scores with a published network, or with those that stage reward_model trained.

    Subclasses say what loads the weights, what makes inputs of rows, and what becomes of the logits. The folds' models
    are loaded when they are first asked for, and stay.
    """

    model: Any  # with from_pretrained
    network: Callable[..., Network]  # of model, tokenizer, options, where

    def __init__(self, where: str, options: Trainable | Toxichat, folder: Path, launch: Launch) -> None:
        self._where, self._options, self._folder, self._launch = where, options, folder, launch
        if options.train is not None and not (folder / FULL).exists():
            raise InputError(f"{where}: {folder / FULL} is missing; run `dvc repro` to train it")
        if options.train is None and options.model is not None:
            model_names.check_sha256(options.model, options.sha256, f"{where}.sha256")
        self._networks: dict[str, Network] = {}
        self._network = self._named(FULL)

    def open(self, name: str, revision: str | None) -> Network:
        where = f"{self._where}.model"
        tokenizer = loading.loaded(AutoTokenizer.from_pretrained, name, revision, where)
        model = complete(self.model.from_pretrained, name, revision, where)
        return self.network(model, tokenizer, self._options, where)

    def trained(self, folder: Path) -> Network:
        """A model that stage reward_model wrote to `folder`."""
        return self.open(str(folder), None)

    @abstractmethod
    def output(self, logits: np.ndarray) -> np.ndarray:
        """[N] from [N, C]"""

    def scores(self, logits: np.ndarray, name: str) -> np.ndarray:
        """[N] from the logits [N, C] of the model that is called `name` (full, fold0, ...)."""
        return self.output(logits)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict], origin: Origin
    ) -> np.ndarray:
        """float64 [N]; texts to training prompts are scored by a model that has not seen the prompt, if folds exist."""
        rows, seen = list(zip(prompts, responses, contexts, strict=True)), origin in ("train", "answered")
        numbers = np.array([self._fold(*row) for row in rows] if seen else [-1] * len(rows))
        scores = np.zeros(len(rows))
        for number in sorted(set(numbers.tolist())):
            indices = np.flatnonzero(numbers == number)
            name = fold_folder(number) if number >= 0 else FULL
            network = self._named(name)
            encoded = network.encode(*zip(*(rows[i] for i in indices), strict=True))
            logits = all_logits(network, encoded, self._options, self._where)
            scores[indices] = self.scores(logits, name)
        return scores

    def _fold(self, prompt: str, response: str, context: dict) -> int:
        """The number of the fold model that has not seen the row; -1 when the full model has not either."""
        if self._options.train is None:
            return -1
        number = fold(key(self._options, self._where, prompt, response, context), self._options.train.folds)
        return number if (self._folder / fold_folder(number)).exists() else -1

    def _named(self, name: str) -> Network:
        if name not in self._networks:
            options = self._options
            if options.train is not None:
                network = self.trained(self._folder / name)
            elif options.model is not None:
                network = self.open(options.model, options.revision)
            else:
                raise InputError(f"{self._where} has neither `model` nor `train`; give one")
            precision.frozen(network.model.to(device(self._launch)), options.precision)
            self._networks[name] = network
        return self._networks[name]
