"""One file over HTTP, across broken connections and killed processes: each attempt asks for the missing bytes alone."""

from __future__ import annotations

import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alol.base.errors import InputError
from alol.base.files import write_json

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 5  # connections in a row that bring nothing
PAUSE = 1.0  # seconds before another connection, doubled after each that brings nothing
AGAIN = (408, 416, 429, 500, 502, 503, 504)  # HTTP states worth another attempt


class _Broken(Exception):
    """A transfer that ended too early; its bytes so far are kept."""


def transfer(url: str, path: Path, what: str) -> None:
    """Brings `path` to the whole of `url`, from where an earlier transfer to it ended.

    Beside it, `<path>.json` keeps the size and the validator (ETag or date) of what it is the beginning of: when the
    server's file has changed since, the transfer starts again. `what` names the file in messages.
    """
    reason, fruitless, size = "", 0, _size(path)
    while fruitless < ATTEMPTS:
        try:
            return _continue(url, path, what)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in AGAIN:
                raise InputError(f"{what}: the server says {error.code} {error.reason}") from None
            if error.code == 416:  # no such range: what is here is not a beginning of the server's file
                path.unlink(missing_ok=True)
            reason = f"the server says {error.code} {error.reason}"
        except urllib.error.URLError as error:
            if not _size(path):
                raise InputError(f"{what}: cannot be reached ({error.reason})") from None
            reason = str(error.reason)
        except (_Broken, http.client.HTTPException, OSError) as error:
            reason = str(error) or type(error).__name__
        fruitless = 0 if _size(path) > size else fruitless + 1
        size = _size(path)
        logger.debug("%s: %s", what, reason)
        if fruitless < ATTEMPTS:
            time.sleep(PAUSE * 2**fruitless)
    raise InputError(f"{what}: the transfer broke off after {size} bytes ({reason}); run the stage again to go on")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, path: Path, what: str) -> None:
    notes = path.with_suffix(".json")
    state: dict[str, Any] = json.loads(notes.read_text()) if notes.exists() and path.exists() else {}
    start = path.stat().st_size if state else 0
    if start and start == state["size"]:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "alol"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if state["validator"]:
            headers["If-Range"] = state["validator"]
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status == 206 and _range(response) != (start, state["size"]):
            path.unlink()
            raise _Broken("the server's file has changed")
        if response.status != 206:
            start, length = 0, response.headers.get("Content-Length")
            path.unlink(missing_ok=True)
            state = {"size": int(length) if length else None, "validator": _validator(response.headers)}
            write_json(notes, state)
        _receive(response, path, start, state["size"], what)


def _range(response: Any) -> tuple[int, int | None] | None:
    """First byte and whole size that a partial answer states."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return (int(match[1]), None if match[2] == "*" else int(match[2])) if match else None


def _validator(headers: Any) -> str | None:
    """What If-Range takes: a strong ETag, else the date."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _receive(response: Any, path: Path, start: int, size: int | None, what: str) -> None:
    got = start
    with (
        path.open("ab") as file,
        tqdm(desc="download", total=size, initial=start, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while chunk := response.read(CHUNK):
            try:
                file.write(chunk)
            except OSError as error:
                raise InputError(f"{what}: cannot write {path}: {error.strerror}") from None
            got += len(chunk)
            bar.update(len(chunk))
    if size is not None and got > size:
        path.unlink()
        raise _Broken(f"{got} bytes came where {size} were announced")
    if size is not None and got < size:
        raise _Broken(f"{got} of {size} bytes")
