"""Fetches the entries of a task's `source` into one folder that appears whole or not at all.

Transfers go to a work folder outside of it, where they survive a killed stage. alol.data.transfer brings a file over
HTTP, alol.data.archive unpacks what is packed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from alol.base.errors import InputError, ParameterError, first_line
from alol.base.files import replacing
from alol.base.locks import Lock
from alol.config import build, model_names
from alol.config.sections import Source
from alol.data import archive, room

logger = logging.getLogger(__name__)

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def fetch(task: str, sources: dict[str, Source], target: Path, work: Path) -> None:
    """Fetches each source into `target`/<name>/ and replaces `target` once all are there.

    `work` holds unfinished transfers. Raises InputError naming the key and the location that cannot be had, or a
    file's expected and actual sha256.
    """
    if not sources:
        raise ParameterError("source", "names nothing to fetch")
    # The stack unwinds last: transfers are deleted once everything is in its place.
    with contextlib.ExitStack() as finished, replacing(target) as folder:
        for name, source in sources.items():
            where = f"source.{name}"
            check(source, where)
            (folder / name).mkdir(parents=True)
            FETCHERS[source.kind](source, where, folder / name, work, finished)
            logger.info("%s: %s", where, _shown(source) or source.kind)


def check(source: Source, where: str) -> None:
    """Raises ParameterError for what is known to be wrong without looking for anything."""
    if source.options and source.kind != "demo":
        raise ParameterError(f"{where}.options", f"must be empty: a source of kind {source.kind} has none")
    if source.kind == "demo":
        _generator(source, where)
    elif source.kind == "hub" and not source.revision:
        raise ParameterError(f"{where}.revision", "is null, but a hub data set needs the revision (a commit) to fetch")
    elif source.kind == "url":
        _address(source, where)
    elif (location := _location(source, where)).startswith(model_names.PACKAGE) and source.kind != "package":
        raise ParameterError(f"{where}.kind", f"is {source.kind}, but must be package for the location {location}")
    if source.sha256 is not None and not SHA256.fullmatch(source.sha256):
        raise ParameterError(f"{where}.sha256", f"is {source.sha256!r:.80}, but must be 64 hexadecimal digits")


def check_presence(source: Source, where: str) -> None:
    """Raises ParameterError for a local source that is not there."""
    if source.kind == "path" and source.location:
        expand(source, where)
    elif source.kind == "package" and source.location:
        _within_package(source, where)


def _demo(source: Source, where: str, folder: Path, work: Path, finished: contextlib.ExitStack) -> None:
    from alol.data.demo import generator

    generator.generate(_generator(source, where), folder)


def _generator(source: Source, where: str) -> Any:
    from alol.data.demo import generator

    given = {"bad_share": None, **build.table(source.options, f"{where}.options")}  # which earlier tasks do not have
    return build.build(generator.GeneratorOptions, given, f"{where}.options")


def _path(source: Source, where: str, folder: Path, work: Path, finished: contextlib.ExitStack) -> None:
    _take(expand(source, where), source, where, folder)


def _package(source: Source, where: str, folder: Path, work: Path, finished: contextlib.ExitStack) -> None:
    _take(_within_package(source, where), source, where, folder)


def _take(path: Path, source: Source, where: str, folder: Path) -> None:
    """A file, or a folder that is copied as it is."""
    if path.is_dir():
        if source.sha256:
            raise InputError(f"{where}: {path} is a folder, and sha256 is that of a file; set it to null")
        _copy(path, folder, source)
    else:
        check_sha256(path, source.sha256, f"{where}: {path}")
        _place(path, path.name, folder, source)


def expand(source: Source, where: str) -> Path:
    """The local path that a source means; raises InputError when a variable is unset or nothing is there."""
    location = _location(source, where)
    for match in VARIABLE.finditer(location):
        name = match[1] or match[2]
        if name not in os.environ:
            raise ParameterError(
                f"{where}.location",
                f"is {location}, but the environment variable {name} is not set: set it; {_hint(source, where)}",
            )
    path = Path(os.path.expandvars(location))
    if not path.is_absolute():
        raise ParameterError(
            f"{where}.location", f"is {location}, but must be absolute or start with an environment variable"
        )
    return _readable(path, source, where)


def _within_package(source: Source, where: str) -> Path:
    """The path within an installed package, which is not imported; raises ParameterError when it is not there."""
    location = _location(source, where)
    path, wrong = model_names.in_package(location.removeprefix(model_names.PACKAGE))
    if path is None:
        origin = f"; {_hint(source, where)}" if source.origin else ""
        raise ParameterError(f"{where}.location", f"is {location}, but {wrong}{origin}")
    return _readable(path, source, where)


def _readable(path: Path, source: Source, where: str) -> Path:
    """The path of a source's location; raises ParameterError when no file or folder is there that may be read."""
    location = source.location
    hint = _hint(source, where)
    if not os.path.exists(path):  # noqa: PTH110 (unlike Path.exists, false for a name that no file can have)
        raise ParameterError(f"{where}.location", f"is {location}: {path} does not exist; {hint}")
    if kind := KINDS.get(stat.S_IFMT(path.stat().st_mode)):
        raise ParameterError(f"{where}.location", f"is {location}: {path} is {kind}, not a file or a folder")
    if not os.access(path, os.R_OK):
        raise ParameterError(f"{where}.location", f"is {location}: {path} may not be read; check its permissions")
    return path


