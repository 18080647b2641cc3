"""A stand-in for the model hub: it takes what is uploaded, by the calls that huggingface_hub makes."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """`files` are those of the last commit; `status` other than 200 refuses every call, `late` the commit alone."""

    def __init__(self, status: int = 200, late: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.late = status, late
        self.repo: dict[str, Any] = {}
        self.stored: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def place(self) -> str:
        return f"{self.url}/{self.repo['organization']}/{self.repo['name']}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_PUT(self) -> None:
        content = self._body()
        self.server.stored[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body, hub = self._body(), self.server
        hub.tokens.add(self.headers.get("authorization"))
        status = hub.late if "/commit/" in self.path else hub.status
        if status != 200:
            self._answer({"error": "You have no right to do this"}, status)
        elif self.path == "/api/repos/create":
            hub.repo = json.loads(body)
            self._answer({"url": hub.place()})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in zip(names, modes, strict=True)
            ]
            self._answer({"files": files})
        elif self.path.endswith("/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/stored/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            hub.files = dict(_file(json.loads(line)["value"], hub) for line in body.splitlines()[1:])
            self._answer({"success": True, "commitUrl": f"{hub.place()}/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:
            self._answer({})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _file(value: dict[str, Any], hub: Hub) -> tuple[str, bytes]:
    return value["path"], base64.b64decode(value["content"]) if "content" in value else hub.stored[value["oid"]]
