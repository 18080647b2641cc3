"""Models that run sequences laid end to end: which can, their hidden states, and their attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from alol.compute import packing
from alol.compute.packing import Packed

NAME = "packed"


# Architectures whose attention takes the pieces; of the decoders, logits are a linear layer of the last hidden states.
# Each is compared with its own padded forward in the tests.
ENCODERS = ("bert", "roberta", "xlm-roberta")


DECODERS = ("gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3")


def packable(model: nn.Module) -> bool:
    """Whether `states` can run the model's sequences unpadded; makes it ready to."""
    return ready(model, DECODERS)


def ready(model: nn.Module, kinds: Sequence[str]) -> bool:
    """Whether the model is of one of these architectures and takes pieces; makes it ready to."""
    base = getattr(model, "get_base_model", lambda: model)()
    config = base.config
    if config.model_type not in kinds:
        return False
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return False
    if config._attn_implementation == "sdpa":
        base.set_attn_implementation(NAME)
        _leave_out_unread(base.base_model)
    return config._attn_implementation == NAME


def states(model: nn.Module, packed: Any, read: Tensor | None = None, **inputs: Tensor) -> Tensor:
    """Last hidden states [L, H] of a decoder for which `packable` was found true, in the model's own precision.

    Or of an encoder for which `ready` was, with its further `inputs` (token_type_ids [1, L]).

    With positions `read` [N], theirs alone: [N, H]. The last layer's feed-forward network, two thirds of that layer's
    operations, then leaves the other positions out.
    """
    if model.config._attn_implementation != NAME:  # another attention would let sequences see each other
        raise ValueError("ask `packable` or `ready` first")
    base = getattr(model, "get_base_model", lambda: model)()
    options = inputs if read is None else {**inputs, "read": read.unique()}
    found = base.base_model(**_inputs(packed), **options, use_cache=False).last_hidden_state[0]
    return found if read is None else found[read]


def _leave_out_unread(decoder: nn.Module) -> None:
    """Makes the last layer's feed-forward network heed `read`, of which its attention is told right before.

    By hooks on these two, since activations that are computed again pass them, and not those of the layer.
    """
    layer = getattr(decoder, "layers", getattr(decoder, "h", [None]))[-1]
    network = getattr(layer, "mlp", None)
    if network is None:  # OPT has the network's matrices in the layer itself
        return
    told: tuple[Tensor | None, int] = None, 0  # what is read, of how many tokens

    def tell(_: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        nonlocal told
        told = options.get("read"), (inputs[0] if inputs else options["hidden_states"]).shape[1]

    def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if told[0] is None else (inputs[0][:, told[0]],)

    def spread(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        read, length = told
        return None if read is None else output.new_zeros(1, length, output.shape[-1]).index_copy(1, read, output)

    attention = next(child for name, child in layer.named_children() if name in ("attn", "self_attn", "attention"))
    attention.register_forward_pre_hook(tell, with_kwargs=True)
    network.register_forward_pre_hook(gather)
    network.register_forward_hook(spread)


def pooled_first(model: nn.Module, packed: Packed, token_types: Tensor) -> Any:
    """What an encoder gives that reads of its last states only each text's first token: B texts of length 1.

    `model` has its encoder at `base_model.encoder`; token_types [1, L]. The last layer computes these states alone.
    """
    encoder = model.base_model.encoder
    last = encoder.layer[-1]

    def alone(module: nn.Module, inputs: Any, output: Any) -> Any:
        return type(output)(last_hidden_state=output.last_hidden_state[0][:, None])

    handle = encoder.register_forward_hook(alone)
    last.forward = partial(_first_of_layer, last)
    try:
        return model(**_inputs(packed), token_type_ids=token_types)
    finally:
        handle.remove()
        del last.forward  # the class's own again


def _first_of_layer(layer: nn.Module, hidden: Tensor, *_: Any, packed: Packed, **__: Any) -> Tensor:
    """What BERT's layer makes of each text's first token, from all states [1, L, H]: [1, B, H]."""
    own = layer.attention.self
    first = hidden[0, packed.starts]

    def heads(states: Tensor) -> Tensor:
        return states.view(len(states), own.num_attention_heads, own.attention_head_size).transpose(0, 1)[None]

    counts, dropout = [len(run) for run in packed.runs], own.dropout.p if own.training else 0.0
    query, key, value = heads(own.query(first)), heads(own.key(hidden[0])), heads(own.value(hidden[0]))
    if (dtype := packing.kernel_precision(query, dropout)) is not None:
        alone = packing.cumulative_lengths([1] * len(first), hidden.device)
        context = packing.at_once(
            *(x.to(dtype) for x in (query, key, value)), alone, packed.bounds, False, own.scaling
        )[0]
    else:
        keys, values = (x.split(packed.spans, dim=2) for x in (key, value))
        found = [
            F.scaled_dot_product_attention(
                *(packing.apart(x, count) for x in (q, k, v)), dropout_p=dropout, scale=own.scaling
            )
            for q, k, v, count in zip(query.split(counts, dim=2), keys, values, counts, strict=True)
        ]
        context = torch.cat(found)[:, :, 0]
    return layer.feed_forward_chunk(layer.attention.output(context.flatten(1), first))[None]


def _inputs(packed: Any) -> dict[str, Any]:
    # a mask of four dimensions is taken for a finished one: none is built, and `attention` does without
    none = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=packed.input_ids.device)
    ids, positions = packed.input_ids, packed.position_ids
    return {"input_ids": ids, "attention_mask": none, "position_ids": positions, "packed": packed}


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: Packed | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What `packed` does with query [1, heads, L, D], key and value [1, key heads, L, D]: [1, L, heads, D].

    Without `packed`, the library's own attention.
    """
    if packed is not None:
        return packed.attend(module, query, key, value, dropout, scaling), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
