"""The tokens that end a response, as a model's own files name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def end_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end of text, and the end tokens that the model's config.json and generation_config.json name."""
    base = getattr(model, "get_base_model", lambda: model)()
    return {tokenizer.eos_token_id} | named_ends(base.config, base.generation_config)


def named_ends(*files: Any) -> set[int]:
    """The end tokens that configurations name: one, several or none each."""
    named = [getattr(file, "eos_token_id", None) for file in files]
    return {token for ids in named for token in ([ids] if isinstance(ids, int) else ids or ())}
