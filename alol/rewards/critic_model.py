"""The published critic's architecture: a RoBERTa with its pooler, and a head of two layers with one logit.

It is registered with transformers' auto classes, so that its folders load as any sequence classifier's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, RobertaConfig, RobertaModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.roberta.modeling_roberta import RobertaPreTrainedModel


class CriticConfig(RobertaConfig):
    """RoBERTa's, and the width of the head."""

    model_type = "comet_critic"
    head_width: int = 512
    head_dropout: float = 0.1


class CriticModel(RobertaPreTrainedModel):
    """Pooled first token, dense, GELU (exact), dense: one logit per text, before the sigmoid."""

    config_class = CriticConfig

    def __init__(self, config: CriticConfig) -> None:
        super().__init__(config)
        self.roberta = RobertaModel(config, add_pooling_layer=True)
        self.dropout = nn.Dropout(config.head_dropout)
        self.dense = nn.Linear(config.hidden_size, config.head_width)
        self.out_proj = nn.Linear(config.head_width, 1)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any):
        """`logits` [B, 1] of texts [B, T]."""
        pooled = self.roberta(input_ids, attention_mask=attention_mask, **options).pooler_output
        hidden = nn.functional.gelu(self.dense(self.dropout(pooled)))
        return SequenceClassifierOutput(logits=self.out_proj(self.dropout(hidden)))


AutoConfig.register(CriticConfig.model_type, CriticConfig, exist_ok=True)
AutoModelForSequenceClassification.register(CriticConfig, CriticModel, exist_ok=True)
