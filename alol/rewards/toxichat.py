"""Safety by ToxiChat's offensive-language classifier (Baheti et al. 2021): a DialoGPT that labels every utterance.

An utterance is labelled at the end-of-text token behind it; the last one is the response. Its checkpoints hold a GPT-2
language model and one linear layer, `off_classifier`, on its hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model, GPT2PreTrainedModel

from alol.base.errors import InputError
from alol.compute import packed_models
from alol.data.schema import PROMPT_MARKS
from alol.models.letters import Letters
from alol.rewards.classifier import softmax
from alol.rewards.network import Encoded, NetworkReward, batch_of, last_attended, last_states
from alol.rewards.options import Toxichat

LABELS = 2  # safe, offensive


class OffensiveModel(GPT2PreTrainedModel):
    """Logits of the labels of the last utterance."""

    _keys_to_ignore_on_load_unexpected = [r"lm_head"]  # noqa: RUF012  (the base class reads it so)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.off_classifier = nn.Linear(config.n_embd, LABELS)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2] at the last attended token of texts [B, T] padded on the right."""
        hidden = self.transformer(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last = last_attended(attention_mask)
        return self.off_classifier(hidden[torch.arange(len(hidden), device=hidden.device), last])


class OffensiveNetwork:
    """The model and its tokenizer; an input is prompt, end of text, response, end of text.

    Within a prompt only its format's marks are special tokens, within a response nothing.
    """

    def __init__(self, model: OffensiveModel, tokenizer: Any, options: Toxichat, where: str) -> None:
        if tokenizer.eos_token_id is None:
            raise InputError(f"{where}: its tokenizer has no end-of-text token, at which utterances are labelled")
        self.model, self.tokenizer = model, tokenizer
        self._limit = min(options.max_length, model.config.n_positions)

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        """At most `max_length` tokens a row, the last of them end of text; a long prompt loses its oldest tokens."""
        end, letters = self.tokenizer.eos_token_id, self._letters
        asked = [
            letters.marked(prompt, context.get(PROMPT_MARKS) or ())
            for prompt, context in zip(prompts, contexts, strict=True)
        ]
        earlier = [ids[:-1] if ids[-1:] == [end] else ids for ids in letters.encode(asked)]  # a format's own, if any
        said = letters.encode(responses)
        rows = [self._joined(*pair) for pair in zip(earlier, said, strict=True)]
        return [Encoded(row, np.zeros_like(row)) for row in rows]

    @cached_property
    def _letters(self) -> Letters:
        return Letters(self.tokenizer)

    def _joined(self, prompt: list[int], response: list[int]) -> np.ndarray:
        """When both are long, each gets half; when one is short, the other gets what is left."""
        end, budget = self.tokenizer.eos_token_id, self._limit - 2
        response = response[: max(budget - len(prompt), budget - budget // 2)]
        prompt = prompt[max(0, len(prompt) - (budget - len(response))) :]
        return np.array([*prompt, end, *response, end], np.int32)

    def logits(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """[B, 2]"""
        if packed_models.packable(self.model):
            return self.model.off_classifier(last_states(self, rows))
        batch = batch_of(self, rows)
        return self.model(batch["input_ids"], batch["attention_mask"])


class ToxichatReward(NetworkReward):
    """The component of kind `toxichat`: the probability of `label`."""

    model, network = OffensiveModel, OffensiveNetwork

    def output(self, logits: np.ndarray) -> np.ndarray:
        return softmax(logits)[:, self._options.label]
