"""Log-probabilities of responses, and the hidden states of prompts.

With the generation of token ids the only place that knows a causal model, which reads prompt and response as one text,
from an encoder-decoder, which reads the prompt with its encoder. Causal models run without padding (alol.packing) where
they can.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alol.compute import packed_models
from alol.compute.batching import Batch
from alol.compute.projection import token_logp


def response_logp(model: nn.Module, batch: Batch) -> Tensor:
    """ln pi(y_t | x, y_<t) of each response token: [B, T], fp32, 0 on padding.

    Only the positions that predict a response token go through the vocabulary projection. Logits are cast to fp32
    before the log-softmax, whatever the model's precision.
    """
    if packed_models.packable(model):
        states = packed_models.states(model, batch.layout.packed, batch.layout.predictors)
        return _of_predictors(model, batch, states)
    return _token_logp(_forward(model, batch)[0], batch)


def response_logp_and_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """`response_logp` [B, T], and the last hidden state that predicts each response token: [B, T, H], fp32."""
    if packed_models.packable(model):
        states = packed_models.states(model, batch.layout.packed, batch.layout.predictors)
        return _of_predictors(model, batch, states), _rows(states.float(), batch.response_mask)
    logits, output = _forward(model, batch, output_hidden_states=True)
    if is_encoder_decoder(model):
        return _token_logp(logits, batch), output.decoder_hidden_states[-1].float()
    states = output.hidden_states[-1][:, -batch.response_ids.shape[1] - 1 : -1]
    return _token_logp(logits, batch), states.float()


def response_logp_and_prompt_states(model: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """`response_logp` [B, T] and the states of `prompt_states` from one forward pass."""
    if packed_models.packable(model):
        states = packed_models.states(model, batch.layout.packed)
        return _of_predictors(model, batch, states[batch.layout.predictors]), _pieces(states, batch)
    if is_encoder_decoder(model):
        logits, output = _forward(model, batch)
        return _token_logp(logits, batch), _tokens(output.encoder_last_hidden_state, batch, left=False)
    logits, output = _forward(model, batch, output_hidden_states=True)
    states = output.hidden_states[-1][:, : batch.prompt_length]
    return _token_logp(logits, batch), _tokens(states, batch, left=True)


def prompt_states(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Last hidden states of each prompt: B of [length, H], fp32. `batch` may hold responses: they are not seen.

    Of an encoder-decoder they are the encoder's.
    """
    base = getattr(model, "get_base_model", lambda: model)()
    if packed_models.packable(model):
        alone = Batch(batch.prompts, [[]] * len(batch.prompts), batch.pad_id, batch.device)
        return _pieces(packed_models.states(model, alone.layout.packed), alone)
    if is_encoder_decoder(model):
        ids, mask = batch.prompt_ids
        return _tokens(base.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, batch, left=False)
    width = batch.prompt_length
    ids, mask, places = (x[:, :width] for x in (batch.input_ids, batch.attention_mask, batch.position_ids))
    output = base.base_model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
    return _tokens(output.last_hidden_state, batch, left=True)


def is_encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _of_predictors(model: nn.Module, batch: Batch, states: Tensor) -> Tensor:
    """Log-probabilities [B, T] from the states [N, H] that predict the response tokens, row by row."""
    targets = batch.response_ids[batch.response_mask.bool()]
    return _rows(token_logp(states, model.get_output_embeddings(), targets), batch.response_mask)


def _rows(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the response tokens [N, ...], row by row, to [B, T, ...]; 0 on padding."""
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    return padded.masked_scatter(mask.bool().view(*mask.shape, *(1 for _ in values.shape[1:])), values)


def _pieces(states: Tensor, batch: Batch) -> list[Tensor]:
    """The prompts' states out of packed ones [L, H]."""
    places = zip(batch.layout.starts, batch.layout.lengths, strict=True)
    return [states[start : start + length].float() for start, length in places]


def _tokens(states: Tensor, batch: Batch, *, left: bool) -> list[Tensor]:
    """The prompts' states out of padded ones [B, P, H]."""
    rows = zip(states, map(len, batch.prompts), strict=True)
    return [(row[len(row) - length :] if left else row[:length]).float() for row, length in rows]


def _forward(model: nn.Module, batch: Batch, **options: bool) -> tuple[Tensor, Any]:
    """The logits that predict each response token [B, T, V], and all that the model gives."""
    if is_encoder_decoder(model):
        ids, mask = batch.prompt_ids
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
