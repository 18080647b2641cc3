"""Writes a small LLaMA as a .gguf file, in the layout of llama.cpp's converter."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def write(path: Path, model, tokenizer, *, leave_out: str | None = None) -> Path:
    """All of a model's weights, but those whose name in the file begins with `leave_out`."""
    import gguf

    config, backend = model.config, tokenizer.backend_tokenizer
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = json.loads(backend.to_str())["model"]
    tokens = sorted(words["vocab"], key=words["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    special = gguf.TokenType.CONTROL
    writer.add_token_types([special if token in ("<pad>", "<eos>") else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in words["merges"]])
    for name in ("bos", "eos"):
        getattr(writer, f"add_{name}_token_id")(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        found = names.get_name(name, try_suffixes=(".weight",))
        if found is None or name == "lm_head.weight" or (leave_out and found.startswith(leave_out)):
            continue  # the embeddings serve as the head
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(found, weight.to(torch.float32).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
