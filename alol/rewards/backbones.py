"""Models that training starts from: whole with a new head, or frozen with a linear head on their pooled states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from alol.base.errors import InputError
from alol.compute import packed_models
from alol.compute.kernels import fused
from alol.config import model_names
from alol.models import loading
from alol.models.templates import TEXT
from alol.rewards import chats
from alol.rewards.heads import Head
from alol.rewards.network import Encoded, Network, batch_of, first_position, last_attended, last_states, packed
from alol.rewards.options import Preference, Trainable

Reader = Callable[..., Any]  # of model, tokenizer, options, where: a Network, of whose model no head is asked


def checkpoint_tokenizer(options: Trainable, where: str) -> Any:
    """The tokenizer of `train.init` with the template of a file; that of dialogues has an end of text and role marks.

    Marks become tokens only where their embeddings are trained too; else they are read as the letters they are.
    """
    train = options.train
    tokenizer = loading.loaded(AutoTokenizer.from_pretrained, train.init, train.init_revision, f"{where}.train.init")
    if isinstance(options, Preference) and options.template == TEXT:
        if tokenizer.eos_token is None and tokenizer.sep_token is not None:
            tokenizer.eos_token = tokenizer.sep_token  # which ends the texts of an encoder
        if train.tuning == "full":
            vocabulary = tokenizer.get_vocab()
            marks = [mark for mark in (options.human, options.assistant) if mark not in vocabulary]
            tokenizer.add_special_tokens({"extra_special_tokens": marks}, replace_extra_special_tokens=False)
    return chats.kept(tokenizer, options, f"{where}.train.init")


def config(options: Trainable, where: str) -> Any:
    """The configuration of `train.init`."""
    train = options.train
    return loading.loaded(AutoConfig.from_pretrained, train.init, train.init_revision, f"{where}.train.init")


def started(
    load: Callable[..., Any], options: Trainable, where: str, tokenizer: Any, reader: Reader, **keys: Any
) -> Any:
    """A network to train in fp32 with a new head: `load` is a `from_pretrained` with `keys`; the caller seeds torch."""
    train, place = options.train, f"{where}.train.init"
    model = loading.headless(load, train.init, train.init_revision, place, dtype=torch.float32, **keys)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:  # role marks that the checkpoint did not have
        model.resize_token_embeddings(len(tokenizer))
    return reader(model, tokenizer, options, place)


def frozen(options: Trainable, where: str, reader: Reader, model_class: Any) -> Any:
    """A network whose model gives states alone: AutoModel, or a class with a head, which is left out."""
    train, place = options.train, f"{where}.train.init"
    load = loading.backbone if model_class is AutoModel else loading.headless
    model = load(model_class.from_pretrained, train.init, train.init_revision, place, dtype=torch.float32).base_model
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(f"{place}: '{train.init}' is an encoder-decoder; a head needs an encoder or a decoder")
    model = fused(model).requires_grad_(False).eval()
    return reader(model, checkpoint_tokenizer(options, where), options, place)


def identity(options: Trainable, where: str, config: Any) -> str:
    """What tells the model of `train.init` from others: its files, or the hub's commit in its `config`."""
    path = model_names.located(options.train.init, f"{where}.train.init")
    return str(getattr(config, "_commit_hash", None)) if path is None else loading.fingerprint(path)


def pooling(options: Trainable, model: Any) -> str:
    """last | mean: `auto` is the mean of an encoder, whose tokens all see the whole text, and the last of a decoder."""
    if options.train.pooling != "auto":
        return options.train.pooling
    return "mean" if _is_encoder(model) else "last"


def _is_encoder(model: Any) -> bool:
    """Whether tokens see those after them; only encoders are trained on a masked token, or have token types."""
    if model.config.model_type in packed_models.DECODERS or getattr(model.config, "is_decoder", False):
        return False
    return hasattr(getattr(model, "embeddings", None), "word_embeddings")


def pooled(network: Network, rows: Sequence[Encoded], how: str) -> torch.Tensor:
    """Last hidden states [B, H] of a bare model: of each input's last token, or their mean over all of its tokens."""
    model = network.model
    if packed_models.packable(model):
        if how == "last":
            return last_states(network, rows)
        texts = packed(network, rows)
        return _means(packed_models.states(model, texts), texts.lengths)
    if packed_models.ready(model, packed_models.ENCODERS):
        texts = packed(network, rows, causal=False, start=first_position(model))
        states = packed_models.states(model, texts, token_type_ids=segments(network, rows))
        return states[texts.ends] if how == "last" else _means(states, texts.lengths)
    batch = batch_of(network, rows)
    states, mask = model(**batch).last_hidden_state, batch["attention_mask"]  # [B, T, H], [B, T]
    if how == "last":
        return states[torch.arange(len(states), device=states.device), last_attended(mask)]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def _means(states: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    return torch.stack([part.mean(0) for part in states.split(list(sizes))])


def segments(network: Network, rows: Sequence[Encoded]) -> torch.Tensor:
    """Token types [1, L] of inputs that lie end to end; 0 where the tokenizer gives none."""
    segments = torch.from_numpy(np.concatenate([row.segments for row in rows]))[None].long()
    if "token_type_ids" not in network.tokenizer.model_input_names:
        segments = torch.zeros_like(segments)
    return segments.to(network.model.device)


class HeadNetwork:
    """A frozen network with a linear head; without one its logits are the pooled states themselves."""

    def __init__(self, network: Any, how: str, head: Head | None = None) -> None:
        self.model, self.tokenizer, self._network, self._how = network.model, network.tokenizer, network, how
        self.head = head

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        return self._network.encode(prompts, responses, contexts)

    def logits(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """[B, C]; [B, H] without a head."""
        states = pooled(self._network, rows, self._how)
        if self.head is None:
            return states
        weight, bias = (torch.from_numpy(x).to(states.device) for x in (self.head.weight, self.head.bias))
        return states.double() @ weight.T + bias
