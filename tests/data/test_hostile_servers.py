"""Servers that answer wrongly, without end, or with another file: a bounded number of requests, then one line."""

from __future__ import annotations

import gzip
import logging
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alol.base.errors import InputError, ParameterError
from alol.config import paths
from alol.config.sections import Source
from alol.data import download, room, transfer

RAW = Path("data/raw/mine")
BODY = bytes(range(256)) * 2000
HALF = len(BODY) // 2
SECRET = "s3cret"
Answer = Callable[[int, int], bytes | Iterator[bytes]]  # the request's number, from 0, and the byte it asks for


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    return tmp_path


class Server(socketserver.ThreadingTCPServer):
    """Says what `answer` gives, byte for byte, then closes the connection."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests = answer, []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/corpus.bin"


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n") and (line := self.rfile.readline()):
            head += line
        self.server.requests.append(head.decode())
        asked = re.search(rb"Range: bytes=(\d+)-", head)
        answer = self.server.answer(len(self.server.requests) - 1, int(asked[1]) if asked else 0)
        try:
            for part in [answer] if isinstance(answer, bytes) else answer:
                self.wfile.write(part)
        except OSError:
            pass  # the client has had enough


def whole(body: bytes = BODY, *headers: str, size: object = None) -> bytes:
    return message("200 OK", body, f"Content-Length: {len(body) if size is None else size}", *headers)


def part(start: int, *headers: str, body: bytes = BODY, stop: int | None = None) -> bytes:
    rest = body[start:stop]
    said = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
    return message("206 Partial Content", rest, f"Content-Length: {len(body) - start}", said, *headers)


def message(status: str, body: bytes = b"", *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return message(status, b"", f"Location: {location}", "Content-Length: 0")


def cut(answer: bytes, count: int = HALF) -> bytes:
    return answer[:-count]


def fetch(url: str, **keys) -> bytes:
    given = {
        "location": url,
        "revision": None,
        "sha256": None,
        "origin": None,
        "options": {},
        "max_gib": 1.0,
        "tries": 12,
    }
    download.fetch("mine", {"corpus": Source(kind="url", **{**given, **keys})}, RAW, paths.work("downloads"))
    return next((RAW / "corpus").iterdir()).read_bytes()


def refused(server: Server, expected: str, **keys) -> str:
    with pytest.raises(InputError, match=expected) as caught:
        fetch(keys.pop("url", server.url), **keys)
    assert str(caught.value).isprintable()
    assert not RAW.exists()
    return str(caught.value)


@pytest.fixture
def serve(serving):
    return lambda answer: serving(Server(answer))


GIVES_UP = {
    "wrong range": lambda i, start: part(start + 1) if start else cut(whole()),
    "range from 0": lambda i, start: part(0) if start else cut(whole()),
    "no Content-Range": lambda i, start: message("206 Partial Content", BODY[start:]) if start else cut(whole()),
    "bad Content-Range": lambda i, start: (
        message("206 Partial Content", b"x", "Content-Range: bytes 1-x/y") if start else cut(whole())
    ),
    "negative Content-Range": lambda i, start: (
        message("206 Partial Content", b"x", f"Content-Range: bytes {start}--1/{len(BODY)}") if start else cut(whole())
    ),
    "range beyond the end": lambda i, start: (
        message("206 Partial Content", b"x", f"Content-Range: bytes {start}-{len(BODY)}/{len(BODY)}")
        if start
        else cut(whole())
    ),
    "another size": lambda i, start: part(start, body=BODY + b"x") if start else cut(whole()),
    "more than announced": lambda i, start: (
        part(start).replace(b"Content-Length", b"X-Length") + b"more" if start else cut(whole())
    ),
    "breaks off alternately": lambda i, start: cut(whole(), HALF + 1000 * (i % 2)),
    "unasked part": lambda i, start: part(0),
    "416 and halves": lambda i, start: (
        message("416 Range Not Satisfiable", b"", "Content-Length: 0") if start else cut(whole())
    ),
    "503": lambda i, start: message("503 Service Unavailable", b"", "Content-Length: 0"),
    "bad Content-Length": lambda i, start: whole(size="12x"),
    "negative Content-Length": lambda i, start: whole(size="-1"),
    "two Content-Lengths": lambda i, start: whole(BODY, "Content-Length: 5"),
    "a Content-Length of 30 digits": lambda i, start: whole(size="9" * 30),
    "bad chunks": lambda i, start: message("200 OK", b"zz\r\nabc\r\n", "Transfer-Encoding: chunked"),
    "chunks cut off": lambda i, start: message("200 OK", b"5\r\nabc", "Transfer-Encoding: chunked"),
    "headers too long": lambda i, start: message("200 OK", b"", "X: " + "y" * 2_000_000),
    "not HTTP": lambda i, start: b"SSH-2.0-OpenSSH\r\n",
    "nothing": lambda i, start: b"",
}


@pytest.mark.parametrize("name", GIVES_UP)
def test_a_server_is_asked_a_bounded_number_of_times(serve, name):
    server = serve(GIVES_UP[name])
    line = refused(server, r"source\.corpus: http://127.*corpus\.bin: the transfer broke off after \d+ bytes \(.+\)")
    assert line.endswith("run the stage again to go on")
    assert 1 <= len(server.requests) <= 12


def test_the_number_of_tries_is_the_parameter(serve):
    server = serve(GIVES_UP["breaks off alternately"])
    refused(server, "broke off", tries=3)
    assert len(server.requests) == 3


REFUSED = {
    "204": (lambda i, start: message("204 No Content"), "the server says 204 No Content"),
    "empty": (lambda i, start: whole(b""), "the server sent an empty file"),
    "404": (lambda i, start: message("404 \x1b[31mgone", b"", "Content-Length: 0"), "the server says 404 Not Found"),
    "300 without a place": (lambda i, start: message("300 x", b"", "Content-Length: 0"), "the server says 300"),
    "code 799": (lambda i, start: message("799 x", b"", "Content-Length: 0"), "the server says 799"),
    "gzip": (
        lambda i, start: whole(gzip.compress(BODY), "Content-Encoding: gzip"),
        "packed as 'gzip', which was not asked for",
    ),
    "ftp": (lambda i, start: redirect("ftp://127.0.0.1/x"), "redirects to a URL of ftp, which is not followed"),
    "file": (lambda i, start: redirect("file:///etc/passwd"), "redirects to a URL of file, which is not followed"),
    "mail": (lambda i, start: redirect("mailto:a@b"), "redirects to (a URL of mailto|what is no URL)"),
    "loop": (lambda i, start: redirect("/corpus.bin"), "redirects more than 10 times"),
    "nowhere": (lambda i, start: redirect("http://[::1/"), "redirects to what is no URL"),
    "bad port": (
        lambda i, start: redirect("http://127.0.0.1:99999/"),
        "redirects|cannot be reached|not a URL|broke off",
    ),
    "refused port": (lambda i, start: redirect("http://127.0.0.1:9/"), "cannot be reached"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_other_try_would_mend_is_refused_at_once(serve, name):
    answer, expected = REFUSED[name]
    server = serve(answer)
    refused(server, expected)
    assert len(server.requests) == (11 if name == "loop" else 1) or name == "bad port"


def test_a_part_of_another_version_is_not_put_behind_the_first(serve):
    def answer(i: int, start: int) -> bytes:
        tag = f'ETag: "{min(i, 1)}"'
        if i < 2:
            return part(start, tag, body=BODY[::-1]) if start else cut(whole(BODY, tag))
        return whole(BODY[::-1], tag)

    server = serve(answer)
    assert fetch(server.url) == BODY[::-1]
    assert len(server.requests) == 3
    assert 'If-Range: "0"' in server.requests[1]
    assert "Range:" not in server.requests[2]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT"], ["Last-Modified: Tue, 02 Jan 2024 00:00:00 GMT"]),
        (['ETag: W/"1"'], ['ETag: W/"2"']),
        (['ETag: "1"'], []),
        ([], ['ETag: "1"']),
    ],
)
def test_other_validators_start_the_transfer_again(serve, first, second):
    server = serve(
        lambda i, start: (
            part(start, *second) if start else cut(whole(BODY, *first), HALF if i == 0 else 0) if i == 0 else whole()
        )
    )
    assert fetch(server.url) == BODY
    assert len(server.requests) == 3


def test_a_body_without_end_is_bounded_and_not_kept(serve, folder):
    def endless(i: int, start: int) -> Iterator[bytes]:
        yield message("200 OK")
        while True:
            yield b"x" * 65536

    server = serve(endless)
    refused(server, "more than 1,048,576 bytes, which is what max_gib", max_gib=2**-10)
    assert not list(paths.work("downloads").glob("*/data"))


def test_a_redirects_body_without_end_is_not_read(serve):
    def endless(i: int, start: int) -> bytes | Iterator[bytes]:
        return whole() if i else (redirect("/corpus.bin").replace(b"Content-Length: 0", b"X: y") for _ in range(10**9))

    assert fetch(serve(endless).url) == BODY


def test_an_announced_size_is_bounded_beforehand(serve, monkeypatch):
    server = serve(lambda i, start: whole(size=2 << 40))
    refused(server, "more than 1,073,741,824 bytes, which is what max_gib")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    refused(serve(lambda i, start: whole()), f"needs {len(BODY):,} bytes in .*, where 1,000 are free")


def test_redirects_are_followed_and_chunks_put_together(serve):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (BODY[:HALF], BODY[HALF:])) + b"0\r\n\r\n"
    answers = [redirect("/other"), message("200 OK", chunks, "Transfer-Encoding: chunked")]
    server = serve(lambda i, start: answers[i])
    assert fetch(server.url) == BODY
    assert server.requests[1].startswith("GET /other ")


def test_notes_of_another_version_start_the_transfer_again(serve):
    server = serve(lambda i, start: cut(whole()) if i == 0 else whole())
    refused(server, "broke off", tries=1)
    (notes,) = paths.work("downloads").glob("*/data.json")
    for text in ("", "[]", '{"size": 3, "validator": null}'):
        notes.write_text(text)
    assert fetch(server.url) == BODY


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:port/x",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:-1/x",
        "http://[::1/x",
        "http://[]/x",
        "http:///x",
        "http://:80/x",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/a\nb",
        "http://127.0.0.1/a\x00b",
        " http://127.0.0.1/",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "//127.0.0.1/x",
        "127.0.0.1/x",
    ],
)
def test_a_bad_url_is_a_wrong_parameter(url):
    with pytest.raises(
        ParameterError, match=r"^source\.corpus\.location is .* but must be an http:// or https:// URL$"
    ):
        fetch(url)


@pytest.mark.parametrize("url", ["http://a..b/x", "http://xn--/x", f"http://{'a' * 70}.org/x", "http://\u2488.com/x"])
def test_a_host_that_cannot_be_is_one_line(url):
    with pytest.raises(InputError, match=r"^source\.corpus: .*(not a URL that can be fetched|cannot be reached)"):
        fetch(url)


@pytest.mark.parametrize(
    "proxy", [f"gopher://u:{SECRET}@127.0.0.1:9", f"http://u:{SECRET}@127.0.0.1:x", f"socks5://{SECRET}@a:9"]
)
def test_a_bad_proxy_is_one_line(monkeypatch, proxy):
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(
        InputError, match=r"^source\.corpus: http://example\.org/x: the proxy that the environment"
    ) as caught:
        fetch("http://example.org/x")
    assert SECRET not in str(caught.value)


def test_user_password_and_query_of_a_url_are_in_no_message(serve, caplog):
    caplog.set_level(logging.INFO)
    good = serve(lambda i, start: whole())
    secret = good.url.replace("http://", f"http://user:{SECRET}@") + f"?token={SECRET}#{SECRET}"
    assert fetch(secret) == BODY
    assert "Authorization: Basic" in good.requests[0]
    RAW.joinpath("corpus", "corpus.bin").unlink()
    RAW.joinpath("corpus").rmdir()
    RAW.rmdir()
    lines = [
        refused(serve(answer), ".", url=secret.replace(good.url[7:], bad.url[7:]))
        for answer in (REFUSED["404"][0], REFUSED["loop"][0], REFUSED["gzip"][0], GIVES_UP["nothing"])
        for bad in [serve(answer)]
    ]
    lines.append(refused(good, "sha256", url=secret, sha256="0" * 64))
    for broken in (
        f"http://u:{SECRET}@127.0.0.1:port/",
        f"http://u:a?{SECRET}@127.0.0.1:x/",
        f"ftp://{SECRET}@a/?{SECRET}",
    ):
        lines.append(refused(good, "must be an http", url=broken))
    leaving = serve(lambda i, start: redirect(f"ftp://{SECRET}@127.0.0.1/?{SECRET}"))
    lines.append(refused(leaving, "a URL of ftp"))
    assert SECRET not in "\n".join(lines) + caplog.text
    assert "127.0.0.1" in caplog.text
