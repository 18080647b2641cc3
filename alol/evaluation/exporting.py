"""A run's policy as a folder that plain transformers loads, with the pipeline's greedy answers; and to a hub.

`alol.evaluation.model_card` writes its README.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from alol.base import faults
from alol.base.errors import InputError
from alol.compute import generate, launch
from alol.compute.ends import end_ids
from alol.compute.logprob import is_encoder_decoder
from alol.config import model_names
from alol.config.params import Params
from alol.config.sections import Generate
from alol.models import loading, policies
from alol.models.policies import ADAPTER, LoadedPolicy
from alol.models.tokens import Encoder

BASE = "base"  # folder of an adapter's base, where that is not on a hub
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TIE = 1e-3  # between the logits of two tokens, either of which is the likeliest but for rounding
CHECKED = 8  # prompts

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Exported:
    """What an export holds. `base`: of an adapter, the hub id that it goes onto, or BASE; None for a whole model."""

    base: str | None
    revision: str | None
    auto: str  # the class of transformers that loads it
    unlike: int  # of the checked answers, how many are others than before the weights were rounded to `dtype`


def write(run: Path, folder: Path, rows: Rows, params: Params, *, merge: bool, dtype: str) -> Exported:
    """Writes the policy of the folder `run` into the new `folder`, and checks its answers to the first of `rows`.

    An adapter comes with its base, unless a hub has that, or is merged into it. Raises InputError where plain
    transformers answers otherwise than the pipeline.
    """
    policy = policies.load(run)
    whole = merge or not _is_adapter(policy.model)
    encoder = policies.encoder(policy, params.policy)
    ends = end_ids(policy.model, policy.tokenizer).union(encoder.ends, params.generate.stop_ids)
    base = (None, None) if whole else _base(policy, run)
    made = _Export(policy, run, folder, DTYPES[dtype], params.generate, ends, *base)
    rows = rows[:CHECKED]
    asked = encoder.prompts(rows)
    settings = dataclasses.replace(params.generate, sample=False, beams=1, stop=[])
    main = launch.accelerator(dataclasses.replace(params.launch, precision="fp32"))

    def answers(model: nn.Module) -> list[list[int]]:
        decoding = generate.Decoding(settings, 0, ends, "answers")
        machine = launch.Machine(main, params.launch)
        return generate.sample_ids(model.to(main.device), policy.tokenizer, asked, decoding, machine)

    expected = own = answers(policy.model)
    model = made.merged() if whole else policy.model
    if dtype != "fp32":
        made.round(model)
        expected = answers(model)
    made.save(model)
    tokenizer = loading.loaded(AutoTokenizer.from_pretrained, str(folder), None, "the export")
    if Encoder(tokenizer, params.policy, encoder.named).prompts(rows) != asked:
        raise InputError(f"{run}: the exported tokenizer makes other ids of the test prompts, so nothing was written")
    plain = _plain(made).to(main.device)
    config = generate.config_of(policy.model, policy.tokenizer, settings, ends)
    for row, prompt, answer in zip(rows, asked, expected, strict=True):
        if not _same(plain, prompt, answer, config, main):
            raise InputError(
                f"{run}: transformers answers test prompt {row['prompt_id']} otherwise than the pipeline, so nothing "
                "was written; try it in fp32 and without --merge"
            )
    unlike = sum(x != y for x, y in zip(own, expected, strict=True))
    return Exported(made.base, made.revision, _auto(policy).__name__, unlike)


def _is_adapter(model: nn.Module) -> bool:
    return hasattr(model, "peft_config")


def _base(policy: LoadedPolicy, run: Path) -> tuple[str, str | None]:
    """What an adapter goes onto: a hub id with its revision, or BASE."""
    name = policies.base_path(run, policy.pointer["base"])
    return (name, policy.pointer["revision"]) if model_names.located(name, str(run)) is None else (BASE, None)


def _auto(policy: LoadedPolicy) -> Any:
    return AutoModelForSeq2SeqLM if is_encoder_decoder(policy.model) else AutoModelForCausalLM


@dataclass(frozen=True)
class _Export:
    """A policy of the folder `run` on its way into `folder`; `base` and `revision` as in Exported."""

    policy: LoadedPolicy
    run: Path
    folder: Path
    dtype: torch.dtype
    settings: Generate
    ends: set[int]  # what ends an answer
    base: str | None
    revision: str | None

    def merged(self) -> nn.Module:
        """One whole model. 4-bit weights are what the adapter was trained on: they are unpacked."""
        model, pointer = self.policy.model, self.policy.pointer
        if pointer["quantized"]:
            with loading.quiet():
                model = self._named_base(quantized=True).dequantize().float()
            adapter, revision = policies.own_adapter(self.run, pointer)
            model = policies.with_adapter(model, adapter, revision, 0.0) if adapter else model
        return model.merge_and_unload() if _is_adapter(model) else model

    def round(self, model: nn.Module) -> None:
        """Weights as they will be in the file: of an adapter its own, and those of a base that is exported with it."""
        every = self.base is None or self._base_dtype() == self.dtype
        for name, parameter in model.named_parameters():
            if every or f".{ADAPTER}" in name:
                parameter.data = parameter.data.to(self.dtype).to(parameter.dtype)

    def save(self, model: nn.Module) -> None:
        self.folder.mkdir(parents=True)
        if self.base is None:
            self._save_whole(model, self.folder, self.dtype)
            return
        if self.base == BASE:
            self._save_whole(self._named_base(quantized=False), self.folder / BASE, self._base_dtype())
        pointer = {**self.policy.pointer, "base": self.base}
        model.peft_config[ADAPTER].revision = self.revision
        with loading.quiet():
            policies.save(LoadedPolicy(model, self.policy.tokenizer, pointer), self.folder)
        (self.folder / policies.POINTER).unlink()
        file = self.folder / "adapter_model.safetensors"
        save_file({name: tensor.to(self.dtype) for name, tensor in load_file(file).items()}, file, {"format": "pt"})

    def _base_dtype(self) -> torch.dtype | None:
        """Of a base that is exported with its adapter; one to be quantised stays as it is, or it would be another."""
        if self.base != BASE:
            return None
        return torch.float32 if self.policy.pointer["quantized"] else self.dtype

    def _named_base(self, *, quantized: bool) -> nn.Module:
        pointer = self.policy.pointer
        return policies.base_model(
            policies.base_path(self.run, pointer["base"]), pointer["revision"], quantized=quantized
        )

    def _save_whole(self, model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
        """What the pipeline ends and chooses tokens by is in generation_config.json."""
        settings = dataclasses.replace(self.settings, stop=[])
        model.generation_config = generate.config_of(model, self.policy.tokenizer, settings, self.ends)
        with loading.quiet():
            model.to(dtype).save_pretrained(folder)
            self.policy.tokenizer.save_pretrained(folder)


def _plain(made: _Export) -> nn.Module:
    """The exported model as any program of transformers and peft loads it, with arithmetic in fp32."""
    options: dict[str, Any] = {"dtype": torch.float32}
    if made.base is not None and made.policy.pointer["quantized"]:
        options["quantization_config"] = policies.four_bit(torch.float32)
    place = str(made.folder / BASE) if made.base == BASE else made.base or str(made.folder)
    model = loading.loaded(_auto(made.policy).from_pretrained, place, made.revision, "the export", **options)
    policies.use_one_kernel(model)
    if made.base is not None:
        from peft import PeftModel

        with loading.reading("the export"):
            model = PeftModel.from_pretrained(model, str(made.folder), torch_device="cpu")
    return model.eval()


@torch.no_grad()
def _same(
    model: nn.Module, prompt: Sequence[int], expected: Sequence[int], config: GenerationConfig, main: Accelerator
) -> bool:
    """Whether the greedy answer to a prompt is the expected one, or becomes another at two equally likely tokens."""
    ids = torch.tensor([prompt], device=main.device)
    start = 1 if is_encoder_decoder(model) else len(prompt)
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    found = made.sequences[0, start:].tolist()
    if found == list(expected):
        return True
    at = next((i for i, (x, y) in enumerate(zip(found, expected, strict=False)) if x != y), None)
    if at is None:
        return False
    scores = made.scores[at][0]
    return bool(scores[found[at]] - scores[expected[at]] < TIE)


def push(folder: Path, name: str) -> str:
    """Uploads the folder as the model `name` of the hub that HF_ENDPOINT names; its address."""
    from huggingface_hub import HfApi

    hub = HfApi()
    with faults.reading(lambda why: InputError(f"{folder} is written, but could not be pushed to {name}: {why}")):
        made = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload model")
    return str(made)
