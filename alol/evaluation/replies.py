"""What a server of chat completions says: its text, its errors in words, and how long it wants to be left alone.

It is not trusted: an answer has a greatest length, and what is shown of it is one short line that hides the key.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from typing import Any
from urllib.parse import quote

import httpx2

LONGEST = 1 << 20  # bytes of one answer; more is not an answer
SHOWN = 200  # characters of what a server says
PARTS = ("text", "output_text")  # of an answer in parts; others are what the model thought

_ESCAPE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.")


async def read(response: httpx2.Response) -> bytes | None:
    """The body, decompressed piece by piece; None where it is longer than LONGEST."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LONGEST:
            return None
    return bytes(body)


def line(text: str, key: str | None) -> str:
    """Foreign text as one short line, without escapes, control characters and the key."""
    text = "".join(c for c in _ESCAPE.sub("", text) if c.isprintable() or c.isspace())
    text = hidden(" ".join(text.split()), key)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def hidden(text: str, key: str | None) -> str:
    """The text without the key, as it is or as JSON and URLs write it, over several lines too."""
    if key:
        written = json.dumps(key)[1:-1]
        for form in {key, written, written.replace("/", "\\/"), quote(key), quote(key, safe="")}:
            text = re.sub(r"\s*".join(map(re.escape, form)), "***", text)
    return text


def wait(text: str) -> float | None:
    """The seconds of a Retry-After header, which holds them or a date; None where it holds neither."""
    if text.isdecimal():
        return float(text)
    try:
        date = email.utils.mktime_tz(email.utils.parsedate_tz(text))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, date - time.time())


def message(found: Any) -> str:
    """What the JSON of an error says in words, in the forms that OpenAI, vLLM and FastAPI give it; or nothing."""
    if not isinstance(found, dict):
        return ""
    detail = found.get("detail")
    if isinstance(detail, list):  # one entry per key of the request
        return "; ".join(
            f"{_texts(one.get('loc'))} {_texts([one.get('msg')])}" for one in detail if isinstance(one, dict)
        )
    error = found.get("error")
    texts = (error.get("message") if isinstance(error, dict) else error, found.get("message"), detail)
    return next((text for text in texts if isinstance(text, str)), "")


def _texts(values: Any) -> str:
    return ".".join(value for value in values if isinstance(value, str)) if isinstance(values, list) else ""


def content(found: Any) -> tuple[str | None, Any]:
    """(the text of a chat completion, why it ends); the text is None where there is none. Parts of text are joined."""
    try:
        content, end = found["choices"][0]["message"]["content"], found["choices"][0].get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None, None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") in PARTS]
        content = "".join(part for part in parts if isinstance(part, str)) or None
    return content if isinstance(content, str) else None, end
