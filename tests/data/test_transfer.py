"""Sources over HTTP: a server of this machine that drops connections, changes its file, or plays the hub."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest

from alol.config import paths
from alol.config.sections import Source
from alol.data import download, transfer
from stages.download import main
from tests.closure import ROOT
from tests.raw_project import error_line, project, run

RAW = Path("data/raw/mine")
CONTENT = bytes(range(256)) * 12_000  # 3 MB: more than one chunk
HASH = hashlib.sha256(CONTENT).hexdigest()


def source(**keys) -> Source:
    rest = dict.fromkeys(("location", "revision", "sha256", "origin"))
    return Source(**{"kind": "path", "options": {}, "max_gib": 1.0, "tries": 20, **rest, **keys})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    return tmp_path


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; the first `drops` answers end half way, `ranges` are the Range headers it got."""

    def __init__(self, drops: int, tags: list[str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.drops, self.tags, self.ranges = drops, tags or ['"one"'], []
        self.stalls, self.released = 0, threading.Event()
        threading.Thread(target=functools.partial(self.serve_forever, 0.01), daemon=True).start()

    def url(self, name: str = "corpus.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/files/{name}?version=1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        if "missing" in self.path:
            self.send_error(404)
            return
        tag = server.tags[min(len(server.ranges), len(server.tags)) - 1]
        if tag not in (self.headers.get("If-Range"), ""):
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        body = CONTENT[start:]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.stalls:
            server.stalls -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            server.released.wait(30)
            return
        if server.drops:
            server.drops -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def serve(serving):
    return lambda *args, **keys: serving(Server(*args, **keys))


def fetched() -> bytes:
    return (RAW / "corpus" / "corpus.bin").read_bytes()


def test_a_broken_transfer_goes_on_with_a_range_request(serve, folder):
    server = serve(drops=2)
    project(folder, {"corpus": {"kind": "url", "location": server.url(), "sha256": HASH}}, {})
    result = run(main)
    assert result.exit_code == 0, result.output
    assert hashlib.sha256(fetched()).hexdigest() == HASH
    assert server.ranges == [None, "bytes=1536000-", "bytes=2304000-"]
    assert not list(paths.work("downloads").glob("*/data"))


@pytest.mark.parametrize("tag", ['"one"', ""])
def test_a_later_run_goes_on_where_the_first_broke_off(serve, monkeypatch, tag):
    server = serve(drops=1, tags=[tag])
    job = {"corpus": source(kind="url", location=server.url(), sha256=HASH)}
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_continue", once(transfer._continue))
        with pytest.raises(Stop):
            download.fetch("mine", job, RAW, paths.work("downloads"))
    assert not RAW.exists()
    assert list(RAW.parent.iterdir()) == []
    download.fetch("mine", job, RAW, paths.work("downloads"))
    assert fetched() == CONTENT
    assert server.ranges == [None, "bytes=1536000-"]


def test_a_killed_stage_goes_on_where_it_was(serve, folder):
    server = serve(drops=0)
    server.stalls = 1
    project(folder, {"corpus": {"kind": "url", "location": server.url(), "sha256": HASH}}, {})
    command = [sys.executable, "-m", "stages.download", "--task", "mine"]
    stage = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in paths.work("downloads").glob("*/data")):
        assert stage.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    stage.kill()
    stage.wait()
    server.released.set()
    assert not RAW.exists()
    assert run(main).exit_code == 0
    assert hashlib.sha256(fetched()).hexdigest() == HASH
    first, second = server.ranges
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= len(CONTENT) // 2


class Stop(Exception):
    """Stands for the end of a killed process."""


def once(function):
    def call(*args):
        try:
            function(*args)
        except (transfer._Broken, httpx2.TransportError):
            raise Stop from None

    return call


def test_a_file_that_changed_in_between_is_fetched_from_its_start(serve):
    server = serve(drops=1, tags=['"one"', '"two"'])
    download.fetch("mine", {"corpus": source(kind="url", location=server.url())}, RAW, paths.work("downloads"))
    assert fetched() == CONTENT
    assert server.ranges == [None, "bytes=1536000-"]


def test_a_transfer_that_never_ends_says_how_to_go_on(serve, folder, monkeypatch):
    monkeypatch.setattr(transfer, "FRUITLESS", 1)
    server = serve(drops=99)
    project(folder, {"corpus": {"kind": "url", "location": server.url(), "sha256": HASH}}, {})
    line = error_line(main)
    assert "broke off after" in line
    assert "run the stage again" in line
    assert not RAW.exists()


def test_an_unknown_page_and_a_silent_server_are_named(serve, folder):
    server = serve(drops=0)
    project(folder, {"corpus": {"kind": "url", "location": server.url("missing.zip")}}, {})
    assert "404" in error_line(main)
    project(folder, {"corpus": {"kind": "url", "location": "http://127.0.0.1:9/data.zip"}}, {})
    assert "http://127.0.0.1:9/data.zip: cannot be reached" in error_line(main)
    project(folder, {"corpus": {"kind": "url", "location": "ftp://127.0.0.1/data.zip"}}, {})
    assert "http" in error_line(main)
    assert not RAW.exists()


def test_a_wrong_sha256_shows_both_and_leaves_nothing(serve, folder):
    server = serve(drops=0)
    expected = "0" * 64
    project(folder, {"corpus": {"kind": "url", "location": server.url(), "sha256": expected}}, {})
    line = error_line(main)
    assert f"expected {expected}, actual {HASH}" in line
    assert "source.corpus" in line
    assert not RAW.exists()
    assert not list(paths.work("downloads").glob("*/data"))


COMMIT = "a" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one data set of two files, at one revision."""

    files: ClassVar = {"README.md": b"hello", "data/train.jsonl": b'{"q": 1}\n'}

    def do_GET(self) -> None:
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        tree = [{"type": "file", "path": path, "size": len(body), "oid": "b" * 40} for path, body in self.files.items()]
        listed = self.path.startswith(f"/api/datasets/owner/name/tree/{COMMIT}")
        body = json.dumps(tree).encode() if listed else self.files.get(name)
        self.send_response(404 if body is None else 200)
        self.send_header("ETag", f'"{hashlib.sha1(name.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET

    def log_message(self, *args) -> None:
        pass


def test_a_hub_data_set_comes_at_its_revision_without_the_clients_notes(serve, folder, monkeypatch):
    from huggingface_hub import constants

    server = serve(drops=0)
    server.RequestHandlerClass = Hub
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    keys = {"kind": "hub", "location": "owner/name", "revision": COMMIT}
    project(folder, {"corpus": keys}, {})
    result = run(main)
    assert result.exit_code == 0, result.output
    found = {str(path.relative_to(RAW / "corpus")): path.read_bytes() for path in RAW.rglob("*") if path.is_file()}
    assert found == Hub.files
    project(folder, {"corpus": {**keys, "revision": "other"}}, {})
    assert "cannot fetch data set owner/name at other" in run(main).stderr.splitlines()[-1]


def test_two_processes_share_a_transfer_one_after_the_other(serve, folder, caplog):
    caplog.set_level(logging.INFO)
    server = serve(drops=0)
    job = {"corpus": source(kind="url", location=server.url(), sha256=HASH)}
    with download._reserved(folder / "work", f"{server.url()} {HASH}"):
        other = threading.Thread(target=download.fetch, args=("mine", job, RAW, folder / "work"))
        other.start()
        while "waiting for another process" not in caplog.text:
            other.join(0.01)
        assert not RAW.exists()
    other.join(10)
    assert fetched() == CONTENT
