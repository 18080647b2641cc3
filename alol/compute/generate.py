"""Generates responses to prompts: by continuous batching, or in batches of similar length padded on the left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from alol.base.errors import ParameterError
from alol.compute import packed_models
from alol.compute.batching import pad
from alol.compute.decode import Limits, continuous
from alol.compute.ends import end_ids
from alol.compute.launch import Machine, gather_shards
from alol.compute.logprob import is_encoder_decoder
from alol.config.sections import Generate, Launch


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen and where a response ends: the section `generate`, and what differs between its uses.

    Sampling draws from `seed` alone, so that a run repeats itself. `ends` are tokens that end a response, beside those
    of `end_ids` and `settings.stop_ids`. `name` is what the progress bar calls the work.
    """

    settings: Generate
    seed: int
    ends: Collection[int] = ()
    name: str = "generate"


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    machine: Machine,
    done: Callable[[int], object] | None = None,
) -> list[tuple[str, list[int]]]:
    """Generates one response per prompt (token ids), in order: its text, and its token ids as in `sample_ids`.

    `model` must be in evaluation mode on the machine's device. The processes share the prompts. With `done`, this
    process answers all of them by itself, shows no bar, and calls `done` with the number of prompts just answered.
    """
    ends = end_ids(model, tokenizer).union(decoding.ends)
    responses = sample_ids(model, tokenizer, prompts, decoding, machine, done)
    return [(decode(tokenizer, ids, decoding.settings, ends), ids) for ids in responses]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], settings: Generate, ends: Container[int]) -> str:
    """Decodes the token ids of a response to the text that rewards and users see, without the token that ended it."""
    if len(ids) and ids[-1] in ends:
        ids = ids[:-1]
    return finish(tokenizer.decode(ids, skip_special_tokens=True), settings)


