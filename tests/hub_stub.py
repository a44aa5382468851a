"""A hub of one's own: the few requests of an upload, answered on this machine, and what was uploaded."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub:
    """``files``: what commits brought, by path. ``requests``: (method, path, body). mode: how it behaves.

    mode: ``fine``, ``forbidden`` (the login may not write), ``no_such`` (the repository can't be made or seen),
    ``breaks`` (fails while files are sent).
    """

    def __init__(self, token: str) -> None:
        self.token, self.mode = token, "fine"
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str, body: bytes, token: str | None) -> tuple[int, dict]:
        if token != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            if self.mode == "forbidden":
                return 403, {"error": "You don't have the rights"}
            name = json.loads(body)
            return 200, {"url": f"{self.url}/{name.get('organization', 'me')}/{name['name']}"}
        if path.startswith("/api/models/") and path.count("/") == 4:
            return 200, {"id": "me/my-sae"}  # it is there; who may write to it is another question
        if self.mode == "forbidden":
            return 403, {"error": "You don't have the rights"}
        if self.mode == "no_such":
            return 404, {"error": "Repository not found"}
        if path.endswith("/preupload/main"):
            return 200, {
                "files": [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            }
        if "/commit/main" in path:
            if self.mode == "breaks":
                return 500, {"error": f"broken, and the login was {self.token}"}
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    self.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            return 200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.url}/me/sae/commit/{'0' * 40}"}
        return 200, {}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length")
            body = self.rfile.read(int(length)) if length else self._chunks()
            hub.requests.append((self.command, self.path, body))
            status, value = hub.answer(self.path.split("?")[0], body, self.headers.get("Authorization"))
            data = json.dumps(value).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST  # noqa: N815

        def _chunks(self) -> bytes:
            body = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return body

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
