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
from transformers import AutoConfig, GPTNeoXConfig, GPTNeoXModel
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXPreTrainedModel

from alol.base.errors import InputError
from alol.compute import packed_models
from alol.models.letters import Letters
from alol.models.templates import TEXT, Turns, turns_of
from alol.rewards import chats
from alol.rewards.classifier import sigmoid
from alol.rewards.network import Encoded, NetworkReward, batch_of, last_attended, last_states, packed
from alol.rewards.options import Preference

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
        parts = packed_models.states(self.model, texts).split(texts.sizes)
        return self.model.out_proj(torch.stack([part.mean(0) for part in parts]))


class PreferenceReward(NetworkReward):
    """The component of kind `preference`."""

    model, network = RewardModel, PreferenceNetwork

    def output(self, logits: np.ndarray) -> np.ndarray:
        return sigmoid(logits[:, 0]) if self._options.output == "sigmoid" else logits[:, 0]
