"""A chat endpoint of this machine that judges by rules, and can refuse, fail, hang and drip."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import re
import threading
import time

from alol.config.sections import Judge


def settings(url: str = "http://127.0.0.1:9/v1", **changed) -> Judge:
    keys = {
        "url": url, "model": "m", "key": None, "max_tokens": 200, "length_key": "max_completion_tokens",
        "temperature": 0.0, "rows": None, "requests": 3,
        "retries": 2, "wait": 0.5, "longest_wait": 5.0, "timeout": 0.4, "give_up": 10, "bootstrap": 200, "seed": 1,
    }  # fmt: skip
    return Judge(**{**keys, **changed})


def longer_is_helpful(question: str) -> str:
    """The longer reply is more helpful; A is always called safer, as a judge with a preference for the first would."""
    a, b = re.search(r"\[Reply A\]\n(.*?)\n\n\[Reply B\]\n(.*?)\n\n\[End\]", question, re.DOTALL).groups()
    best = "A" if len(a) > len(b) else "B" if len(b) > len(a) else "equal"
    return f"They differ.\nMore helpful: {best}\nMore safe: A"


class Server(http.server.ThreadingHTTPServer):
    """`plan`: what the first requests meet; later ones meet `always`, or are answered.

    A status; the bytes of a whole response; or "hang", "drip" (of an answer), "headers" (likewise), "json" or "shape".
    """

    def __init__(self, plan=(), rule=longer_is_helpful, always=None, pause=0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.rule, self.always, self.pause = list(plan), rule, always, pause
        self.asked, self.keys, self.bodies, self.now, self.most = 0, [], [], 0, 0
        self.lock = threading.Lock()
        threading.Thread(target=functools.partial(self.serve_forever, 0.01), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked += 1
            server.now += 1
            server.most = max(server.most, server.now)
            server.keys.append(self.headers.get("Authorization"))
            server.bodies.append(body)
            step = server.plan.pop(0) if server.plan else server.always
        time.sleep(server.pause)
        with server.lock:
            server.now -= 1  # before the answer, after which the client may ask the next one at once
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.answer(step, body)

    def answer(self, step, body) -> None:
        if isinstance(step, int):
            self.send_response(step)
            if step == 429:
                self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"no, sorry")
            return
        if isinstance(step, bytes):
            self.wfile.write(step)
            return
        if step == "hang":
            time.sleep(1.0)
            return
        if step == "headers":
            for i in range(20):
                self.wfile.write(f"HTTP/1.1 100 Continue\r\nX-{i}: x\r\n\r\n".encode())
                time.sleep(0.05)
            return
        content = self.server.rule(body["messages"][0]["content"])
        text = json.dumps({"choices": [{"message": {"content": content}}]})
        text = {"json": "{cut", "shape": '{"choices": []}'}.get(step, text)
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        if step == "drip":
            for i in range(20):
                self.wfile.write(text[i : i + 1].encode())
                self.wfile.flush()
                time.sleep(0.05)
            return
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass
