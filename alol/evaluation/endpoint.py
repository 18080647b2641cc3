"""Questions to a chat model behind an OpenAI-compatible endpoint: answers are kept on disk, failures are tried again.

One file per answer, named by the hash of what was asked, so that a run that was ended goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import requests
from requests.auth import AuthBase
from tqdm import tqdm

from alol.base.errors import InputError, ParameterError
from alol.base.files import read_json, write_json
from alol.config.build import build
from alol.config.sections import Judge

LONGEST = 1 << 20  # bytes of one answer; more is not an answer
TRANSIENT = (408, 409, 429)  # beside 5xx: worth another try
URL_ERRORS = (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema)


def settings(table: Any) -> Judge:
    """The `judge` section of params.yaml; raises InputError naming the key that is wrong."""
    try:
        found = build(Judge, table, "judge")
        if not found.url.startswith(("http://", "https://")):
            raise ParameterError("judge.url", f"is '{found.url}', but must begin with http:// or https://")
        return found
    except ParameterError as error:
        raise InputError(f"params.yaml: {error}") from None


class Retry(Exception):
    """A failure that may pass; `after` is the wait in seconds that the server asked for, if it did."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _Bearer(AuthBase):
    """The key as a header; being given, it also keeps requests from reading credentials of ~/.netrc."""

    def __init__(self, key: str | None) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


class Endpoint:
    """Asks the endpoint; `sleep` waits between tries, by default for no longer than the run goes on.

    Raises InputError when the key is needed and missing, and where the endpoint refuses what it is asked.
    """

    def __init__(self, settings: Judge, folder: Path, sleep: Callable[[float], Any] | None = None) -> None:
        self.settings, self.folder = settings, folder
        self._stop = threading.Event()
        self.sleep = sleep or self._stop.wait
        key = os.environ.get(settings.key) if settings.key is not None else None
        if settings.key is not None and not key:
            raise InputError(
                f"the environment variable {settings.key} is not set: it holds the key of {settings.url} "
                "(params.yaml: judge.key names it; null for an endpoint without one)"
            )
        if key and not (key.isascii() and key.isprintable()):  # never shown, whatever is wrong with it
            raise InputError(f"the environment variable {settings.key} holds characters that no key has; set it again")
        self.auth = _Bearer(key)
        self.last_error = ""
        self._in_a_row = 0  # questions without an answer since the last one with an answer
        self._lock = threading.Lock()

    def answers(self, questions: Iterable[str]) -> dict[str, str | None]:
        """The answer to each question, None where every try failed; at most `requests` are asked at once.

        After `give_up` questions in a row without an answer the others are not asked.
        """
        found: dict[str, str | None] = {question: self.stored(question) for question in questions}
        open_ = [question for question, answer in found.items() if answer is None]
        self._in_a_row = 0
        self._stop.clear()
        pool = ThreadPoolExecutor(self.settings.requests)
        try:
            waiting = {pool.submit(self._one, question): question for question in open_}
            for done in tqdm(as_completed(waiting), desc="judge", total=len(open_), unit="question", disable=None):
                found[waiting[done]] = done.result()
        finally:
            self._stop.set()  # what is still being tried is not tried again
            pool.shutdown(wait=True, cancel_futures=True)
        return found

    def _one(self, question: str) -> str | None:
        """Asks, stores and counts; None when the tries are used up or the run has stopped."""
        try:
            answer = self._tried(question)
        except InputError:
            self._stop.set()  # what waits would be refused as well
            raise
        if answer is not None:
            write_json(self._path(question), {"question": question, "answer": answer})
        with self._lock:
            self._in_a_row = 0 if answer is not None else self._in_a_row + 1
            if self._in_a_row >= self.settings.give_up:
                self._stop.set()
        return answer

    def _tried(self, question: str) -> str | None:
        for attempt in range(self.settings.retries + 1):
            if self._stop.is_set():
                break
            try:
                return self._ask(question)
            except Retry as error:
                self.last_error = str(error)
                pause = self.settings.wait * 2**attempt if error.after is None else error.after
                if attempt < self.settings.retries:
                    self.sleep(min(pause, self.settings.longest_wait))
        return None

    def _body(self, question: str) -> dict[str, Any]:
        s = self.settings
        messages = [{"role": "user", "content": question}]
        return {"model": s.model, "messages": messages, "max_tokens": s.max_tokens, "temperature": s.temperature}

    def _path(self, question: str) -> Path:
        asked = json.dumps([self.settings.url, self._body(question)], sort_keys=True)
        return self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"

    def stored(self, question: str) -> str | None:
        """The answer of an earlier run; None without one, or where its file is damaged."""
        try:
            answer = read_json(self._path(question))["answer"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def _ask(self, question: str) -> str:
        url = self.settings.url.rstrip("/") + "/chat/completions"
        deadline = time.monotonic() + self.settings.timeout
        try:
            with requests.post(
                url, json=self._body(question), auth=self.auth, timeout=self.settings.timeout, stream=True
            ) as response:
                text = _read(response, deadline)
        except URL_ERRORS:
            raise InputError(f"params.yaml: judge.url is '{self.settings.url}', which is not a URL") from None
        except requests.exceptions.RequestException as error:
            raise Retry(f"{type(error).__name__} at {url}") from None
        _refuse(response, text, url)
        return _content(text, url)


def _read(response: requests.Response, deadline: float) -> str:
    """The body; Retry when it takes until `deadline`, however the server spreads its bytes, or does not end."""
    body = bytearray()
    for piece in response.iter_content(1):  # one byte: a larger piece would wait for a server that drips
        body += piece
        if time.monotonic() > deadline:
            raise Retry("the answer took longer than judge.timeout")
        if len(body) > LONGEST:
            raise Retry(f"the answer is longer than {LONGEST} bytes")
    return body.decode("utf-8", errors="replace")


def _refuse(response: requests.Response, text: str, url: str) -> None:
    """Retry for a status that may pass, InputError for one that will not."""
    status = response.status_code
    if status in TRANSIENT or status >= 500:
        after = response.headers.get("Retry-After", "")
        raise Retry(f"status {status} of {url}", float(after) if after.isdecimal() else None)
    if status != 200:
        said = " ".join(text.split())[:200]
        raise InputError(f"{url} answers with status {status} ({said}); check judge.url, judge.model and judge.key")


def _content(text: str, url: str) -> str:
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        content = None
    if not isinstance(content, str):
        raise Retry(f"{url} does not answer as a chat completion")
    return content
