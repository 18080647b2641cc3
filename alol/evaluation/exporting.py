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
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from alol.base import faults
from alol.base.errors import InputError
from alol.compute import generate, launch
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
    rows = rows[:CHECKED]
    asked = Encoder(policy.tokenizer, params.policy).prompts(rows)
    settings = dataclasses.replace(params.generate, sample=False, beams=1, stop=[])
    main = launch.accelerator(dataclasses.replace(params.launch, precision="fp32"))

    def answers(model: nn.Module) -> list[list[int]]:
        return generate.sample_ids(
            model.to(main.device), policy.tokenizer, asked, settings, params.launch, seed=0, main=main, name="answers"
        )

    expected = own = answers(policy.model)
    model, base, revision = _whole(policy, run) if merge or not _is_adapter(policy) else _adapter(policy, run)
    if dtype != "fp32":
        model.to(DTYPES[dtype])
        model.to(torch.float32)
        expected = answers(model)
    _save(model, policy, params.generate, folder, base, revision, DTYPES[dtype])
    if base == BASE:
        _save_base(policy, run, folder / BASE, params.generate, DTYPES[dtype])
    tokenizer = loading.loaded(AutoTokenizer.from_pretrained, str(folder), None, "the export")
    if Encoder(tokenizer, params.policy).prompts(rows) != asked:
        raise InputError(f"{run}: the exported tokenizer makes other ids of the test prompts; nothing was written")
    plain = _plain(folder, base, revision, policy).to(main.device)
    for i, (prompt, answer) in enumerate(zip(asked, expected, strict=True)):
        if not _same(plain, prompt, answer, _generation(policy, settings), main):
            raise InputError(
                f"{run}: transformers answers test prompt {rows[i]['prompt_id']} otherwise than the pipeline, so "
                "nothing was written; without --merge and in fp32 there is nothing to round"
            )
    auto = "AutoModelForSeq2SeqLM" if is_encoder_decoder(plain) else "AutoModelForCausalLM"
    return Exported(base, revision, auto, sum(x != y for x, y in zip(own, expected, strict=True)))


def _is_adapter(policy: LoadedPolicy) -> bool:
    return hasattr(policy.model, "peft_config")


def _named_base(policy: LoadedPolicy, run: Path) -> str:
    return policies.base_path(run, policy.pointer["base"])


def _whole(policy: LoadedPolicy, run: Path) -> tuple[nn.Module, None, None]:
    """The model with its adapter merged in. 4-bit weights are what the adapter was trained on: they are unpacked."""
    model = policy.model
    if not _is_adapter(policy):
        return model, None, None
    if policy.pointer["quantized"]:
        base = policies.base_model(_named_base(policy, run), policy.pointer["revision"], quantized=True)
        with loading.quiet():
            base = base.dequantize().float()
        adapter, revision = policies.own_adapter(run, policy.pointer)
        model = policies.with_adapter(base, str(adapter), revision, 0.0)
    return model.merge_and_unload(), None, None


def _adapter(policy: LoadedPolicy, run: Path) -> tuple[nn.Module, str, str | None]:
    """The adapter, and what it goes onto: a hub id with its revision, or BASE."""
    name = _named_base(policy, run)
    on_hub = model_names.located(name, str(run)) is None
    return policy.model, name if on_hub else BASE, policy.pointer["revision"] if on_hub else None


def _save(
    model: nn.Module,
    policy: LoadedPolicy,
    settings: Generate,
    folder: Path,
    base: str | None,
    revision: str | None,
    dtype: torch.dtype,
) -> None:
    folder.mkdir(parents=True)
    with loading.quiet():
        if base is not None:
            config = model.peft_config[ADAPTER]
            config.base_model_name_or_path, config.revision = base, revision
            config.target_modules = sorted(config.target_modules)
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.data = parameter.data.to(dtype)
            model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=[ADAPTER])
            (folder / "README.md").unlink(missing_ok=True)
        else:
            _save_model(model, policy, settings, folder, dtype)
        policy.tokenizer.save_pretrained(folder)


def _save_model(model: nn.Module, policy: LoadedPolicy, settings: Generate, folder: Path, dtype: torch.dtype) -> None:
    """What the pipeline ends and chooses tokens by is in generation_config.json."""
    model.generation_config = _generation(policy, settings)
    model.to(dtype).save_pretrained(folder)


def _save_base(policy: LoadedPolicy, run: Path, folder: Path, settings: Generate, dtype: torch.dtype) -> None:
    model = policies.base_model(_named_base(policy, run), policy.pointer["revision"], quantized=False)
    with loading.quiet():
        _save_model(model, policy, settings, folder, dtype)
        policy.tokenizer.save_pretrained(folder)


def _plain(folder: Path, base: str | None, revision: str | None, policy: LoadedPolicy) -> nn.Module:
    """The exported model as any program of transformers and peft loads it, with arithmetic in fp32."""
    encoded = is_encoder_decoder(policy.model)
    load = (AutoModelForSeq2SeqLM if encoded else AutoModelForCausalLM).from_pretrained
    options: dict[str, Any] = {"dtype": torch.float32}
    if base is not None and policy.pointer["quantized"]:
        options["quantization_config"] = policies.four_bit(torch.float32)
    place = str(folder / base) if base == BASE else base or str(folder)
    model = loading.loaded(load, place, revision, "the export", **options)
    if base is not None:
        from peft import PeftModel

        with loading.reading("the export"):
            model = PeftModel.from_pretrained(model, str(folder))
    return model.eval()


def _generation(policy: LoadedPolicy, settings: Generate) -> GenerationConfig:
    return generate.config_of(policy.model, policy.tokenizer, dataclasses.replace(settings, stop=[]))


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
