"""What a model's name in a parameter stands for: a hub id, a folder, a .gguf file, or a path within a package.

`package:NAME/path` is a folder or file that an installed package carries; NAME is what one would import, which is not
done. Light on purpose: checking parameters loads no model.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from alol.base.errors import InputError, ParameterError

PACKAGE = "package:"
GGUF = ".gguf"
TEMPLATE = ".jinja"
WEIGHTS = ("*.safetensors", "*.bin")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def find(name: str) -> tuple[Path | None, str | None]:
    """(the folder or .gguf file of a model, None for a hub id; what is wrong with the name, None where nothing is)."""
    if name.startswith(PACKAGE):
        path, wrong = in_package(name.removeprefix(PACKAGE))
    else:
        path, wrong = _written(name)
    if path is None or wrong:
        return None, wrong
    if not path.exists():
        return None, f"{path} does not exist"
    if path.is_file() and path.suffix.lower() != GGUF:
        return None, f"{path} is no folder and no {GGUF} file; name the folder that it lies in"
    return path, None


def located(name: str, what: str) -> Path | None:
    """As `find`; raises InputError, which begins with `what`, for a name that is wrong."""
    path, wrong = find(name)
    if wrong:
        raise InputError(f"{what}: {wrong}")
    return path


def folder(name: str, what: str) -> str:
    """The folder or hub id that a name stands for, where a .gguf file would be of no use."""
    path = located(name, what)
    if path is not None and path.is_file():
        raise InputError(f"{what}: {path} is a file; name a folder or a hub id")
    return name if path is None else str(path)


def check_sha256(name: str, expected: str | None, key: str) -> None:
    """Raises ParameterError, of the parameter `key`, unless a model's weights have this sha256; None: not checked."""
    if expected is None:
        return
    if wrong := unfit(name, expected):
        raise ParameterError(key, wrong)
    file = _weights(located(name, key))
    if (actual := _sha256(file)) != expected.lower():
        raise ParameterError(key, f"is {expected}, but {file} has {actual}; get the right file, or correct it")


def unfit(name: str, expected: str | None) -> str | None:
    """What is wrong with the sha256 that stands beside a model's name, as far as it can be told without reading it."""
    path, _ = find(name)
    file = _weights(path)
    if expected is None:
        if not name.startswith(PACKAGE) or file is None:
            return None
        return f"is not set, but another version of a package may hold another model; here it is {_sha256(file)}"
    if not SHA256.fullmatch(expected):
        return f"is {expected!r:.80}, but must be 64 hexadecimal digits"
    if path is None:
        return f"is set, but '{name}' is a hub id, of which the revision says what it is; set it to null"
    return None if file else f"is set, but {path} has no file of weights, or several; set it to null"


def _weights(path: Path | None) -> Path | None:
    """The one file with the weights of a model; None where there are several."""
    if path is None or path.is_file():
        return path
    files = [file for kind in WEIGHTS for file in path.glob(kind)]
    return files[0] if len(files) == 1 else None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def named(settings: Any) -> Iterator[Path]:
    """Where the models and templates lie that settings (plain values) name, in their order; without hub ids."""
    for value in settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ():
        if not isinstance(value, str):
            yield from named(value)
        elif value.endswith(TEMPLATE):
            if (path := Path(value)).is_file():
                yield path
        elif "/" in value or value.endswith(GGUF):
            path, _ = find(value)
            if path is not None and (path.is_file() or any(path.glob("*config.json"))):
                yield path


def _written(name: str) -> tuple[Path | None, str | None]:
    """A path, with its environment variables; None for what is written like a hub id and is no path here."""
    path = Path(os.path.expandvars(name)).expanduser()
    as_path = path.is_absolute() or name.startswith((".", "$", "~")) or name.count("/") > 1
    if not (as_path or path.suffix.lower() == GGUF or path.exists()):
        return None, None
    if unset := VARIABLE.search(str(path)):
        return None, f"the environment variable {unset[1] or unset[2]} is not set"
    return path, None


def in_package(name: str) -> tuple[Path | None, str | None]:
    """(the path that NAME/path means within an installed package, which may not exist; what is wrong with the name)."""
    package, _, inside = name.partition("/")
    if not package.isidentifier() or not inside or ".." in PurePosixPath(inside).parts or inside.startswith("/"):
        return None, f"'{PACKAGE}{name}' is not of the form {PACKAGE}NAME/path, NAME being what one would import"
    specs = (finder.find_spec(package, None) for finder in sys.meta_path)  # which imports nothing
    spec = next((spec for spec in specs if spec is not None), None)
    if spec is None or not spec.submodule_search_locations:
        return None, f"no package {package} is installed; install it into this environment (`make models` has some)"
    places = [Path(place, inside) for place in spec.submodule_search_locations]
    return next((place for place in places if place.exists()), places[0]), None
