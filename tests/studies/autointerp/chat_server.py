"""A real server on this machine that speaks the OpenAI protocol, plays a scripted judge and misbehaves on demand."""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Messages = list[dict[str, str]]
Judge = Callable[[Messages], str]
#: (how many posts came before, the request's JSON, how often this very request came before) -> a fault, or None.
Script = Callable[[int, dict[str, Any], int], str | None]

#: Everything that ``ChatServer`` can do wrong. A number is that status; ``429 after 0.2`` asks to wait as long.
FAULTS = (
    "429", "429 after 0.2", "500", "503", "cut", "cut at once", "garbage", "binary", "html", "nested", "huge", "slow",
    "drip", "not an object", "no choices", "empty choices", "wrong types", "null content", "empty", "refused",
    "filtered", "cut off", "long text", "surrogates", "packed", "redirect", "no usage", "wrong usage",
)  # fmt: skip
#: Of them, those after which a request that is asked again may be answered.
PASSING = ("429", "429 after 0.2", "500", "503", "cut", "cut at once", "garbage", "binary", "html", "nested", "huge",
           "not an object", "no choices", "empty choices", "wrong types", "long text", "packed")  # fmt: skip


def never(place: int, body: dict[str, Any], before: int) -> str | None:
    """Do nothing wrong."""
    return None


def first(kinds: Sequence[str]) -> Script:
    """Let each request fail once, in the first ``len(kinds)`` posts that are new, by one kind after the other."""
    left = list(kinds)

    def script(place: int, body: dict[str, Any], before: int) -> str | None:
        return left.pop(0) if left and before == 0 else None

    return script


def always(kind: str) -> Script:
    """Do this one thing wrong every time."""
    return lambda place, body, before: kind


