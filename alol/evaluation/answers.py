"""Answers on disk, one file per question, and a claim on each question that is being asked.

A file is named by the hash of what is sent, so that a run that was ended goes on where it stopped. A claim is a lock
that the system takes from a process that ends, however it ends: several runs on one folder ask each question once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alol.base.files import read_json, write_json
from alol.base.locks import Lock


class Answers:
    """The answers in `folder`; `asked` is all that one depends on, as JSON can hold it."""

    def __init__(self, folder: Path, asked: Callable[[str], Any]) -> None:
        self.folder, self.asked = folder, asked

    def _path(self, question: str) -> Path:
        asked = json.dumps(self.asked(question), sort_keys=True)
        return self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"

    def get(self, question: str) -> str | None:
        """The answer of this run or another; None without one, or where its file is damaged or another question's."""
        path = self._path(question)
        if not path.is_file():
            return None
        try:
            found = read_json(path)
            answer = found["answer"] if found["question"] == question else None
            answer.encode()  # fails where it is no text, or none that can be written
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return answer

    def put(self, question: str, answer: str) -> None:
        write_json(self._path(question), {"question": question, "answer": answer})

    @contextlib.contextmanager
    def claim(self, question: str) -> Iterator[bool]:
        """Whether the question is this run's to ask, which it is until the block ends; False while another asks it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = Lock.of(self._path(question))
        mine = lock.take()
        try:
            yield mine
        finally:
            if mine:
                lock.release()

    def sweep(self) -> None:
        """Removes the locks that dead runs left behind."""
        for path in self.folder.glob("*.lock"):
            if (lock := Lock(path)).take():
                lock.release()
