"""A server of this machine with files at URLs, and one with the endpoints of the hub."""

import hashlib
import json
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "3c0ffee0" * 5
TOKEN = "hf_of_an_account_with_access"
BIG = 1000  # bytes from which on a file is in large file storage


@dataclass
class Content:
    """What a server holds, what it was asked for, and what goes wrong with it."""

    files: dict[str, bytes]  # by path; of a hub, by the path in the repository
    requests: list[tuple[str, str, dict]] = field(
        default_factory=list
    )  # method, path, headers in lower case
    failures: list[int] = field(default_factory=list)  # answers to the next requests
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    ranges: bool = True  # whether parts of files are served
    gated: bool = False

    def asked(self, method: str = "GET") -> list[str]:
        """Return the paths that were asked for."""
        return [path for one, path, _ in self.requests if one == method]


class Files(BaseHTTPRequestHandler):
    """Serves the files of `server.content`."""

    protocol_version = "HTTP/1.1"

    @property
    def content(self) -> Content:
        return self.server.content

    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.content.requests.append((self.command, self.path, headers))
        if self.content.failures:
            return self.answer(self.content.failures.pop(0))
        return self.respond()

    do_HEAD = do_GET

    def respond(self):
        path = self.path.split("?")[0]
        if path in self.content.files:
            return self.send(self.content.files[path], {})
        return self.answer(404)

    def answer(self, status: int, headers: dict | None = None, body: bytes = b""):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def send(self, body: bytes, headers: dict):
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and self.content.ranges:
            first, size = int(start[1]), len(body)
            if first >= size:
                return self.answer(416)
            headers = headers | {"Content-Range": f"bytes {first}-{size - 1}/{size}"}
            body, status = body[first:], 206
        else:
            status = 200
        if self.command == "GET" and self.content.cuts:
            self.answer(status, headers | {"Content-Length": str(len(body))})
            self.wfile.write(body[: self.content.cuts.pop(0)])
            self.close_connection = True
            return None
        return self.answer(status, headers, body)

    def log_message(self, *_):
        pass


class Hub(Files):
    """Serves one repository, owner/name, at one commit to which the branch main leads."""

    def respond(self):
        path = self.path.split("?")[0]
        kinds = r"(?P<kind>datasets|models)?/?owner/name"
        if not re.match(rf"(/api)?/({kinds})", path):
            missing = "Repository not found"
            return self.answer(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": missing})
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            return self.answer(
                401, {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        if self.content.gated and given is None:
            return self.answer(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        revision = re.search(r"/(?:revision|tree|resolve)/([^/]+)", path)
        if revision is None or revision[1] not in (COMMIT, "main"):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        if "/revision/" in path:
            siblings = [{"rfilename": name} for name in self.content.files]
            return self.json({"id": "owner/name", "sha": COMMIT, "siblings": siblings})
        if "/tree/" in path:
            return self.json([self.entry(name) for name in self.content.files])
        name = path.split(f"/resolve/{revision[1]}/", 1)[1]
        if name not in self.content.files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{etag(self.content.files[name])}"', "X-Repo-Commit": COMMIT}
        return self.send(self.content.files[name], headers)

    def entry(self, name: str) -> dict:
        body = self.content.files[name]
        entry = {"type": "file", "oid": "0" * 40, "size": len(body), "path": name}
        if len(body) >= BIG:
            entry["lfs"] = {"oid": etag(body), "size": len(body), "pointerSize": 1}
        return entry

    def json(self, value):
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def etag(body: bytes) -> str:
    """Return the hub's checksum of a file: git's, or sha256 in large file storage."""
    if len(body) >= BIG:
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Server(ThreadingHTTPServer):
    """A server to which a client that hangs up is no error."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(handler: type[Files], content: Content):
    """Serve within the block; yield the server's address."""
    server = Server(("127.0.0.1", 0), handler)
    server.content = content
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
