"""Responses of a policy to prompts: batches of similar length, padded on the left, order restored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from alol.batching import pad
from alol.launch import gather_shards
from alol.logprob import is_encoder_decoder
from alol.params import Generate, Launch


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: Generate,
    launch: Launch,
    *,
    seed: int,
    main: Accelerator,
    name: str = "generate",
) -> list[str]:
    """One response text per prompt (token ids), in order; the work is shared by the processes of `main`.

    `model` must be in evaluation mode on main's device. Sampling draws from `seed` and the batch alone, so that a run
    repeats itself.
    """
    ids = sample_ids(model, tokenizer, prompts, settings, launch, seed=seed, main=main, name=name)
    return [decode(tokenizer, row, settings) for row in ids]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], settings: Generate) -> str:
    """The text of a response's token ids, as rewards and users see it."""
    return finish(tokenizer.decode(ids, skip_special_tokens=True), settings)


def sample_ids(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: Generate,
    launch: Launch,
    *,
    seed: int,
    main: Accelerator,
    name: str,
) -> list[list[int]]:
    """Like `generate`, as token ids: the token that ended a response included, padding not."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    mine = order[main.process_index :: main.num_processes]
    ids: list[list[int]] = []
    bar = tqdm(total=len(mine), desc=name, unit="prompt", leave=False, disable=not main.is_main_process)
    with bar, torch.random.fork_rng(), torch.no_grad(), main.autocast():
        for start in range(0, len(mine), launch.generate_batch):
            batch = [prompts[i] for i in mine[start : start + launch.generate_batch]]
            torch.manual_seed(seed * 1_000_003 + start * main.num_processes + main.process_index)
            ids += _batch(model, tokenizer, batch, settings, main.device)
            bar.update(len(batch))
    result: list[list[int]] = [[] for _ in prompts]
    for i, row in zip(order, gather_shards(ids, main), strict=True):
        result[i] = row
    return result


def _batch(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: Generate,
    device: torch.device,
) -> list[list[int]]:
    encoded = is_encoder_decoder(model)
    ids, mask = pad(prompts, tokenizer.pad_token_id, left=not encoded)
    start = 1 if encoded else ids.shape[1]  # an encoder-decoder's output begins with its start token
    output = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        generation_config=_config(model, tokenizer, settings),
        tokenizer=tokenizer if settings.stop else None,
    )
    ends = {tokenizer.eos_token_id, *settings.stop_ids}
    return [_trimmed(row, ends, tokenizer.pad_token_id) for row in output[:, start:].tolist()]


def _trimmed(ids: list[int], ends: set[int], pad_id: int) -> list[int]:
    """Without the padding after a response's end; where end of text pads, its first occurrence is the end."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    length = len(ids)
    while length > 1 and ids[length - 1] == pad_id:
        length -= 1
    return ids[:length]


def _config(model: nn.Module, tokenizer: PreTrainedTokenizerBase, settings: Generate) -> GenerationConfig:
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0} if settings.sample else {}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        do_sample=settings.sample,
        repetition_penalty=settings.repetition_penalty,
        eos_token_id=[tokenizer.eos_token_id, *settings.stop_ids],
        pad_token_id=tokenizer.pad_token_id,
        stop_strings=settings.stop or None,
        decoder_start_token_id=model.config.decoder_start_token_id if is_encoder_decoder(model) else None,
        **sampling,
    )


def finish(text: str, settings: Generate) -> str:
    """A decoded response cut at the first of the `cut` texts and stripped, a trailing `stop` text removed."""
    for mark in settings.cut:
        text = text.split(mark, 1)[0]
    text = text.strip()
    for mark in settings.stop:
        if text.endswith(mark.strip()):
            text = text.replace(mark.strip(), "").strip()
    return text
