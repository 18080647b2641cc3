"""One file over HTTP, across broken connections and killed processes: each attempt asks for the missing bytes alone.

Nothing that a server sends is taken on trust: connections, redirects and bytes are bounded, and parts are put together
only where their size and validators agree.
"""

from __future__ import annotations

import json
import logging
import re
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import httpx2
from tqdm import tqdm

from alol.base.errors import InputError, first_line
from alol.base.files import write_json
from alol.data import room

logger = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # below, it logs each URL with what may be secret in it

TIMEOUT = 60  # seconds without a byte
FRUITLESS = 5  # connections in a row that bring nothing
PAUSE = 1.0  # seconds before another connection, doubled after each that brings nothing
REDIRECTS = 10  # of one connection
AGAIN = (408, 416, 429, 500, 502, 503, 504)  # HTTP states worth another attempt


class _Broken(Exception):
    """A transfer that ended too early; its bytes so far are kept, where they are still there."""


class _Part(NamedTuple):
    """What a file is the beginning of: the whole size, and the server's names for this version of it."""

    size: int | None
    etag: str | None
    modified: str | None


def transfer(url: str, path: Path, what: str, *, limit: int, tries: int) -> None:
    """Brings `path` to the whole of `url`, from where an earlier transfer to it ended.

    Beside it, `<path>.json` keeps what it is the beginning of: when the server's file has changed since, the transfer
    starts again. `what` names the file in messages. At most `tries` connections are made, for at most `limit` bytes.
    """
    reason, fruitless, size = "", 0, _size(path)
    with _client(what) as client:
        for left in reversed(range(tries)):
            try:
                return _continue(client, url, path, what, limit)
            except (httpx2.InvalidURL, UnicodeError):  # what they say may hold the URL's secrets
                raise InputError(f"{what}: not a URL that can be fetched; check its host and port") from None
            except httpx2.ConnectError as error:
                if not _size(path):
                    raise InputError(f"{what}: cannot be reached ({first_line(error)})") from None
                reason = first_line(error)
            except (_Broken, httpx2.TransportError) as error:
                reason = first_line(error)
            fruitless = 0 if _size(path) > size else fruitless + 1
            size = _size(path)
            logger.debug("%s: %s", what, reason)
            if fruitless == FRUITLESS or not left:
                break
            time.sleep(PAUSE * 2**fruitless)
    raise InputError(f"{what}: the transfer broke off after {size} bytes ({reason}); run the stage again to go on")


def _client(what: str) -> httpx2.Client:
    try:
        return httpx2.Client(headers={"Accept-Encoding": "identity", "User-Agent": "alol"}, timeout=TIMEOUT)
    except (ValueError, ImportError, httpx2.InvalidURL):  # a proxy of a kind, or with an address, that is none
        raise InputError(
            f"{what}: the proxy that the environment names (http_proxy, all_proxy) cannot be used"
        ) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(client: httpx2.Client, url: str, path: Path, what: str, limit: int) -> None:
    notes = path.with_suffix(".json")
    part = _noted(notes) if path.exists() else None
    start = _size(path) if part else 0
    if part and start and start == part.size:
        return
    headers = {}
    if part and start:
        headers["Range"] = f"bytes={start}-"
        strong = part.etag if part.etag and not part.etag.startswith("W/") else part.modified
        if strong:
            headers["If-Range"] = strong
    response = _open(client, client.build_request("GET", url, headers=headers), what)
    try:
        if response.status_code == 416:  # no such range: what is here is not a beginning of the server's file
            path.unlink(missing_ok=True)
        if response.status_code in AGAIN:
            raise _Broken(f"the server says {_status(response)}")
        if response.status_code not in (200, 206):
            raise InputError(f"{what}: the server says {_status(response)}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            raise InputError(
                f"{what}: the server sends it packed as {encoding!r:.40}, which was not asked for; fetch it by hand"
            )
        if response.status_code == 206:
            if part is None or not start or not _same(response, start, part):
                path.unlink(missing_ok=True)
                raise _Broken("the server's file has changed, or it sent another part than it was asked for")
        else:
            start, part = 0, _part(response)
            path.unlink(missing_ok=True)
            write_json(notes, part._asdict())
        _receive(response, path, start, part.size, what, limit)
    finally:
        response.close()


def _open(client: httpx2.Client, request: httpx2.Request, what: str) -> httpx2.Response:
    """The answer behind the redirects, of which none leaves http(s); the bodies of redirects are not read."""
    for _ in range(REDIRECTS + 1):
        response = client.send(request, stream=True)
        if not response.has_redirect_location:
            return response
        response.close()
        if response.next_request is None:
            raise InputError(f"{what}: the server redirects to what is no URL")
        request = response.next_request
        if request.url.scheme not in ("http", "https"):
            raise InputError(f"{what}: the server redirects to a URL of {request.url.scheme}, which is not followed")
    raise InputError(f"{what}: the server redirects more than {REDIRECTS} times")


def _status(response: httpx2.Response) -> str:
    """The state in the standard's words, not in the server's."""
    code = response.status_code
    return f"{code} {HTTPStatus(code).phrase}" if code in list(HTTPStatus) else str(code)


def _noted(notes: Path) -> _Part | None:
    try:
        return _Part(**json.loads(notes.read_text()))
    except (OSError, ValueError, TypeError):  # not there, or of another version: the transfer starts again
        return None


def _part(response: httpx2.Response) -> _Part:
    length = response.headers.get("Content-Length")  # digits alone, or the client would have refused it
    return _Part(int(length) if length else None, response.headers.get("ETag"), response.headers.get("Last-Modified"))


def _same(response: httpx2.Response, start: int, part: _Part) -> bool:
    """Whether a partial answer goes on with the very file that the first part is of."""
    match = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if match is None or int(match[1]) != start or int(match[2]) < start:
        return False
    size = None if match[3] == "*" else int(match[3])
    modified = response.headers.get("Last-Modified", part.modified)  # the standard wants the ETag again, not the date
    if size is not None and int(match[2]) >= size:
        return False
    return (size, response.headers.get("ETag"), modified) == (part.size, part.etag, part.modified)


def _receive(response: httpx2.Response, path: Path, start: int, size: int | None, what: str, limit: int) -> None:
    room.check(path.parent, max(0, (size or 0) - start), limit, what, there=start)
    got = start
    with (
        path.open("ab") as file,
        tqdm(desc="download", total=size, initial=start, unit="B", unit_scale=True, disable=None) as bar,
    ):
        for chunk in response.iter_raw():
            if size is not None and got + len(chunk) > size:
                path.unlink()
                raise _Broken(f"more bytes came than the {size} that were announced")
            try:
                room.check(path.parent, len(chunk), limit, what, there=got)
                file.write(chunk)
            except InputError:
                path.unlink()  # it would grow without end
                raise
            except OSError as error:
                raise InputError(f"{what}: cannot write {path}: {error.strerror}") from None
            got += len(chunk)
            bar.update(len(chunk))
    if size is not None and got < size:
        raise _Broken(f"{got} of {size} bytes")
    if not got:
        raise InputError(f"{what}: the server sent an empty file")