def every(n: int, kinds: Sequence[str]) -> Script:
    """Let every ``n``-th post fail, by one kind after the other."""
    return lambda place, body, before: kinds[place // n % len(kinds)] if place % n == n - 1 else None


def echo(messages: Messages) -> str:
    """Answer with the last message."""
    return f"heard: {messages[-1]['content']}"


class ChatServer:
    """``with ChatServer(judge) as server:`` answers POST {server.base_url}/chat/completions.

    judge: from the messages to the text of the answer. script: what goes wrong when. key: the only one let in; None
    lets everybody in. model: the only one there is; None has all. seconds: that an answer takes.

    bodies: JSON of every post in order; answered: how often each request (``key_of``) was answered well; most: posts
    in work at once; times: of each post, on the monotonic clock; authorised: the Authorization header of each post.
    """

    def __init__(
        self,
        judge: Judge = echo,
        script: Script = never,
        *,
        key: str | None = None,
        model: str | None = None,
        seconds: float = 0.0,
        logprobs: Mapping[str, float] | None = None,
    ) -> None:
        self.judge, self.script, self.key, self.model = judge, script, key, model
        self.seconds, self.logprobs = seconds, logprobs
        self.bodies: list[dict[str, Any]] = []
        self.answered: Counter[str] = Counter()
        self.posted: Counter[str] = Counter()
        self.times: list[float] = []
        self.authorised: list[str | None] = []
        self.most = 0
        self.working = 0
        self.lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.chat = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        """Address to give a client."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()


def key_of(body: Mapping[str, Any]) -> str:
    """Name a request by its messages and sampling."""
    return json.dumps([body.get("messages"), body.get("temperature"), body.get("seed")], sort_keys=True)


def unused_address() -> str:
    """Return the base URL of a port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    chat: ChatServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        chat = self.server.chat
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(data)
        name = key_of(body)
        with chat.lock:
            fault = chat.script(len(chat.bodies), body, chat.posted[name])
            chat.posted[name] += 1
            chat.bodies.append(body)
            chat.times.append(time.monotonic())
            chat.authorised.append(self.headers.get("Authorization"))
            chat.working += 1
            chat.most = max(chat.most, chat.working)
        try:
            if self.path != "/v1/chat/completions":
                self._error(404, "no such path")
            elif chat.key is not None and self.headers.get("Authorization") != f"Bearer {chat.key}":
                self._error(401, f"wrong key: {self.headers.get('Authorization')}")
            elif chat.model is not None and body["model"] != chat.model:
                self._error(404, f"no model {body['model']}")
            else:
                time.sleep(chat.seconds)
                self._answer(body, name, fault)
        finally:
            with chat.lock:
                chat.working -= 1

    def _answer(self, body: dict[str, Any], name: str, fault: str | None) -> None:
        chat = self.server.chat
        good = self._completion(body, chat.judge(body["messages"]))
        if fault is None:
            with chat.lock:
                chat.answered[name] += 1
            self._send(200, json.dumps(good).encode())
        elif fault.split()[0].isdecimal():
            words = fault.split()
            headers = {"Retry-After": words[2]} if words[1:2] == ["after"] else {}
            self._error(int(words[0]), f"told to say {words[0]} to {self.headers.get('Authorization')}", headers)
        elif fault in ("cut", "cut at once", "slow", "drip"):
            self._break(fault, json.dumps(good).encode())
        elif fault == "redirect":
            self._send(307, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"})
        elif fault == "packed":
            self._send(200, b"\x1f\x8b\x08", {"Content-Encoding": "gzip"})
        else:
            self._send(200, _spoilt(fault, good))

    def _completion(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        words = sum(len(message["content"].split()) for message in body["messages"])
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": "stop",
        }
        chances = self.server.chat.logprobs
        if body.get("logprobs") and chances is not None:
            top = [{"token": token, "logprob": value} for token, value in chances.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return {
            "id": "chat-1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": words, "completion_tokens": len(text.split())},
        }

    def _break(self, fault: str, good: bytes) -> None:
        self.close_connection = True
        if fault == "slow":
            time.sleep(3)
        if fault != "cut at once":
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(good)}\r\n\r\n"
            self.wfile.write(head.encode() + good[: len(good) // 2])
        if fault == "drip":
            for byte in good[len(good) // 2 :]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        # A reset instead of a polite end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR) if fault == "cut" else self.connection.close()

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps({"error": {"message": message, "type": "scripted"}}).encode(), headers)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(data))} | dict(headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _spoilt(fault: str, good: dict[str, Any]) -> bytes:
    """Return the body of an answer that is not as it should be."""
    choice = good["choices"][0]
    message = choice["message"]
    raw = {
        "garbage": b'{"choices": [{"message": {"content": "ye',
        "binary": bytes(range(256)) * 40,
        "html": b"<html><script>alert(1)</script>Bad gateway</html>",
        "nested": b'{"choices":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "huge": b'{"choices": "' + b"x" * (6 << 20) + b'"}',
        "not an object": b'["yes"]',
    }
    if fault in raw:
        return raw[fault]
    if fault == "no choices":
        del good["choices"]
    elif fault == "empty choices":
        good["choices"] = []
    elif fault == "wrong types":
        choice["message"] = {"role": 7, "content": {"text": ["yes"]}}
    elif fault == "null content":
        message["content"] = None
    elif fault == "empty":
        message["content"] = " \n "
    elif fault == "refused":
        message |= {"content": None, "refusal": "I won't."}
    elif fault == "filtered":
        choice |= {"finish_reason": "content_filter", "message": {"content": ""}}
    elif fault == "cut off":
        choice |= {"finish_reason": "length", "message": {"content": "<think>so many thoughts"}}
    elif fault == "long text":
        message["content"] = "yes " * 100_000
    elif fault == "surrogates":
        message["content"] = "Yes \ud800 \x00\x1b[31m\u202e"
    elif fault == "no usage":
        del good["usage"]
    elif fault == "wrong usage":
        good["usage"] = {"prompt_tokens": -3, "completion_tokens": "9" * 5000}
    else:
        raise AssertionError(f"no such fault: {fault}")
    return json.dumps(good).encode()
