"""The judge's answers on disk: damaged ones are asked again, and several runs on one folder ask each question once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from alol.evaluation.answers import Answers
from alol.evaluation.endpoint import Endpoint
from tests.evaluation.judge_server import Server, settings

QUESTIONS = [f"question {i}" for i in range(12)]
RUN = """
import sys
from pathlib import Path
from alol.evaluation.endpoint import Endpoint
from tests.evaluation.judge_server import settings
questions = [f"question {i}" for i in range(12)]
found = Endpoint(settings(sys.argv[1], timeout=20.0, wait=0.0), Path(sys.argv[2])).answers(questions)
print(sorted(found.values(), key=str))
"""


@pytest.fixture
def serve(serving):
    return lambda *args, **keys: serving(Server(*args, **keys))


def judge(server: Server, folder, **changed) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, server.url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


DAMAGES = {
    "empty": b"",
    "no key": b"{}",
    "cut": b'{"answer": "fi',
    "a list": b"[]",
    "null": b"null",
    "no text": b'{"question": "q", "answer": 3}',
    "no answer": b'{"question": "q", "answer": null}',
    "no UTF-8": b'{"question": "q", "answer": "\xff"}',
    "half a character": b'{"question": "q", "answer": "\\ud800"}',
    "another question": b'{"question": "r", "answer": "other"}',
    "no question": b'{"answer": "other"}',
    "deep": b"[" * 100_000,
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_answer_is_asked_again(tmp_path, serve, name):
    server = serve(rule=lambda question: "fine")
    endpoint = Endpoint(settings(server.url), tmp_path)
    endpoint.answers(["q"])
    (path,) = tmp_path.glob("*.json")
    good = path.read_bytes()
    path.write_bytes(DAMAGES[name])
    assert endpoint.answers(["q"]) == {"q": "fine"}
    assert server.asked == 2 and path.read_bytes() == good


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_what_is_no_file_is_replaced(tmp_path, serve, kind):
    server = serve(rule=lambda question: "fine")
    endpoint = Endpoint(settings(server.url), tmp_path)
    path = endpoint.cache._path("q")
    {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("nowhere")}[kind]()
    assert endpoint.answers(["q"]) == {"q": "fine"}
    assert json.loads(path.read_text()) == {"question": "q", "answer": "fine"}


def test_other_settings_are_other_questions(tmp_path, serve):
    server = serve(rule=lambda question: "fine")
    for changed in ({}, {"model": "other"}, {"temperature": None}, {"length_key": "max_tokens"}, {"max_tokens": 9}):
        Endpoint(settings(server.url, **changed), tmp_path).answers(["q"])
        Endpoint(settings(server.url, timeout=9.0, retries=1, **changed), tmp_path).answers(["q"])
    assert server.asked == 5


def test_two_runs_at_once_ask_each_question_once(tmp_path, serve):
    server = serve(rule=lambda question: f"to {question}", pause=0.1)
    runs = [judge(server, tmp_path) for _ in range(2)]
    expected = str(sorted(f"to {question}" for question in QUESTIONS))
    for run in runs:
        out, error = run.communicate(timeout=30)
        assert (run.returncode, out.strip()) == (0, expected), error
    assert server.asked == len(QUESTIONS)
    assert not list(tmp_path.glob("*.lock"))


def test_the_questions_of_a_killed_run_are_taken_over(tmp_path, serve):
    server = serve(rule=lambda question: "fine", pause=0.3)
    killed, other = judge(server, tmp_path), None
    try:
        wait_for(lambda: server.now == 3)  # all that it asks at once
        assert len(list(tmp_path.glob("*.lock"))) == 3
        other = judge(server, tmp_path)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        out, error = other.communicate(timeout=30)
    finally:
        killed.kill()
    assert (other.returncode, out.strip()) == (0, str(["fine"] * 12)), error
    assert len(QUESTIONS) <= server.asked <= len(QUESTIONS) + 3
    assert not list(tmp_path.glob("*.lock")) and len(list(tmp_path.glob("*.json"))) == 12


def test_an_interrupted_run_leaves_no_claim(tmp_path, serve):
    server = serve(rule=lambda question: "fine", pause=5.0)
    run = judge(server, tmp_path)
    wait_for(lambda: server.now == 3)
    run.send_signal(signal.SIGINT)
    start = time.monotonic()
    run.communicate(timeout=30)
    assert time.monotonic() - start < 4  # it does not wait for the answers
    assert not list(tmp_path.glob("*.lock"))


def test_a_claim_left_by_a_dead_run_is_swept(tmp_path, serve):
    (tmp_path / "0.lock").touch()
    Endpoint(settings(serve().url), tmp_path).answers([])
    assert not list(tmp_path.iterdir())


def test_a_claim_is_one_runs_and_ends_with_its_block(tmp_path):
    first, second = (Answers(tmp_path, lambda question: question) for _ in range(2))
    with first.claim("q") as mine, second.claim("q") as theirs, second.claim("r") as other:
        assert (mine, theirs, other) == (True, False, True)
        second.sweep()
        assert len(list(tmp_path.glob("*.lock"))) == 2
    with second.claim("q") as theirs:
        assert theirs
    assert not list(tmp_path.iterdir())
