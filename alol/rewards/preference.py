"""A reward model over dialogue turns: a GPT-NeoX backbone with one linear output, as the OpenAssistant project's.

The classes have that project's names of weights and configuration, so its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, GPTNeoXConfig, GPTNeoXModel
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXPreTrainedModel

from alol.base.errors import InputError
from alol.compute import packed_models
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


def dialogue(options: Preference, where: str, eos: str, prompt: str, response: str, context: dict[str, Any]) -> str:
    """Each turn as role mark, text and end of text; the response is the last turn. Without turns the prompt is one."""
    marks, turns = {"human": options.human, "assistant": options.assistant}, context.get("turns")
    parts = []
    for turn in [*(turns or [{"role": "human", "text": prompt}]), {"role": "assistant", "text": response}]:
        if turn["role"] not in ROLES:
            raise InputError(f"{where}: a turn has the role '{turn['role']}'; known: {', '.join(ROLES)}")
        parts.append(marks[turn["role"]] + turn["text"] + eos)
    return "".join(parts)


class PreferenceNetwork:
    """The reward model and its tokenizer; an input is a dialogue, cut on the left."""

    def __init__(self, model: RewardModel, tokenizer: Any, options: Preference, where: str) -> None:
        if tokenizer.eos_token is None:
            raise InputError(f"{where}: its tokenizer has no end-of-text token, which must end every turn")
        self.model, self.tokenizer, self._options, self._where = model, tokenizer, options, where

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        """At most `max_length` tokens per row: the newest."""
        rows = zip(prompts, responses, contexts, strict=True)
        texts = [dialogue(self._options, self._where, self.tokenizer.eos_token, *row) for row in rows]
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        kept = [np.array(row[-self._options.max_length :], np.int32) for row in ids]
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
