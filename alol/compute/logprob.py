"""Log-probabilities of responses, and the hidden states of prompts.

This module and `generate` are the only ones that treat two kinds of models differently: a causal model reads prompt and
response as one text, an encoder-decoder reads the prompt with its encoder. Causal models whose architecture allows it
run on packed sequences, without padding (alol.compute.packing).
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
        return _logp_of_states(model, batch, states)
    return _logp_of_logits(_forward(model, batch)[0], batch)


def response_logp_and_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """`response_logp` [B, T], and the last hidden state that predicts each response token: [B, T, H], fp32."""
    if packed_models.packable(model):
        states = packed_models.states(model, batch.layout.packed, batch.layout.predictors)
        return _logp_of_states(model, batch, states), _padded(states.float(), batch.response_mask)
    logits, output = _forward(model, batch, output_hidden_states=True)
    if is_encoder_decoder(model):
        return _logp_of_logits(logits, batch), output.decoder_hidden_states[-1].float()
    states = output.hidden_states[-1][:, -batch.response_ids.shape[1] - 1 : -1]
    return _logp_of_logits(logits, batch), states.float()


def response_logp_and_prompt_states(model: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """`response_logp` [B, T] and the states of `prompt_states` from one forward pass."""
    if packed_models.packable(model):
        states = packed_models.states(model, batch.layout.packed)
        return _logp_of_states(model, batch, states[batch.layout.predictors]), _packed_prompts(states, batch)
    if is_encoder_decoder(model):
        logits, output = _forward(model, batch)
        return _logp_of_logits(logits, batch), _padded_prompts(output.encoder_last_hidden_state, batch, left=False)
    logits, output = _forward(model, batch, output_hidden_states=True)
    states = output.hidden_states[-1][:, : batch.prompt_length]
    return _logp_of_logits(logits, batch), _padded_prompts(states, batch, left=True)


def prompt_states(model: nn.Module, batch: Batch) -> list[Tensor]:
    """The last hidden states of each prompt: a list of B tensors [length, H], fp32.

    Responses in `batch` have no influence. For an encoder-decoder these are the states of its encoder.
    """
    base = getattr(model, "get_base_model", lambda: model)()
    if packed_models.packable(model):
        alone = Batch(batch.prompts, [[]] * len(batch.prompts), batch.pad_id, batch.device)
        return _packed_prompts(packed_models.states(model, alone.layout.packed), alone)
    if is_encoder_decoder(model):
        ids, mask = batch.prompt_ids
        return _padded_prompts(
            base.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, batch, left=False
        )
    width = batch.prompt_length
    ids, mask, places = (x[:, :width] for x in (batch.input_ids, batch.attention_mask, batch.position_ids))
    output = base.base_model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
    return _padded_prompts(output.last_hidden_state, batch, left=True)


def is_encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _logp_of_states(model: nn.Module, batch: Batch, hidden_states: Tensor) -> Tensor:
    """Log-probabilities [B, T] from the hidden states [N, H] that predict the response tokens, row after row."""
    targets = batch.response_ids[batch.response_mask.bool()]
    return _padded(token_logp(hidden_states, model.get_output_embeddings(), targets), batch.response_mask)


def _padded(values: Tensor, mask: Tensor) -> Tensor:
    """Puts values of the response tokens [N, ...] into the rows of a batch [B, T, ...], with 0 on padding."""
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    return padded.masked_scatter(mask.bool().view(*mask.shape, *(1 for _ in values.shape[1:])), values)


def _packed_prompts(hidden_states: Tensor, batch: Batch) -> list[Tensor]:
    """Takes the states of the prompts, [length, H] each, from those of packed sequences [L, H]."""
    prompts = zip(batch.layout.prompt_starts, batch.layout.prompt_lengths, strict=True)
    return [hidden_states[start : start + length].float() for start, length in prompts]


def _padded_prompts(hidden_states: Tensor, batch: Batch, *, left: bool) -> list[Tensor]:
    """Takes the states of the prompts, [length, H] each, from padded ones [B, P, H]; `left`: padded on the left."""
    rows = zip(hidden_states, map(len, batch.prompts), strict=True)
    return [(row[len(row) - length :] if left else row[:length]).float() for row, length in rows]


def _forward(model: nn.Module, batch: Batch, **options: bool) -> tuple[Tensor, Any]:
    """Runs a model on a padded batch: the logits that predict each response token [B, T, V], and the whole output."""
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


def _logp_of_logits(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities of the response tokens [B, T], 0 on padding, from logits [B, T, V]."""
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
