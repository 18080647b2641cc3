"""Log-probabilities of responses.

With value.prompt_states and the generation of token ids the only place that knows a causal model, which reads prompt
and response as one text, from an encoder-decoder, which reads the prompt with its encoder.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alol.batching import Batch, right_padded


def response_logp(model: nn.Module, batch: Batch) -> Tensor:
    """ln pi(y_t | x, y_<t) of each response token: [B, T], fp32, 0 on padding.

    Only the columns that predict a response token go through the vocabulary projection. Logits are cast to fp32 before
    the log-softmax, whatever the model's precision.
    """
    return _token_logp(_forward(model, batch)[0], batch)


def response_logp_and_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """`response_logp` [B, T], and the last hidden state that predicts each response token: [B, T, H], fp32."""
    logits, output = _forward(model, batch, output_hidden_states=True)
    if is_encoder_decoder(model):
        return _token_logp(logits, batch), output.decoder_hidden_states[-1].float()
    states = output.hidden_states[-1][:, -batch.response_ids.shape[1] - 1 : -1]
    return _token_logp(logits, batch), states.float()


def is_encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _forward(model: nn.Module, batch: Batch, **options: bool) -> tuple[Tensor, Any]:
    """The logits that predict each response token [B, T, V], and all that the model gives."""
    if is_encoder_decoder(model):
        width = batch.prompt_length
        ids, mask, _ = right_padded(batch.input_ids[:, :width], batch.attention_mask[:, :width])
        start = torch.full_like(batch.response_ids[:, :1], model.config.decoder_start_token_id)
        output = model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=torch.cat([start, batch.response_ids[:, :-1]], dim=1),
            use_cache=False,
            **options,
        )
        return output.logits, output
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=batch.response_ids.shape[1] + 1,
        use_cache=False,
        **options,
    )
    return output.logits[:, :-1], output  # the last column predicts what follows the response


def _token_logp(logits: Tensor, batch: Batch) -> Tensor:
    """[B, T] from logits [B, T, V]."""
    # flat, so that the softmax runs over adjacent numbers: three times as fast on a CPU as over a strided axis
    nll = F.cross_entropy(logits.float().flatten(0, 1), batch.response_ids.flatten(), reduction="none")
    return -nll.view_as(batch.response_ids) * batch.response_mask


class ResponseLogp(nn.Module):
    """`response_logp` as a module's forward, so that distributed wrappers see one call per backward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return response_logp(self.model, batch)