def _hint(source: Source, where: str) -> str:
    return f"it can be had from {source.origin}" if source.origin else f"or change {where}.location"


def _url(source: Source, where: str, folder: Path, work: Path, finished: contextlib.ExitStack) -> None:
    from alol.data.transfer import transfer

    url, what = _address(source, where), f"{where}: {_shown(source)}"
    place = finished.enter_context(_reserved(work, f"{url} {source.sha256}"))
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    name = name if NAME.fullmatch(name) else "download"
    transfer(url, place / "data", what, limit=_limit(source), tries=source.tries)
    try:
        check_sha256(place / "data", source.sha256, what)
    except InputError:
        shutil.rmtree(place)  # what is wrong as a whole is no start for another attempt
        raise
    _place(place / "data", name, folder, source)


def _hub(source: Source, where: str, folder: Path, work: Path, finished: contextlib.ExitStack) -> None:
    """A data set's files at one revision."""
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = _location(source, where)
    if source.sha256:
        raise ParameterError(
            f"{where}.sha256", "is set, but of a hub data set the revision says what it is; set it to null"
        )
    place = finished.enter_context(_reserved(work, f"hub {name} {source.revision}"))
    try:
        huggingface_hub.snapshot_download(name, repo_type="dataset", revision=source.revision, local_dir=place / "data")
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        raise InputError(f"{where}: cannot fetch data set {name} at {source.revision}: {first_line(error)}") from None
    shutil.rmtree(place / "data" / ".cache", ignore_errors=True)  # the hub client's own notes
    _copy(place / "data", folder, source)


FETCHERS: dict[str, Callable[[Source, str, Path, Path, contextlib.ExitStack], None]] = {
    "path": _path,
    "package": _package,
    "url": _url,
    "hub": _hub,
    "demo": _demo,
}


def _location(source: Source, where: str) -> str:
    if not source.location:
        raise ParameterError(f"{where}.location", f"is null, but a source of kind {source.kind} needs one")
    return source.location


def _address(source: Source, where: str) -> str:
    """The URL of a source, which http can ask for."""
    url = _location(source, where)
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, brackets of an address that is none
        whole = False
    if not whole or re.search(r"[\x00-\x20\x7f]", url):
        raise ParameterError(f"{where}.location", f"is {_shown(source)}, but must be an http:// or https:// URL")
    return url


def _shown(source: Source) -> str | None:
    """A source's location for messages: of a URL without user, password and query, which may be secret."""
    if source.kind != "url" or source.location is None:
        return source.location
    public = re.split(r"[?#]", re.sub(r"//.*@", "//", source.location, flags=re.DOTALL))[0]
    return public if public.isprintable() else ascii(public)


def _limit(source: Source) -> int:
    return round(source.max_gib * 2**30)


def _place(path: Path, name: str, folder: Path, source: Source) -> None:
    if archive.is_archive(name):
        archive.unpack(path, folder, name, _limit(source), vouched=source.sha256 is not None)
    else:
        room.check(folder, path.stat().st_size, _limit(source), name)
        shutil.copyfile(path, folder / name)


def _copy(top: Path, folder: Path, source: Source) -> None:
    """The files below `top`, without their permissions (a read-only folder could not be replaced later)."""
    files = list(_files(top))
    room.check(folder, sum(path.stat().st_size for path in files), _limit(source), str(top))
    for path in files:
        target = folder / path.relative_to(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _files(top: Path) -> Iterator[Path]:
    """The files below a folder; raises InputError for what is neither a file nor a folder."""
    for path in sorted(top.iterdir()):
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; remove it, or mend the link") from None
        if stat.S_ISDIR(mode) and path.is_symlink():
            raise InputError(f"{path} is a link to a folder, which is not copied; put the folder itself there")
        if stat.S_ISDIR(mode):
            yield from _files(path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise InputError(f"{path} is {KINDS.get(stat.S_IFMT(mode), 'special')}, not a file or a folder; remove it")


def check_sha256(path: Path, expected: str | None, what: str) -> None:
    """Raises InputError with both digests when the file is not the expected one."""
    if expected is None:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected.lower():
        raise InputError(f"{what}: wrong sha256: expected {expected}, actual {actual}")


@contextlib.contextmanager
def _reserved(work: Path, key: str) -> Iterator[Path]:
    """A work folder of that key, for one process at a time; deleted when the block ends well, else kept."""
    place = work / hashlib.sha256(key.encode()).hexdigest()[:16]
    work.mkdir(parents=True, exist_ok=True)
    lock = Lock.of(place)
    if not lock.take():
        logger.info("waiting for another process that fetches the same")
        lock.take(wait=True)
    try:
        place.mkdir(exist_ok=True)
        yield place
        shutil.rmtree(place, ignore_errors=True)
    finally:
        lock.release()
