"""Models, tokenizers, configurations and adapters of others, by name: whole, and without their own code.

Every loading call of transformers and peft goes through here, and what a name stands for is in `config.model_names`.
Whatever they raise over files that are damaged, or not what their names say, becomes one line.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from alol.base import faults
from alol.base.errors import InputError
from alol.base.files import replacing
from alol.base.locks import Lock
from alol.base.work import sweep
from alol.config import model_names, paths

log = logging.getLogger(__name__)
SAMPLE = 2**20  # bytes at either end of a file that go into a fingerprint


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises InputError, which begins with `what`, for whatever a library raises over the files that it reads."""
    with faults.reading(lambda why: InputError(f"{what}: {why}")), quiet():
        yield


def loaded(load: Callable[..., Any], name: str, revision: str | None, what: str, **keywords: Any) -> Any:
    """`load(name)`, which is a `from_pretrained`, for a model's name; `what` begins the line of a mistake.

    A model that asks for code of its own (`auto_map`) is refused, without a question on the terminal.
    """
    path = model_names.located(name, what)
    if path is not None and path.is_file():
        path = plain(path, what)
    place, revision = (name, revision) if path is None else (str(path), None)
    with reading(f"{what}: '{name}' could not be loaded"):
        return load(place, revision=revision, trust_remote_code=False, **keywords)


def complete(load: Callable[..., Any], name: str, revision: str | None, what: str, **keywords: Any) -> Any:
    """A model that lacks none of its weights and has finite ones; raises InputError naming some that are wrong.

    A library fills in random weights for those that a file lacks, which no one notices until the results are poor.
    """
    model, info = loaded(load, name, revision, what, output_loading_info=True, **keywords)
    return _whole(model, info, name, what)


def headless(load: Callable[..., Any], name: str, revision: str | None, what: str, **keywords: Any) -> Any:
    """As `complete`, but for a model to train: its head, and what pools the states before it, may be new."""
    model, info = loaded(load, name, revision, what, output_loading_info=True, ignore_mismatched_sizes=True, **keywords)
    body = f"{model.base_model_prefix}."
    lacking = {key: [one for one in info[key] if _key(one).startswith(body) and ".pooler." not in _key(one)]
               for key in ("missing_keys", "mismatched_keys")}  # fmt: skip
    return _whole(model, lacking, name, what)


def backbone(load: Callable[..., Any], name: str, revision: str | None, what: str, **keywords: Any) -> Any:
    """A model without a head, of which only the pooler, of which no state is read, may be lacking."""
    model, info = loaded(load, name, revision, what, output_loading_info=True, **keywords)
    lacking = {key: [one for one in info[key] if not _key(one).startswith("pooler.")]
               for key in ("missing_keys", "mismatched_keys")}  # fmt: skip
    return _whole(model, lacking, name, what)


def _key(entry: Any) -> str:
    return entry if isinstance(entry, str) else entry[0]


def _whole(model: nn.Module, info: dict[str, Any], name: str, what: str) -> nn.Module:
    if missing := sorted(map(_key, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise InputError(
            f"{what}: '{name}' is not such a model, or not all of it: it lacks the weights {', '.join(missing[:3])}"
        )
    if broken := next(not_finite(model), None):
        raise InputError(f"{what}: '{name}' has weights that are no finite numbers: {broken}")
    return model


def language_model_class(config: Any) -> Any:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def plain(file: Path, what: str) -> Path:
    """A folder with the model of a .gguf file and its tokenizer, in fp32, as any other program loads it.

    It is written once, since reading such a file takes long, and the library neither saves nor quantises what it read.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{what}: {file} needs the package gguf to be read; `make models` installs it")
    place = paths.work("models")
    place.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{fingerprint(file)} {transformers.__version__}".encode()).hexdigest()[:16]
    folder = place / f"{file.stem}-{key}"
    lock = Lock.of(folder)
    lock.take(wait=True)  # which another process may hold while it writes
    try:
        if not folder.exists():
            sweep(place)
            _convert(file, folder, what)
        os.utime(folder)  # so that the sweep knows what is in use
    finally:
        lock.release()
    return folder


def _convert(file: Path, folder: Path, what: str) -> None:
    def load(call: Callable[..., Any], **keywords: Any) -> Any:
        return call(str(file.parent), gguf_file=file.name, trust_remote_code=False, **keywords)

    with reading(f"{what}: '{file}' could not be loaded"):
        config = load(AutoConfig.from_pretrained)
        model_class = language_model_class(config)
        model, info = load(
            model_class.from_pretrained, config=copy.deepcopy(config), dtype=torch.float32, output_loading_info=True
        )
        tokenizer = load(AutoTokenizer.from_pretrained)
    weights = _whole(model, info, str(file), what).state_dict()
    with torch.device("meta"):
        saved = model_class.from_config(config)
    saved.load_state_dict(weights, assign=True)
    saved.tie_weights()
    log.info("%s is read once, into %s", file, folder)
    with replacing(folder) as partial, quiet():
        saved.save_pretrained(partial)
        _save_tokenizer(tokenizer, config.vocab_size, partial)


def _save_tokenizer(tokenizer: Any, size: int, folder: Path) -> None:
    """Without tokens that the library gives every tokenizer of such a file, and the model has no embedding of."""
    beyond = {token for token, i in tokenizer.get_added_vocab().items() if i >= size}
    for role, token in tokenizer.special_tokens_map.items():
        if token in beyond:
            setattr(tokenizer, role, None)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] not in beyond]
    file.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def fingerprint(path: Path) -> str:
    """A hash over the names, sizes and both ends of the files in a model's folder, or of one file."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            size = file.stat().st_size
            with file.open("rb") as opened:
                head = opened.read(SAMPLE)
                opened.seek(max(0, size - SAMPLE))
                digest.update(f"{file.name}:{size}:".encode() + head + opened.read())
    return digest.hexdigest()


def not_finite(model: nn.Module) -> Iterator[str]:
    """The names of parameters that hold NaN or an infinity; 4-bit ones are not looked at."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.numel():
            low, high = torch.aminmax(parameter.detach())
            if not torch.isfinite(high - low):
                yield name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's bars for reading and writing shards, which come for each small model."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
