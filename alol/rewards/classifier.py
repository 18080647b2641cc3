"""A reward from a transformers sequence classifier: a class's probability, a logit, or the sigmoid of a single logit.

Decoder classifiers are pooled here, at the last attended token: the library looks for the last token that is not the
pad token, which is the wrong one where padding, separator and end of text are one token (as in DialogRPT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from alol.base.errors import InputError, known
from alol.compute import packed_models
from alol.models.letters import Letters
from alol.rewards import (
    backbones,
    chats,
    critic_model,  # which registers its architecture with the auto classes
)
from alol.rewards.folds import text
from alol.rewards.network import (
    Encoded,
    Network,
    batch_of,
    first_position,
    last_attended,
    last_states,
    packed,
    positions,
)
from alol.rewards.options import Classifier, Critic
from alol.rewards.trained import TrainedReward


class ClassifierNetwork:
    """A sequence classifier and its tokenizer; inputs are one text, or two with the tokenizer's own separators.

    With a template an input is the whole conversation. Only marks are special tokens, whatever texts spell.
    """

    def __init__(self, model: Any, tokenizer: Any, options: Classifier, where: str) -> None:
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise InputError(f"{where}: its tokenizer has no tokenizer.json; convert it to a fast tokenizer first")
        self.model, self.tokenizer, self._options, self._where = model, tokenizer, options, where
        self._limit = min(options.max_length, positions(model))
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        self._chat = chats.template(tokenizer, options, where)
        self._letters = Letters(tokenizer)

    def encode(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[dict]) -> list[Encoded]:
        """One input per row of at most `max_length` tokens: the first text cut on the left, a second on the right."""
        if self._chat is not None:
            return chats.encode(self._chat, self._limit, prompts, responses, contexts)
        rows = list(zip(prompts, responses, contexts, strict=True))
        return self.encode_texts([[self._marked(name, *row) for row in rows] for name in self._options.inputs])

    def _marked(self, name: str, prompt: str, response: str, context: dict) -> str:
        """The text called `name`, with its format's marks as such."""
        found = text(name, self._where, prompt, response, context)
        return self._letters.marked(found, chats.marks(name, found, prompt, context))

    def encode_texts(self, parts: Sequence[Sequence[str]]) -> list[Encoded]:
        """Inputs of one list of texts, or of two, in which marks are written by `Letters`."""
        backend = self.tokenizer.backend_tokenizer
        pieces = [self._letters.encodings(part) for part in parts]
        special = backend.num_special_tokens_to_add(len(parts) == 2)
        return [self._joined(list(row), max(self._limit - special, 0)) for row in zip(*pieces, strict=True)]

    def _joined(self, pieces: list[Any], budget: int) -> Encoded:
        """When both texts are long, each gets half; when one is short, the other gets what is left."""
        first, rest = pieces[0], 0
        if len(pieces) == 2:
            rest = min(len(pieces[1].ids), max(budget - len(first.ids), budget - budget // 2))
            pieces[1].truncate(rest, direction="right")
        first.truncate(budget - rest, direction="left")
        joined = self.tokenizer.backend_tokenizer.post_process(*pieces)
        if joined.ids:
            return Encoded(np.array(joined.ids, np.int32), np.array(joined.type_ids, np.int32))
        return Encoded(np.array([self.tokenizer.eos_token_id or 0], np.int32), np.zeros(1, np.int32))  # an empty text

    def logits(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """[B, C], without padding where the architecture is known to pool its first token, or the last."""
        if packed_models.ready(self.model, (*packed_models.ENCODERS, critic_model.CriticConfig.model_type)):
            start = first_position(self.model)
            texts = packed(self, rows, causal=False, start=start)
            return packed_models.pooled_first(self.model, texts, backbones.segments(self, rows)).logits
        if packed_models.packable(self.model) and self._linear() is not None:
            return self._linear()(last_states(self, rows))
        return self.padded_logits(batch_of(self, rows))

    def _linear(self) -> Any:
        """A decoder's linear head, also where it is trained beside adapters; None where there is another head."""
        head = getattr(self.model, "score", None)
        return head if isinstance(getattr(head, "original_module", head), torch.nn.Linear) else None

    def padded_logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, C] of a padded batch."""
        head = self._linear()
        if head is None:  # an encoder, which pools its first token
            return self.model(**batch).logits
        batch = {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
        hidden = self.model.base_model(**batch, use_cache=False).last_hidden_state  # [B, T, H]
        rows = torch.arange(len(hidden), device=hidden.device)
        return head(hidden[rows, last_attended(batch["attention_mask"])])


def frozen(options: Classifier | Critic, where: str, network: Callable[..., Network]) -> Network:
    """The model of `train.init` without a head."""
    headed = backbones.config(options, where).model_type == critic_model.CriticConfig.model_type
    return backbones.frozen(options, where, network, AutoModelForSequenceClassification if headed else AutoModel)


class ClassifierReward(TrainedReward):
    """The component of kind `classifier`."""

    model, network = AutoModelForSequenceClassification, ClassifierNetwork

    def open(self, name: str, revision: str | None) -> Network:
        network = super().open(name, revision)
        self._column = column(network.model.config, self._options, self._where)
        return network

    def start(self, tokenizer: Any, outputs: int) -> Network:
        load, keys = self.model.from_pretrained, {"num_labels": outputs}
        return backbones.started(load, self._options, self._where, tokenizer, self.network, **keys)

    def frozen(self) -> Network:
        return frozen(self._options, self._where, self.network)

    def trained(self, folder: Path) -> Network:
        network = super().trained(folder)
        if isinstance(network, backbones.HeadNetwork):
            count = len(network.head.bias)
            made = SimpleNamespace(num_labels=count, id2label={i: str(i) for i in range(count)})
            self._column = column(made, self._options, self._where)
        else:
            self._column = column(network.model.config, self._options, self._where)
        return network

    def output(self, logits: np.ndarray) -> np.ndarray:
        logit = logits[:, self._column]
        if self._options.output == "logit":
            return logit
        if self._options.output == "sigmoid":
            return sigmoid(logit)
        return softmax(logits)[:, self._column]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [N, C]."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Without overflow at either end."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


def column(config: Any, options: Classifier, where: str) -> int:
    """The column of the logits that `output` and `label` ask for; raises InputError when the model has none such."""
    count, names = config.num_labels, {str(name): int(i) for i, name in config.id2label.items()}
    if options.output == "sigmoid" and count != 1:
        raise InputError(f"{where}.output is sigmoid, which needs one logit, but the model has {count}; use softmax")
    if options.output == "softmax" and count == 1:
        raise InputError(f"{where}.output is softmax, but the model has a single logit; use sigmoid or logit")
    if count == 1:
        return 0
    if isinstance(options.label, str):
        if options.label not in names:
            raise known(f"label at {where}.label:", options.label, names)
        return names[options.label]
    if not 0 <= options.label < count:
        raise InputError(f"{where}.label is {options.label}, but the model has the classes 0 to {count - 1}")
    return options.label
