"""Small policies from nothing: a tokenizer trained on the task's text, and a model with random weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
)

from alol.base.errors import ParameterError
from alol.compute.kernels import fused
from alol.config.sections import Scratch
from alol.models.policies import language_model_class, without_dropout


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocabulary` tokens; `<pad>` and `<eos>` are tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<eos>")


def new_model(settings: Scratch, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A small randomly initialised model for `tokenizer`, of GPT-2's, LLaMA's or T5's architecture."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id) | {
        "pad_token_id": tokenizer.pad_token_id
    }
    if settings.width % settings.heads:
        raise ParameterError(
            "policy.scratch.width", f"is {settings.width}, no multiple of heads = {settings.heads}; change one of them"
        )
    if settings.architecture == "gpt2":
        config = GPT2Config(
            vocab_size=len(tokenizer), n_layer=settings.layers, n_embd=settings.width, n_head=settings.heads,
            n_positions=settings.context, activation_function="gelu", **ids,  # the tanh form takes twice as long
        )  # fmt: skip
    elif settings.architecture == "t5":
        config = T5Config(
            vocab_size=len(tokenizer), num_layers=settings.layers, d_model=settings.width, num_heads=settings.heads,
            d_kv=settings.width // settings.heads, d_ff=4 * settings.width, feed_forward_proj="gated-gelu",
            decoder_start_token_id=tokenizer.pad_token_id, **ids,
        )  # fmt: skip
    else:
        config = LlamaConfig(
            vocab_size=len(tokenizer), num_hidden_layers=settings.layers, hidden_size=settings.width,
            num_attention_heads=settings.heads, intermediate_size=-(-settings.width * 8 // 192) * 64,
            max_position_embeddings=settings.context, tie_word_embeddings=True, **ids,
        )  # fmt: skip
    spread = "initializer_factor" if config.is_encoder_decoder else "initializer_range"
    setattr(config, spread, getattr(config, spread) * settings.init_scale)
    torch.manual_seed(seed)
    model = language_model_class(config).from_config(without_dropout(config))
    return fused(model).eval()
