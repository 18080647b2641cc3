"""How many tokens texts have, without loading a deep-learning library: clean starts within a fraction of a second."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from alol.base.errors import InputError, first_line

Counter = Callable[[Sequence[str]], list[int]]
ALONE, PARTS = "tokenizer.json", ("vocab.json", "merges.txt")  # the two layouts in which GPT-2's family is published


@cache
def tokenizer(name: str, revision: str | None) -> Counter:
    """A function from texts to their numbers of tokens, special tokens not added.

    `name` is a folder (it may start with an environment variable) or a hub id with a revision. Raises InputError when
    it holds neither tokenizer.json nor vocab.json and merges.txt, and for a hub id without a revision.
    """
    folder = Path(os.path.expandvars(name)).expanduser()
    if not folder.is_dir() and revision is None:
        raise InputError(f"the tokenizer '{name}' is no folder, and a hub id needs a revision beside it")
    find = (lambda file: folder / file) if folder.is_dir() else (lambda file: _fetched(name, revision, file))
    try:
        loaded = _loaded(find)
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise InputError(f"the tokenizer of {name} cannot be read: {first_line(error)}") from None
    if loaded is None:
        raise InputError(f"{name} has no tokenizer: neither {ALONE} nor {' and '.join(PARTS)}; name another one")
    return lambda texts: [len(encoded) for encoded in loaded.encode_batch_fast(list(texts), add_special_tokens=False)]


def _loaded(find: Callable[[str], Path | None]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    alone = find(ALONE)
    if alone is not None and alone.exists():
        built = Tokenizer.from_file(str(alone))
        built.no_truncation()
        built.no_padding()
        return built
    vocabulary, merges = map(find, PARTS)
    if not (vocabulary and merges and vocabulary.exists() and merges.exists()):
        return None
    built = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if "<|endoftext|>" in json.loads(vocabulary.read_text(encoding="utf-8")):
        built.add_special_tokens(["<|endoftext|>"])
    return built


def _fetched(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a hub repository; None when it has no such file.

    Without a connection, a repository of the older layout lies in the cache without a tokenizer.json: that one may be
    absent there too.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError) and file != ALONE:  # the hub cannot be reached
            raise InputError(f"cannot fetch the tokenizer of {name}: {first_line(error)}") from None
        return None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(f"cannot fetch the tokenizer of {name}: {first_line(error)}") from None
