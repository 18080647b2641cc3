"""A reward model over dialogue turns: a GPT-NeoX backbone with one linear output, as the OpenAssistant project's.

The classes have that project's names of weights and configuration, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXModel,
)
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXPreTrainedModel

from alol.base.errors import InputError
from alol.compute import packed_models
from alol.models import loading
from alol.models.letters import Letters
from alol.models.templates import TEXT, Turns, turns_of
from alol.rewards import backbones, chats
from alol.rewards.classifier import ClassifierNetwork, sigmoid
from alol.rewards.network import Encoded, Network, batch_of, complete, last_attended, last_states, packed, positions
from alol.rewards.options import Preference
from alol.rewards.trained import TrainedReward

ROLES = ("human", "assistant")


class RewardModelConfig(GPTNeoXConfig):
    """GPT-NeoX's, and how hidden states are pooled: last | mean."""

    model_type = "gpt_neox_reward_model"
    pooling: str = "last"  # checkpoints made before the key existed pool the last position


class RewardModel(GPTNeoXPreTrainedModel):
    """One logit per text."""

    config_class = RewardModelConfig

    def __init__(self, config: RewardModelConfig) -> None:
        if config.pooling not in ("last", "mean"):
            raise ValueError(f"unknown pooling '{config.pooling}'; known: last, mean")
        super().__init__(config)
        self.gpt_neox = GPTNeoXModel(config)
        self.out_proj = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B] of texts [B, T], padded on either side."""
        hidden = self.gpt_neox(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state  # [B, T, H]
        return self.out_proj(self.pooled(hidden, attention_mask)).squeeze(-1)

    def pooled(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[B, H] from hidden states [B, T, H]."""
        if self.config.pooling == "mean":
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [B, T, 1]
            return (hidden * weights).sum(1) / weights.sum(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last_attended(attention_mask)]


AutoConfig.register(RewardModelConfig.model_type, RewardModelConfig, exist_ok=True)  # AutoTokenizer reads it


def dialogue(
    options: Preference, where: str, eos: str, prompt: str, response: str, context: dict[str, Any]
) -> tuple[str, list[int]]:
    """Each turn as role mark, text and end of text, and where marks begin and end in this; the response is last.

    Without turns the prompt is one. There is no mark for a system: its turn at the beginning is the first paragraph of
    the human's turn that follows. Raises InputError for another turn without a mark.
    """
    marks, pieces = {"human": options.human, "assistant": options.assistant}, [""]  # every second one is a mark
    for turn in [*_joined(turns_of(prompt, context.get("turns"))), {"role": "assistant", "text": response}]:
        if turn["role"] not in ROLES:
            raise InputError(
                f"{where}: a turn has the role '{turn['role']}', which has no mark; known: {', '.join(ROLES)}, and a "
                "system's turn right before the first human's; template: chat takes the roles of the model's template"
            )
        pieces[-1] += marks[turn["role"]]
        pieces += [turn["text"], eos]
    if not context.get("turns"):
        own = [0, *chats.marks("prompt", prompt, prompt, context), len(prompt)]
        pieces[1:2] = [prompt[start:end] for start, end in pairwise(own)]
    return "".join(pieces), list(accumulate(map(len, ["", *pieces])))


def _joined(turns: Turns) -> Turns:
    """A system's turn at the beginning as part of the human's that follows it."""
    if [turn["role"] for turn in turns[:2]] != ["system", "human"]:
        return turns
    first = "\n\n".join(turn["text"] for turn in turns[:2] if turn["text"])
    return [{"role": "human", "text": first}, *turns[2:]]


