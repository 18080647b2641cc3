"""What an endpoint can answer: every refusal and every fault is one line, and the key is never in it."""

from __future__ import annotations

import dataclasses
import email.utils
import gzip
import json
import re
import socket
import time
import tracemalloc

import pytest

from alol.base.errors import InputError
from alol.evaluation import endpoint
from alol.evaluation.endpoint import Endpoint
from alol.evaluation.replies import LONGEST
from tests.evaluation.judge_server import Server, settings

KEYS = ["secret-1", "sk-proj-a/b+c==", 'quo"te\\key', "100%25key"]


@pytest.fixture
def serve(serving):
    return lambda *args, **keys: serving(Server(*args, **keys))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in endpoint.ENVIRONMENT.split(", "):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def no_sleep(seconds: float) -> None:
    pass


def response(body: bytes | str | dict, status: str = "200 OK", **headers: str) -> bytes:
    """The bytes of a whole answer; its length is that of the body unless the headers say something else."""
    body = json.dumps(body) if isinstance(body, dict) else body
    body = body.encode() if isinstance(body, str) else body
    headers = {"Content_Length": str(len(body)), "Connection": "close", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body


def completion(content: object, **more: object) -> dict:
    return {"choices": [{"message": {"content": content}, **more}]}


def refusal(message: str, **more: object) -> dict:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def asked(tmp_path, server: Server, **changed) -> tuple[str | None, str]:
    """(the answer to one question, the last error): two tries, no waits."""
    judge = Endpoint(settings(server.url, **{"retries": 1, **changed}), tmp_path / "cache", no_sleep)
    return judge.answers(["q"])["q"], judge.last_error


def one_line(text: str) -> bool:
    return text.isprintable() and len(text) < 600


MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported."
)
EXTRA = {"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}


@pytest.mark.parametrize(
    ("status", "body", "changed", "advice"),
    [
        (400, refusal(MAX_TOKENS, param="max_tokens"), {"length_key": "max_tokens"}, "judge.length_key is max_tokens"),
        (400, refusal(MAX_TOKENS), {"length_key": "max_tokens"}, "set it to max_completion_tokens, or"),
        (400, refusal("Unrecognized request argument supplied: max_completion_tokens"), {}, "set it to max_tokens, or"),
        (400, refusal("max_completion_tokens is too large: 200"), {}, "judge.max_tokens of 200"),
        (
            400,
            refusal(TEMPERATURE, param="temperature"),
            {},
            "judge.temperature is 0.0; set it to what the model takes",
        ),
        (400, {"object": "error", "message": TEMPERATURE}, {}, "judge.temperature is 0.0"),
        (400, {"error": {"message": "no", "param": ["temperature"]}}, {}, "check judge.url, judge.model and judge.key"),
        (422, {"detail": [EXTRA]}, {}, "judge.temperature is 0.0"),
        (422, {"detail": "temperature must be above 0"}, {}, "judge.temperature is 0.0"),
        (404, refusal("The model `m` does not exist", code="model_not_found"), {}, "judge.model is 'm'"),
        (404, {"object": "error", "message": "The model `m` does not exist."}, {}, "judge.model is 'm'"),
        (404, {"error": "model 'm' not found, try pulling it first"}, {}, "judge.model is 'm'"),
        (400, refusal("invalid model ID"), {}, "judge.model is 'm'"),
        (400, refusal("The model `m` has been deprecated"), {}, "judge.model is 'm'"),
        (404, "<html>nothing here</html>", {}, "judge.url is not the address before /chat/completions, or"),
        (401, refusal("Incorrect API key provided"), {}, "judge.key is null, but a key is wanted"),
        (418, "", {}, "check judge.url, judge.model and judge.key"),
    ],
)
def test_a_refusal_names_the_parameter_to_change(tmp_path, serve, status, body, changed, advice):
    server = serve(always=response(body, f"{status} No"))
    with pytest.raises(InputError) as caught:
        asked(tmp_path, server, **changed)
    assert str(caught.value).startswith("params.yaml: ") and advice in str(caught.value)
    assert one_line(str(caught.value)) and server.asked == 1


@pytest.mark.parametrize(
    ("changed", "sent"),
    [
        ({}, {"max_completion_tokens": 200, "temperature": 0.0}),
        ({"length_key": "max_tokens"}, {"max_tokens": 200, "temperature": 0.0}),
        ({"max_tokens": None}, {"temperature": 0.0}),
        ({"temperature": None}, {"max_completion_tokens": 200}),
        ({"max_tokens": None, "temperature": None}, {}),
    ],
)
def test_null_leaves_a_key_out(tmp_path, serve, changed, sent):
    server = serve(rule=lambda question: "fine")
    assert asked(tmp_path, server, **changed)[0] == "fine"
    assert server.bodies == [{"model": "m", "messages": [{"role": "user", "content": "q"}], **sent}]


@pytest.mark.parametrize("status", ["302 Found", "308 Permanent"])
@pytest.mark.parametrize("target", ["https://{host}/v1", "http://{other}/v1", "ftp://{other}/", "{path}", "\x1b[31mno"])
def test_a_redirect_is_not_followed(tmp_path, serve, monkeypatch, status, target):
    other = serve()
    server = serve()
    places = {"host": server.url[7:-3], "other": other.url[7:-3], "path": "/v1/chat/completions"}
    server.always = response("", status, Location=target.format(**places))
    monkeypatch.setenv("MY_KEY", "secret-1")
    with pytest.raises(InputError, match=r"judge\.url redirects from .* which is not followed") as caught:
        asked(tmp_path, server, key="MY_KEY")
    assert one_line(str(caught.value)) and (server.asked, other.asked) == (1, 0)


DEEP = "[" * 100_000
BROKEN = {
    "deep JSON": (response(DEEP), "does not answer as a chat completion"),
    "deep JSON within": (response('{"choices": ' + DEEP), "does not answer as a chat completion"),
    "not UTF-8": (response(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'), "does not answer as"),
    "a page": (response("<html>\n<body>Welcome</body></html>"), "chat completion (<html> <body>Welcome</body></html>)"),
    "nothing": (response(""), "does not answer as a chat completion"),
    "an error": (response(refusal("overloaded")), "does not answer as a chat completion (overloaded)"),
    "a list": (response("[1, 2]"), "does not answer as"),
    "no choice": (response({"choices": []}), "does not answer as"),
    "choices of a wrong type": (response({"choices": "abc"}), "does not answer as"),
    "a choice of a wrong type": (response({"choices": [["message"]]}), "does not answer as"),
    "null": (response(completion(None)), "does not answer as"),
    "a number": (response(completion(3)), "does not answer as"),
    "no part of text": (
        response(completion([{"type": "image"}, 3, {"type": "text", "text": 3}])),
        "does not answer as",
    ),
    "digits": (response("1" * 100_000), "does not answer as"),
    "length of letters": (response("{}", Content_Length="abc"), "RemoteProtocolError at"),
    "length below 0": (response("{}", Content_Length="-1"), "RemoteProtocolError at"),
    "length beyond the end": (response("{}", Content_Length="9" * 15), "RemoteProtocolError at"),
    "length of digits": (response("{}", Content_Length="9" * 5000), "RemoteProtocolError at"),
    "bad chunks": (response("zz\r\n", Content_Length="", Transfer_Encoding="chunked"), "RemoteProtocolError at"),
    "cut chunks": (response("ff\r\n{}", Content_Length="", Transfer_Encoding="chunked"), "RemoteProtocolError at"),
    "no HTTP": (b"\x00\x01\x02 hello\r\n\r\n", "RemoteProtocolError at"),
    "closed": (b"", "RemoteProtocolError at"),
    "long header": (response("{}", X="x" * 300_000), "RemoteProtocolError at"),
    "no gzip": (response("{}", Content_Encoding="gzip"), "DecodingError at"),
    "endless": (response(b" " * (LONGEST + 1)), "is longer than 1,048,576 bytes"),
    "a cookie": (response("{}", Set_Cookie="\x01;;=;=; expires=never; domain=\xff"), "does not answer as"),
    "status 0": (response("{}", "000 No"), "RemoteProtocolError at"),
    "status of letters": (response("{}", "abc No"), "RemoteProtocolError at"),
    "deep in an error": (response('{"detail": [{"loc": ' + "[" * 900 + "]" * 900 + "}]}", "500 No"), "status 500"),
    "clean and short": (response("\x1b[31mred\x07\n\n" + "x" * 5000, "500 No"), f"(red {'x' * 196}...)"),
    "bidirectional": (response("a\u202eb\u2028c", "500 No"), "(ab c)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_one_line_after_the_tries(tmp_path, serve, name):
    answer, expected = BROKEN[name]
    server = serve(always=answer)
    found, error = asked(tmp_path, server, timeout=5.0)
    assert found is None and expected in error
    assert one_line(error) and server.asked == 2


def test_a_compressed_answer_is_read_and_a_bomb_is_not_held(tmp_path, serve):
    server = serve(plan=[response(gzip.compress(json.dumps(completion("fine")).encode()), Content_Encoding="gzip")])
    assert asked(tmp_path, server) == ("fine", "")
    server.always = response(gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip")
    tracemalloc.start()
    judge = Endpoint(settings(server.url, retries=0, timeout=5.0), tmp_path, no_sleep)
    assert judge.answers(["other"]) == {"other": None}
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert "is longer than 1,048,576 bytes" in judge.last_error


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"type": "text", "text": "More "}, {"type": "text", "text": "helpful: A"}], "More helpful: A"),
        ([{"type": "thinking", "thinking": []}, {"type": "text", "text": "B"}], "B"),
        ("half \ud800 a character", "half ? a character"),
        ("", ""),
    ],
)
def test_an_answer_in_parts_is_joined(tmp_path, serve, content, expected):
    server = serve(always=response(completion(content)))
    assert asked(tmp_path, server)[0] == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response(completion("", finish_reason="length")), "used up judge.max_tokens (200) before it wrote a word"),
        (response(completion(None, finish_reason="content_filter")), "does not answer as"),
        (response(refusal("no", code="content_filter"), "400 No"), "status 400 (no)"),
        (response(refusal("too long", code="context_length_exceeded"), "400 No"), "status 400 (too long)"),
        (
            response({"message": "max_tokens is too large: the context length is 9", "code": 400}, "400 No"),
            "length is 9",
        ),
    ],
)
def test_what_is_one_questions_alone_is_not_asked_again(tmp_path, serve, answer, expected):
    server = serve(plan=[answer], rule=lambda question: "fine")
    judge = Endpoint(settings(server.url, requests=1), tmp_path, no_sleep)
    assert sorted(judge.answers(["q", "r"]).values(), key=str) == [None, "fine"]
    assert expected in judge.last_error and server.asked == 2


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("7", 7, 7), ("0", 0, 0), ("9" * 5000, 20, 20), ("-5", 0.5, 0.5), ("soon", 0.5, 0.5), ("1e9", 0.5, 0.5),
        ("nan", 0.5, 0.5), ("", 0.5, 0.5), ("in 9 seconds", 0.1, 9),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Fri, 31 Dec 9999 23:59:59 GMT", 20, 20),
        ("Fri, 99 Foo 99999999999999999999 00:00:00 GMT", 0, 20),
    ],
)  # fmt: skip
def test_the_wait_that_a_server_asks_for_is_bounded(tmp_path, serve, text, low, high):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    if text == "in 9 seconds":
        text = email.utils.formatdate(time.time() + 9, usegmt=True)
    server = serve(plan=[response("", "429 Slow", Retry_After=text)], rule=lambda question: "fine")
    assert Endpoint(settings(server.url, longest_wait=20.0), tmp_path, sleep).answers(["q"]) == {"q": "fine"}
    assert len(waits) == 1 and low <= waits[0] <= high


