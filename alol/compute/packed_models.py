"""Models that run packed sequences (alol.compute.packing): which ones can, their hidden states, and their attention."""

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


# Architectures whose attention can be replaced. Logits of the decoders are a linear layer of the last hidden states.
# Each is compared with its own padded forward in the tests.
ENCODERS = ("bert", "roberta", "xlm-roberta")


DECODERS = ("gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "qwen3")


def packable(model: nn.Module) -> bool:
    """Whether `states` can run packed sequences through the model, a decoder; prepares the model if so."""
    return ready(model, DECODERS)


def ready(model: nn.Module, kinds: Sequence[str]) -> bool:
    """Whether the model is of one of these architectures and can run packed sequences; prepares it if so."""
    base = getattr(model, "get_base_model", lambda: model)()
    config = base.config
    if config.model_type not in kinds:
        return False
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return False
    if config._attn_implementation == "sdpa":
        base.set_attn_implementation(NAME)
        _skip_unneeded_positions(base.base_model)
    return config._attn_implementation == NAME


def states(model: nn.Module, packed: Any, positions: Tensor | None = None, **inputs: Tensor) -> Tensor:
    """Runs packed sequences; returns the last hidden states [L, H], in the model's own precision.

    The model must be a decoder for which `packable` returned true, or an encoder for which `ready` did, which takes
    further `inputs` (token_type_ids [1, L]). With `positions` [N], the states of these positions alone are returned:
    [N, H]. The feed-forward network of the last layer, two thirds of that layer's operations, then skips the others.
    """
    if model.config._attn_implementation != NAME:  # another attention would let sequences see each other
        raise ValueError("ask `packable` or `ready` first")
    base = getattr(model, "get_base_model", lambda: model)()
    options = inputs if positions is None else {**inputs, "needed": positions.unique()}
    hidden_states = base.base_model(**_inputs(packed), **options, use_cache=False).last_hidden_state[0]
    return hidden_states if positions is None else hidden_states[positions]


def _skip_unneeded_positions(decoder: nn.Module) -> None:
    """Makes the feed-forward network of the last layer compute only the positions `needed`, where these are named.

    Three hooks do it. The first notes what the attention, which runs right before the network, is called with. The
    second keeps of the network's input the needed positions, and the third puts its output back where it belongs, with
    zeros elsewhere. The hooks are on these two modules and not on the layer, since gradient checkpointing calls the
    modules again, but no hooks of the layer.
    """
    layer = getattr(decoder, "layers", getattr(decoder, "h", [None]))[-1]
    network = getattr(layer, "mlp", None)
    if network is None:  # OPT has the network's matrices in the layer itself
        return
    needed: Tensor | None = None
    length = 0  # tokens of the packed row

    def note_call(_: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        nonlocal needed, length
        needed, length = options.get("needed"), (inputs[0] if inputs else options["hidden_states"]).shape[1]

    def select_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if needed is None else (inputs[0][:, needed],)

    def restore_output(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        if needed is None:
            return None
        return output.new_zeros(1, length, output.shape[-1]).index_copy(1, needed, output)

    attention = next(child for name, child in layer.named_children() if name in ("attn", "self_attn", "attention"))
    attention.register_forward_pre_hook(note_call, with_kwargs=True)
    network.register_forward_pre_hook(select_input)
    network.register_forward_hook(restore_output)


def pooled_first(model: nn.Module, packed: Packed, token_types: Tensor) -> Any:
    """Runs packed texts through a classifier that reads only the first token's last state; returns its output.

    The last layer computes the states of the first tokens alone, so that the classifier sees B texts of length 1.
    `model` has its encoder at `base_model.encoder`; token_types are [1, L].
    """
    encoder = model.base_model.encoder
    last = encoder.layer[-1]

    def first_tokens(module: nn.Module, inputs: Any, output: Any) -> Any:
        return type(output)(last_hidden_state=output.last_hidden_state[0][:, None])

    handle = encoder.register_forward_hook(first_tokens)
    last.forward = partial(_first_of_layer, last)
    try:
        return model(**_inputs(packed), token_type_ids=token_types)
    finally:
        handle.remove()
        del last.forward  # the class's own again


def _first_of_layer(layer: nn.Module, hidden_states: Tensor, *_: Any, packed: Packed, **__: Any) -> Tensor:
    """Computes a BERT layer's output for the first token of each text, [1, B, H], from all states [1, L, H]."""
    own = layer.attention.self
    first = hidden_states[0, packed.starts]

    def heads(states: Tensor) -> Tensor:
        return states.view(len(states), own.num_attention_heads, own.attention_head_size).transpose(0, 1)[None]

    counts, dropout = [len(group) for group in packed.groups], own.dropout.p if own.training else 0.0
    query, key, value = heads(own.query(first)), heads(own.key(hidden_states[0])), heads(own.value(hidden_states[0]))
    if (dtype := packing.varlen_dtype(query, dropout)) is not None:
        one_each = packing.SequenceLengths.of([1] * len(first), hidden_states.device)
        context = packing.varlen_attention(
            *(x.to(dtype) for x in (query, key, value)), one_each, packed.query_lengths, False, own.scaling
        )[0]
    else:
        keys, values = (x.split(packed.group_tokens, dim=2) for x in (key, value))
        outputs = [
            F.scaled_dot_product_attention(
                *(packing.as_batch(x, count) for x in (q, k, v)), dropout_p=dropout, scale=own.scaling
            )
            for q, k, v, count in zip(query.split(counts, dim=2), keys, values, counts, strict=True)
        ]
        context = torch.cat(outputs)[:, :, 0]
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
    """The attention that is registered with transformers: that of `packed` or, without it, the library's own.

    query [1, heads, L, D], key and value [1, key heads, L, D]; returns [1, L, heads, D].
    """
    if packed is not None:
        return packed.attend(module, query, key, value, dropout, scaling), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
