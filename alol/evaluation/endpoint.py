"""Questions to a chat model behind an OpenAI-compatible endpoint: failures are tried again, answers kept on disk.

Each answer has a deadline, and redirects are not followed, so that the key goes to no other address.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
from tqdm import tqdm

from alol.base.errors import InputError, ParameterError
from alol.config.build import build
from alol.config.sections import Judge
from alol.evaluation import replies
from alol.evaluation.answers import Answers

POLL = 0.1  # seconds between looks at a question that another run is asking
PLACEHOLDER = 5  # a key up to this long is none ("EMPTY"), and hiding it in answers would spoil them
TRANSIENT = (408, 409, 425, 429)  # beside 5xx: worth another try
NO_KEY = (401, 403)
LENGTH_KEYS = ("max_tokens", "max_completion_tokens")
OF_ONE_QUESTION = ("content_filter", "content_policy_violation", "context_length_exceeded", "invalid_prompt")
ENVIRONMENT = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR"

_REFUSED_KEY = re.compile(r"\b(max_tokens|max_completion_tokens|temperature)\b")
_TOO_LONG = re.compile(r"context (length|window)|prompt is too long", re.I)
_NO_MODEL = re.compile(
    r"\bmodel\b.*\b(not found|not exist|not available|deprecated)\b|\b(invalid|unknown) model\b", re.I
)


def settings(table: Any) -> Judge:
    """The `judge` section of params.yaml; raises InputError naming the key that is wrong."""
    try:
        found = build(Judge, table, "judge")
        if found.key is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", found.key):  # not shown: it may be the key
            raise ParameterError("judge.key", "must be the name of an environment variable, in capitals, not the key")
        _address(found.url)
        return found
    except ParameterError as error:
        raise InputError(f"params.yaml: {error}") from None


def _address(url: str) -> httpx2.URL:
    """Where questions are sent; a URL with a password in it is refused and not shown."""
    try:
        found = httpx2.URL(url)
        found.host.encode("idna")  # as the system's resolver does
        valid = re.fullmatch(rb"[\w.:-]+", found.raw_host) and (found.port or 0) < 65536 and not found.userinfo
    except (httpx2.InvalidURL, ValueError):
        valid = None
    if not valid and "@" in url:
        raise ParameterError("judge.url", "must hold no user or password; judge.key names the variable with the key")
    if not url.startswith(("http://", "https://")):
        raise ParameterError("judge.url", f"is {url!r:.100}, but must begin with http:// or https://")
    if not valid:
        raise ParameterError("judge.url", f"is {url!r:.100}, which is not a URL")
    return found.copy_with(path=found.path.rstrip("/") + "/chat/completions", fragment=None)


def _key(settings: Judge) -> str | None:
    """The key, from the environment; never shown, whatever is wrong with it."""
    key = os.environ.get(settings.key) if settings.key is not None else None
    if settings.key is not None and not key:
        raise InputError(
            f"the environment variable {settings.key} is not set: it holds the key of judge.url "
            "(params.yaml: judge.key names it; null for an endpoint without one)"
        )
    if key and not re.fullmatch(r"[!-~]+", key):
        raise InputError(
            f"the environment variable {settings.key} holds characters that no key has, such as a space or a line "
            "break; set it again"
        )
    return key


class Failed(Exception):
    """A try without an answer; `after` is the wait that the server asked for, `again` whether another may do better."""

    def __init__(self, reason: str, after: float | None = None, again: bool = True) -> None:
        super().__init__(reason)
        self.after, self.again = after, again


class _GaveUp(Exception):
    """Too many questions in a row had no answer."""


class Endpoint:
    """Asks the endpoint; `sleep` waits between tries.

    Raises InputError when the key is needed and missing, and where the endpoint refuses what it is asked.
    """

    def __init__(self, settings: Judge, folder: Path, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep) -> None:
        self.settings, self.sleep = settings, sleep
        self.url, self.key = _address(settings.url), _key(settings)
        self.shown = replies.hidden(str(self.url.copy_with(query=None)), self.key)  # gateways take keys in the query
        self.cache = Answers(folder, lambda question: [settings.url, self._body(question)])
        self.last_error = ""
        self._in_a_row = 0  # questions without an answer since the last one with an answer
        self._stopped = False

    def answers(self, questions: Iterable[str]) -> dict[str, str | None]:
        """The answer to each question, None where every try failed; at most `requests` are asked at once.

        After `give_up` questions in a row without an answer the others are not asked.
        """
        self.cache.sweep()
        found = {question: self.cache.get(question) for question in questions}
        self._in_a_row, self._stopped = 0, False
        if None in found.values():
            asyncio.run(self._all(found))
        return found

    async def _all(self, found: dict[str, str | None]) -> None:
        """Fills in the answers that are missing."""
        missing = [question for question, answer in found.items() if answer is None]
        slots = asyncio.Semaphore(self.settings.requests)
        async with self._client() as client:
            with tqdm(desc="judge", total=len(missing), unit="question", disable=None) as bar:

                async def one(question: str) -> None:
                    found[question] = await self._one(client, slots, question)
                    bar.update()

                tasks = [asyncio.create_task(one(question)) for question in missing]
                try:
                    await asyncio.gather(*tasks)
                except _GaveUp:
                    pass
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    def _client(self) -> httpx2.AsyncClient:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        count = self.settings.requests
        limits = httpx2.Limits(max_connections=count, max_keepalive_connections=count)
        try:
            return httpx2.AsyncClient(headers=headers, timeout=None, limits=limits, follow_redirects=False)
        except (OSError, ValueError, ImportError, httpx2.InvalidURL):  # they may hold a proxy's password: not shown
            raise InputError(
                "the environment's proxies or certificates cannot be used; correct or unset what is set of "
                f"{ENVIRONMENT}"
            ) from None

    async def _one(self, client: httpx2.AsyncClient, slots: asyncio.Semaphore, question: str) -> str | None:
        """The answer of another run that asks the same, or else asked, stored and counted here."""
        while True:
            async with slots:
                if self._stopped:
                    return None
                with self.cache.claim(question) as mine:
                    if (answer := self.cache.get(question)) is not None:
                        return answer
                    if mine:
                        return await self._asked(client, question)
            await asyncio.sleep(POLL)

    async def _asked(self, client: httpx2.AsyncClient, question: str) -> str | None:
        try:
            answer = await self._tried(client, question)
        except InputError:
            self._stopped = True  # what waits would be refused as well
            raise
        if answer is not None:
            self.cache.put(question, answer)
        self._in_a_row = 0 if answer is not None else self._in_a_row + 1
        if self._in_a_row >= self.settings.give_up:
            self._stopped = True
            raise _GaveUp
        return answer

    async def _tried(self, client: httpx2.AsyncClient, question: str) -> str | None:
        s = self.settings
        for attempt in range(s.retries + 1):
            try:
                return await self._ask(client, question)
            except Failed as error:
                self.last_error = str(error)
                if not error.again:
                    break
                pause = s.wait * 2**attempt if error.after is None else error.after
                if attempt < s.retries:
                    await self.sleep(min(pause, s.longest_wait))
        return None

    def _body(self, question: str) -> dict[str, Any]:
        s = self.settings
        optional = {s.length_key: s.max_tokens, "temperature": s.temperature}
        messages = [{"role": "user", "content": question}]
        return {"model": s.model, "messages": messages} | {k: v for k, v in optional.items() if v is not None}

    async def _ask(self, client: httpx2.AsyncClient, question: str) -> str:
        timeout, body = self.settings.timeout, json.dumps(self._body(question))
        try:
            async with asyncio.timeout(timeout), client.stream("POST", self.url, content=body) as response:
                answer = await replies.read(response)
        except TimeoutError:
            raise Failed(f"{self.shown} did not answer within judge.timeout, {timeout:g} seconds") from None
        except httpx2.HTTPError as error:  # before a connection its text is the system's; later it may hold the key
            why = f" ({replies.line(str(error), self.key)})" if isinstance(error, httpx2.ConnectError) else ""
            raise Failed(f"{type(error).__name__} at {self.shown}{why}") from None
        if answer is None:
            raise Failed(f"the answer of {self.shown} is longer than {replies.LONGEST:,} bytes")
        return self._content(response, answer)

    def _content(self, response: httpx2.Response, answer: bytes) -> str:
        """The text of a chat completion; Failed or InputError for every other answer."""
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        said = replies.line(replies.message(found) or answer.decode("utf-8", "replace"), self.key)
        if response.status_code != 200:
            raise self._failure(response, found, said)
        content, end = replies.content(found)
        if not content and end == "length":
            limit = f"judge.max_tokens ({self.settings.max_tokens})"
            raise Failed(f"the model used up {limit} before it wrote a word; set it higher", again=False)
        if content is None:
            raise Failed(f"{self.shown} does not answer as a chat completion ({said})", again=end != "content_filter")
        content = content.encode("utf-8", "replace").decode()  # JSON can hold half a character, a file cannot
        return content if self.key and len(self.key) <= PLACEHOLDER else replies.hidden(content, self.key)

    def _failure(self, response: httpx2.Response, found: Any, said: str) -> Exception:
        """Failed for a status that may pass or is this question's alone, InputError for one that all would meet."""
        status = response.status_code
        answered = f"{self.shown} answers with status {status} ({said})"
        if status in TRANSIENT or status >= 500:
            return Failed(
                f"status {status} of {self.shown} ({said})", replies.wait(response.headers.get("Retry-After", ""))
            )
        error = found.get("error") if isinstance(found, dict) else None
        error = error if isinstance(error, dict) else {}
        if error.get("code") in OF_ONE_QUESTION or _TOO_LONG.search(said):
            return Failed(answered, again=False)
        if 300 <= status < 400:
            target = replies.line(response.headers.get("Location", "nowhere"), self.key)
            return InputError(
                f"params.yaml: judge.url redirects from {self.shown} to {target}, which is not followed; "
                "set it to the address that answers"
            )
        return InputError(f"params.yaml: {self._advice(status, error, said)}; {answered}")

    def _advice(self, status: int, error: dict[str, Any], said: str) -> str:
        """The parameter that a refusal is about, and what to do with it."""
        s = self.settings
        param = error.get("param") if isinstance(error.get("param"), str) else ""
        named = _REFUSED_KEY.search(f"{param} {said}")
        if status in NO_KEY:
            where = "is null, but a key is wanted" if s.key is None else f"names {s.key}, whose key is refused"
            return f"judge.key {where}"
        if named and named[1] == "temperature":
            return f"judge.temperature is {s.temperature}; set it to what the model takes, or to null to leave it out"
        if named:
            other = next(key for key in LENGTH_KEYS if key != s.length_key)
            return (
                f"judge.length_key is {s.length_key}, for judge.max_tokens of {s.max_tokens}; set it to {other}, or "
                "judge.max_tokens to what the model takes, or to null to leave it out"
            )
        if error.get("code") == "model_not_found" or param == "model" or _NO_MODEL.search(said):
            return f"judge.model is '{s.model}', which is not to be had there; set it to a model of the endpoint"
        if status in (404, 405):
            return (
                f"judge.url is not the address before /chat/completions, or judge.model '{s.model}' not to be had there"
            )
        return "check judge.url, judge.model and judge.key"