class PreferenceNetwork:
    """The reward model and its tokenizer; an input is a dialogue, cut on the left.

    Only marks are special tokens, whatever texts spell.
    """

    def __init__(self, model: RewardModel, tokenizer: Any, options: Preference, where: str) -> None:
        if options.template == TEXT and tokenizer.eos_token is None:
            raise InputError(f"{where}: its tokenizer has no end-of-text token, which must end every turn")
        self.model, self.tokenizer, self._options, self._where = model, tokenizer, options, where
        self._chat = chats.template(tokenizer, options, where)

    @cached_property
    def _letters(self) -> Letters:
        return Letters(self.tokenizer, {self._options.human, self._options.assistant})

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        """At most `max_length` tokens per row: the newest."""
        limit = self._options.max_length
        if self._chat is not None:
            return chats.encode(self._chat, limit, prompts, responses, contexts)
        rows = zip(prompts, responses, contexts, strict=True)
        dialogues = (dialogue(self._options, self._where, self.tokenizer.eos_token, *row) for row in rows)
        ids = self._letters.encode([self._letters.marked(*one) for one in dialogues])
        kept = [np.array(row[-limit:], np.int32) for row in ids]
        return [Encoded(row, np.zeros_like(row)) for row in kept]

    def logits(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """[B, 1]"""
        if not packed_models.ready(self.model, (RewardModelConfig.model_type,)):
            batch = batch_of(self, rows)
            return self.model(batch["input_ids"], batch["attention_mask"]).unsqueeze(-1)
        if self.model.config.pooling == "last":
            return self.model.out_proj(last_states(self, rows))
        texts = packed(self, rows)
        parts = packed_models.states(self.model, texts).split(texts.lengths)
        return self.model.out_proj(torch.stack([part.mean(0) for part in parts]))


class DialogueClassifier(ClassifierNetwork):
    """Any other sequence classifier with one logit, or a bare model; it reads what a PreferenceNetwork reads.

    That of an encoder begins with its first token ([CLS]); positions bound the length.
    """

    def __init__(self, model: Any, tokenizer: Any, options: Preference, where: str) -> None:
        super().__init__(model, tokenizer, options, where)
        self._reader = PreferenceNetwork(model, tokenizer, options, where)
        self._first = [] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]
        self._newest = min(options.max_length, positions(model)) - len(self._first)

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        """The newest tokens of each row; those of a chat template as it writes them."""
        if self._chat is not None:
            return super().encode(prompts, responses, contexts)
        found = self._reader.encode(prompts, responses, contexts)
        rows = [np.array([*self._first, *row.ids[-self._newest :]], np.int32) for row in found]
        return [Encoded(row, np.zeros_like(row)) for row in rows]


def of_our_own(config: Any) -> bool:
    """Whether a model becomes a `RewardModel`; else it is a sequence classifier of transformers."""
    return config.model_type in (RewardModelConfig.model_type, GPTNeoXConfig.model_type)


def started(options: Preference, where: str, tokenizer: Any) -> Network:
    """The network of `train.init` with a new head; the caller seeds torch's generator."""
    if of_our_own(backbones.config(options, where)):
        keys = {"pooling": pooling(options)}
        return backbones.started(RewardModel.from_pretrained, options, where, tokenizer, PreferenceNetwork, **keys)
    load = AutoModelForSequenceClassification.from_pretrained
    return backbones.started(load, options, where, tokenizer, DialogueClassifier, num_labels=1)


def frozen(options: Preference, where: str) -> Network:
    """Builds the network of `train.init` without a head."""
    headed = backbones.config(options, where).model_type == RewardModelConfig.model_type
    return backbones.frozen(options, where, DialogueClassifier, RewardModel if headed else AutoModel)


def pooling(options: Preference) -> str:
    """Of a `RewardModel`, which is a decoder."""
    return "last" if options.train.pooling == "auto" else options.train.pooling


class PreferenceReward(TrainedReward):
    """The component of kind `preference`."""

    model, network = RewardModel, PreferenceNetwork

    def open(self, name: str, revision: str | None) -> Network:
        where = f"{self._where}.model"
        config = loading.loaded(AutoConfig.from_pretrained, name, revision, where)
        if of_our_own(config):
            return super().open(name, revision)
        tokenizer = loading.loaded(AutoTokenizer.from_pretrained, name, revision, where)
        model = complete(AutoModelForSequenceClassification.from_pretrained, name, revision, where)
        if model.config.num_labels != 1:
            raise InputError(f"{where}: '{name}' has {model.config.num_labels} outputs; a preference model has one")
        return DialogueClassifier(model, tokenizer, self._options, where)

    def start(self, tokenizer: Any, outputs: int) -> Network:
        return started(self._options, self._where, tokenizer)

    def frozen(self) -> Network:
        return frozen(self._options, self._where)

    def output(self, logits: np.ndarray) -> np.ndarray:
        return sigmoid(logits[:, 0]) if self._options.output == "sigmoid" else logits[:, 0]