def everything(tmp_path) -> str:
    """All that the cache holds, names and contents."""
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    return "".join(f"{path} {path.read_text(encoding='utf-8', errors='replace')}" for path in files)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("status", ["200 OK", "401 No", "500 No", "302 Found"])
@pytest.mark.parametrize("form", ["json", "plain"])
def test_a_key_that_the_server_repeats_is_hidden(tmp_path, serve, monkeypatch, caplog, capfd, key, status, form):
    body = {
        "json": refusal(f"bad key {key}") | completion(f"A {key}"),
        "plain": f"{key[:3]}\x1b[0m\x07{key[3:]} {key[:4]}\n{key[4:]} {json.dumps(key)}",
    }
    server = serve(always=response(body[form], status, Location=f"http://x/{key}"))
    monkeypatch.setenv("MY_KEY", key)
    try:
        answer, error = asked(tmp_path, server, key="MY_KEY")
    except InputError as refused:
        answer, error = None, str(refused)
    shown = f"{answer} {error} {everything(tmp_path)} {caplog.text} {capfd.readouterr()}"
    assert set(server.keys) == {f"Bearer {key}"}
    assert key not in shown and json.dumps(key)[1:-1] not in shown and one_line(error)
    assert key not in "".join(shown.split())


@pytest.mark.parametrize("key", ["secret\u2192", "secret\nHost: x", "secret\r", " secret", "sec ret", "secret\x7f"])
def test_a_key_that_cannot_be_sent_is_refused_and_never_shown(tmp_path, serve, monkeypatch, capfd, key):
    monkeypatch.setenv("ALOL_TEST_KEY", key)
    server = serve()
    with pytest.raises(InputError, match="ALOL_TEST_KEY holds characters that no key has") as caught:
        asked(tmp_path, server, key="ALOL_TEST_KEY")
    assert caught.value.__cause__ is None and server.asked == 0
    assert "sec" not in f"{caught.value} {capfd.readouterr()}" and one_line(str(caught.value))


