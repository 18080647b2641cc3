"""Log-probabilities of responses; with value.prompt_states the only place that knows how a causal model is called."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from alol.batching import Batch


def response_logp(model: nn.Module, batch: Batch) -> Tensor:
    """ln pi(y_t | x, y_<t) of each response token: [B, T], fp32, 0 on padding.

    Only the columns that predict a response token go through the vocabulary projection. Logits are cast to fp32 before
    the log-softmax, whatever the model's precision.
    """
    return _token_logp(_forward(model, batch).logits, batch)


def response_logp_and_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """`response_logp` [B, T], and the last hidden state that predicts each response token: [B, T, H], fp32."""
    output = _forward(model, batch, output_hidden_states=True)
    states = output.hidden_states[-1][:, -batch.response_ids.shape[1] - 1 : -1]
    return _token_logp(output.logits, batch), states.float()


def _forward(model: nn.Module, batch: Batch, **options: bool) -> Any:
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=batch.response_ids.shape[1] + 1,
        use_cache=False,
        **options,
    )


def _token_logp(logits: Tensor, batch: Batch) -> Tensor:
    """[B, T] from logits [B, T + 1, V], of which the last column predicts what follows the response."""
    logits = logits[:, :-1]
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
