"""Reward networks to train: small ones from nothing, or a checkpoint's.

From nothing means a byte-level BPE of the texts with a BERT classifier or a GPT-NeoX reward model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from alol.rewards import backbones
from alol.rewards.classifier import ClassifierNetwork
from alol.rewards.classifier import frozen as classifier_frozen
from alol.rewards.critic import CriticNetwork
from alol.rewards.network import Network
from alol.rewards.options import Classifier, Critic, Preference, Trainable, Training
from alol.rewards.preference import PreferenceNetwork, RewardModel, RewardModelConfig, pooling, started
from alol.rewards.preference import frozen as preference_frozen

PAD, CLS, SEP, END = "[PAD]", "[CLS]", "[SEP]", "<|endoftext|>"


def _bpe(texts: Iterable[str], vocabulary: int, special: list[str]) -> Tokenizer:
    """A byte-level BPE: no text is unknown to it. The special tokens get the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def classifier_tokenizer(texts: Iterable[str], train: Training, max_length: int) -> PreTrainedTokenizerFast:
    """[CLS] first [SEP], and second [SEP] where there are two texts."""
    tokenizer = _bpe(texts, train.vocabulary, [PAD, CLS, SEP])
    ids = [(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        cls_token=CLS,
        sep_token=SEP,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def preference_tokenizer(texts: Iterable[str], train: Training, options: Preference) -> PreTrainedTokenizerFast:
    """The role marks are tokens of their own."""
    tokenizer = _bpe(texts, train.vocabulary, [PAD, END, options.human, options.assistant])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=options.max_length,
        extra_special_tokens=[options.human, options.assistant],
    )


def classifier(options: Classifier | Critic, where: str, tokenizer: Any, labels: int) -> ClassifierNetwork:
    """A network to train, with `labels` logits; the caller seeds torch's generator."""
    train = options.train
    network = CriticNetwork if isinstance(options, Critic) else ClassifierNetwork
    if train.init != "scratch":
        load = AutoModelForSequenceClassification.from_pretrained
        return backbones.started(load, options, where, tokenizer, network, num_labels=labels)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=train.width,
        num_hidden_layers=train.layers,
        num_attention_heads=train.heads,
        intermediate_size=4 * train.width,
        hidden_dropout_prob=train.dropout,
        attention_probs_dropout_prob=0.0,  # the attention kernels that are fast on a CPU have no dropout
        max_position_embeddings=options.max_length,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=labels,
    )
    return network(BertForSequenceClassification(config), tokenizer, options, where)


def preference(options: Preference, where: str, tokenizer: Any) -> Network:
    """A network to train; the caller seeds torch's generator."""
    train = options.train
    if train.init != "scratch":
        return started(options, where, tokenizer)
    config = RewardModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=train.width,
        num_hidden_layers=train.layers,
        num_attention_heads=train.heads,
        intermediate_size=4 * train.width,
        hidden_dropout=train.dropout,
        max_position_embeddings=options.max_length,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pooling=pooling(options),
    )
    return PreferenceNetwork(RewardModel(config), tokenizer, options, where)


def frozen(options: Trainable, where: str) -> Network:
    """The network of `train.init` without a head."""
    if isinstance(options, Preference):
        return preference_frozen(options, where)
    return classifier_frozen(options, where, CriticNetwork if isinstance(options, Critic) else ClassifierNetwork)