def sample_ids(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    machine: Machine,
    done: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """Generates responses as `generate` does, and returns their token ids: with the token that ended each, unpadded.

    Raises ParameterError for a stop id that the model has no token for.
    """
    settings, accelerator, launch = decoding.settings, machine.accelerator, machine.launch
    size = model.get_input_embeddings().num_embeddings
    for i, token in enumerate(settings.stop_ids):
        if token >= size:
            raise ParameterError(f"generate.stop_ids[{i}]", f"is {token}, but the model's {size} tokens count from 0")
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    rank, processes = (accelerator.process_index, accelerator.num_processes) if done is None else (0, 1)
    mine = order[rank::processes]
    share = [prompts[i] for i in mine]
    ends = end_ids(model, tokenizer).union(decoding.ends, settings.stop_ids)
    bar = tqdm(total=len(mine), desc=decoding.name, unit="prompt", leave=False, disable=rank > 0 or done is not None)
    done = done or bar.update
    with bar, torch.random.fork_rng(), torch.no_grad(), accelerator.autocast():
        if settings.beams == 1 and packed_models.packable(model):
            generator = torch.Generator().manual_seed(decoding.seed)
            draws = torch.rand(len(prompts), settings.max_new_tokens, generator=generator, dtype=torch.float64)
            choice = Choice(share, settings, draws[mine], next(model.parameters()).device)
            ids, _ = decode_all(model, tokenizer, choice, ends, launch, done)
        else:
            ids = []
            for start in range(0, len(mine), launch.generate_batch):
                torch.manual_seed((decoding.seed * 1_000_003 + start * processes + rank) % 2**63)
                batch = share[start : start + launch.generate_batch]
                ids += _batch(model, tokenizer, batch, settings, accelerator.device, ends)
                done(len(batch))
    result: list[list[int]] = [[] for _ in prompts]
    for i, row in zip(order, gather_shards(ids, accelerator) if processes > 1 else ids, strict=True):
        result[i] = row
    return result


def decode_all(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    choice: Choice,
    ends: Container[int],
    launch: Launch,
    done: Callable[[int], object] = lambda count: None,
) -> tuple[list[list[int]], int]:
    """Answers the prompts of `choice` by continuous batching; returns what alol.compute.decode.continuous does.

    Each of `ends` ends a response.
    """
    prompts, settings = choice.prompts, choice.settings
    stop = StopStringCriteria(tokenizer, settings.stop) if settings.stop else None

    def ended(responses: list[list[int]], rows: list[int]) -> list[bool]:
        over = [response[-1] in ends for response in responses]
        if stop is None:
            return over
        reach = stop.maximum_token_len
        tails = [[*prompts[i][-reach:], *response][-reach:] for i, response in zip(rows, responses, strict=True)]
        stopped = stop(pad(tails, tokenizer.pad_token_id, left=True)[0], None).tolist()
        return [x or y for x, y in zip(over, stopped, strict=True)]

    limits = Limits(settings.max_new_tokens, launch.generate_batch, launch.tokens)
    return continuous(model, prompts, choice, ended, limits, done)


class Choice:
    """Chooses the next token of each sequence: the likeliest, or a sampled one.

    The numbers `draws` [N, max_new_tokens] in [0, 1) decide the sampled tokens (inverse transform sampling), so that
    they do not depend on the batch.
    """

    def __init__(
        self, prompts: Sequence[Sequence[int]], settings: Generate, draws: Tensor, device: torch.device
    ) -> None:
        self.prompts, self.settings, self.draws = prompts, settings, draws.to(device)
        self.taken = [0] * len(prompts)
        self.seen: dict[int, Tensor] = {}
        self.warpers = [TemperatureLogitsWarper(settings.temperature)] if settings.temperature != 1.0 else []
        self.warpers += [TopPLogitsWarper(settings.top_p)] if settings.top_p < 1.0 else []

    def __call__(self, logits: Tensor, rows: list[int]) -> list[int]:
        """Token ids [n] from logits [n, V] of the sequences `rows`."""
        if self.settings.repetition_penalty != 1.0:
            logits = self._penalised(logits, rows)
        if not self.settings.sample:
            tokens = logits.argmax(-1)
        else:
            for warper in self.warpers:
                logits = warper(None, logits)
            heaped = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
            drawn = self.draws[rows, [self.taken[i] for i in rows]][:, None] * heaped[:, -1:]
            tokens = torch.searchsorted(heaped, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
        for n, i in enumerate(rows):
            self.taken[i] += 1
            if i in self.seen:
                self.seen[i][tokens[n]] = True
        return tokens.tolist()

    def _penalised(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Applies the repetition penalty: it lowers the logits of tokens that are in the prompt or the response."""
        for i in rows:
            if i not in self.seen:
                self.seen[i] = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
                self.seen[i][list(self.prompts[i])] = True
        penalty = self.settings.repetition_penalty
        seen = torch.stack([self.seen[i] for i in rows])
        return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def _batch(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: Generate,
    device: torch.device,
    ends: set[int],
) -> list[list[int]]:
    encoded = is_encoder_decoder(model)
    ids, mask = pad(prompts, tokenizer.pad_token_id, left=not encoded)
    start = 1 if encoded else ids.shape[1]  # an encoder-decoder's output begins with its start token
    base = getattr(model, "get_base_model", lambda: model)()
    own, base.generation_config = base.generation_config, GenerationConfig()  # which fills what is not set below
    try:
        output = base.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config_of(model, tokenizer, settings, ends),
            tokenizer=tokenizer if settings.stop else None,
            synced_gpus=False,  # the model is whole here, and the processes take different numbers of steps
        )
    finally:
        base.generation_config = own
    return [_trimmed(row, ends, tokenizer.pad_token_id) for row in output[:, start:].tolist()]


def _trimmed(ids: list[int], ends: set[int], pad_id: int) -> list[int]:
    """Removes the padding after a response. Where the end of text also pads, its first occurrence is the end."""
    for position, token in enumerate(ids):
        if token in ends:
            return ids[: position + 1]
    length = len(ids)
    while length > 1 and ids[length - 1] == pad_id:
        length -= 1
    return ids[:length]


def config_of(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, settings: Generate, ends: set[int]
) -> GenerationConfig:
    """The configuration with which transformers' `generate` chooses and ends tokens as `settings` say."""
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0} if settings.sample else {}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        do_sample=settings.sample,
        repetition_penalty=settings.repetition_penalty,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        stop_strings=settings.stop or None,
        decoder_start_token_id=model.config.decoder_start_token_id if is_encoder_decoder(model) else None,
        **sampling,
    )


def finish(text: str, settings: Generate) -> str:
    """Cuts a decoded response at the first of the `cut` texts, strips it, and removes a `stop` text at its end."""
    for mark in settings.cut:
        text = text.split(mark, 1)[0]
    text = text.strip()
    for mark in settings.stop:
        if text.endswith(mark.strip()):
            text = text.replace(mark.strip(), "").strip()
    return text