TABLE = dataclasses.asdict(settings())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("key", "sk-secret", "judge.key must be the name of an environment variable, in capitals, not the key"),
        ("key", "secret1234", "judge.key must be the name of an environment variable"),
        ("key", "", "judge.key must be the name of an environment variable"),
        ("url", "http://me:secret@x/v1", "judge.url must hold no user or password"),
        ("url", "me:secret@x", "judge.url must hold no user or password"),
        ("url", "http:/me:secret@x", "judge.url must hold no user or password"),
        (
            "length_key",
            "max_new_tokens",
            "judge.length_key is 'max_new_tokens'; known: max_tokens, max_completion_tokens",
        ),
    ],
)
def test_a_secret_in_params_yaml_is_refused_and_not_shown(name, value, expected):
    with pytest.raises(InputError, match=re.escape(f"params.yaml: {expected}")) as caught:
        endpoint.settings({**TABLE, name: value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["localhost", "", "http://", "http:///v1", "http://a b/", "http://[::1", "http://x:99999/", "http://x:abc/",
     "http://a..b/", "http://" + "a" * 64 + "/", "http://x/\n", "ftp://x/", "HTTP:x", "http://\u2192\u2192/", "http://%zz/"],
)  # fmt: skip
def test_an_address_that_is_none(tmp_path, url):
    with pytest.raises(InputError, match=r"judge\.url is '") as caught:
        Endpoint(settings(url), tmp_path, no_sleep).answers(["q"])
    assert one_line(str(caught.value))


def test_a_query_is_kept_and_not_shown(tmp_path, serve):
    server = serve(always=500)
    judge = Endpoint(settings(server.url + "/?code=secret", retries=0), tmp_path, no_sleep)
    assert str(judge.url) == server.url + "/chat/completions?code=secret"
    judge.answers(["q"])
    assert judge.last_error == f"status 500 of {server.url}/chat/completions (no, sorry)"


def test_no_address_no_tls_and_no_server(tmp_path, serve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    urls = ["http://no-such-host.invalid/v1", serve().url.replace("http:", "https:"), f"http://127.0.0.1:{closed}/v1"]
    for url in urls:
        judge = Endpoint(settings(url, retries=0, timeout=20.0), tmp_path, no_sleep)
        assert judge.answers(["q"]) == {"q": None}
        assert re.match(r"(ConnectError|RemoteProtocolError) at http", judge.last_error) and one_line(judge.last_error)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "nonsense://user:secret@x"), ("HTTP_PROXY", "http://user:secret@x:port"),
        ("HTTP_PROXY", "http://[::1"), ("ALL_PROXY", "socks5://user:secret@x:1"), ("SSL_CERT_FILE", "/no/such/file"),
    ],
)  # fmt: skip
def test_an_environment_that_cannot_be_used_is_one_line(tmp_path, serve, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    server = serve(rule=lambda question: "fine")
    try:
        answer, error = asked(tmp_path, server)
    except InputError as refused:
        assert variable in str(refused)
        answer, error = None, str(refused)
    assert (answer == "fine") or error
    assert "secret" not in error and one_line(error or "-")


def test_a_proxy_that_does_not_answer_is_one_line(tmp_path, serve, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:9")
    judge = Endpoint(settings("http://example.invalid/v1", retries=0), tmp_path, no_sleep)
    assert judge.answers(["q"]) == {"q": None}
    assert "ConnectError at http://example.invalid/v1/chat/completions" in judge.last_error
    assert "secret" not in judge.last_error


def test_credentials_of_netrc_are_not_sent(tmp_path, serve, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = serve(rule=lambda question: "fine")
    assert asked(tmp_path, server)[0] == "fine"
    assert server.keys == [None]


def test_waits_double_and_follow_the_server(tmp_path, serve):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server = serve(plan=[500, 500], rule=lambda question: "fine")
    assert Endpoint(settings(server.url), tmp_path, sleep).answers(["p"]) == {"p": "fine"}
    assert waits == [0.5, 1.0]
    waits.clear()
    server = serve(plan=[429], rule=lambda question: "fine")
    assert Endpoint(settings(server.url, longest_wait=60.0), tmp_path, sleep).answers(["q"]) == {"q": "fine"}
    assert waits == [7.0]
    server.plan = [429]
    Endpoint(settings(server.url), tmp_path, sleep).answers(["other"])
    assert waits == [7.0, 5.0]
