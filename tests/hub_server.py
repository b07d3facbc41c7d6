"""A Hub on localhost: the part of its file API that pulling and pushing a model need, and some ways to misbehave."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".zip", ".ckpt")


class Hub:
    """Repositories with revisions, plain files, and what was asked for.

    Attributes:
        revisions: {repo: {commit: {path: bytes}}}; the last commit is `main`.
        tags: {name: commit}, of every repository.
        files: {path: bytes} outside all repositories, for original downloads.
        corrupt: paths whose content has its last byte changed on the way.
        cut: {path: bytes after which the connection is closed, once}.
        asked: (method, path, Range header) of every request.
    """

    def __init__(self):
        self.revisions, self.tags, self.files = {}, {}, {}
        self.corrupt, self.cut, self.asked = set(), {}, []

    def add(self, repo: str, folder: Path | dict[str, bytes], tag: str | None = None) -> str:
        """One more commit of a repository."""
        if not isinstance(folder, dict):
            folder = {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
        commit = hashlib.sha1(repr(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in folder.items())).encode()).hexdigest()
        self.revisions.setdefault(repo, {})[commit] = folder
        if tag:
            self.tags[tag] = commit
        return commit

    def find(self, repo: str, revision: str):
        """(commit, files), or None."""
        commits = self.revisions[repo]
        commit = list(commits)[-1] if revision == "main" else self.tags.get(revision, revision)
        return (commit, commits[commit]) if commit in commits else None

    def got(self, ending: str) -> list[str | None]:
        """Range headers of the GET requests for paths with an ending."""
        return [r for method, path, r in self.asked if method == "GET" and path.endswith(ending)]


def etag(path: str, data: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def reply(self, status: int, data: bytes = b"", headers: dict | None = None, kind: str = "application/json"):
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str):
        self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if path in self.hub.files:
            return self.send_file(path, self.hub.files[path], {})
        if path.endswith(".html"):
            return self.reply(200, b"<html></html>", kind="text/html")
        if parts[:2] == ["api", "models"]:
            repo, rest = "/".join(parts[2:4]), parts[4:]
            revision = "/".join(rest[1:]) if rest else "main"
        elif "resolve" in parts:
            repo, revision, rest = "/".join(parts[:2]), parts[3], ["resolve"]
        else:
            return self.reply(404, b"{}")
        if repo not in self.hub.revisions:
            return self.refuse(404, "RepoNotFound")
        found = self.hub.find(repo, revision)
        if found is None:
            return self.refuse(404, "RevisionNotFound")
        commit, files = found
        if rest and rest[0] == "resolve":
            name = "/".join(parts[4:])
            if name not in files:
                return self.refuse(404, "EntryNotFound")
            return self.send_file(name, files[name], {"X-Repo-Commit": commit})
        if rest and rest[0] == "tree":
            return self.reply(200, json.dumps([self.entry(name, data) for name, data in files.items()]).encode())
        info = {"id": repo, "modelId": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files], "tags": [], "private": False}
        self.reply(200, json.dumps(info).encode())

    @staticmethod
    def entry(name: str, data: bytes) -> dict:
        found = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith(LARGE):
            found["lfs"] = {"oid": etag(name, data), "size": len(data), "pointerSize": 134}
        return found

    def send_file(self, name: str, data: bytes, headers: dict):
        headers = {"ETag": f'"{etag(name, data)}"', "Accept-Ranges": "bytes", **headers}
        if name in self.hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        status, asked = 200, self.headers.get("Range")
        if asked and self.headers.get("If-Range", headers["ETag"]) == headers["ETag"]:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin or 0), int(end) if end else len(data) - 1
            if first >= len(data):
                return self.reply(416)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        after = self.hub.cut.pop(name, None) if self.command == "GET" else None
        if after is None:
            return self.reply(status, data, headers, "application/octet-stream")
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data[:after])
        self.wfile.flush()
        self.close_connection = True

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(("POST", path, None))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = "/".join(filter(None, (wanted.get("organization") or "someone", wanted["name"])))
            self.hub.revisions.setdefault(repo, {})
            return self.reply(200, json.dumps({"url": f"http://{self.headers['Host']}/{repo}", "name": repo}).encode())
        if parts[-1] == "validate-yaml":  # the head of a model card
            return self.reply(200, b'{"errors": [], "warnings": []}')
        if "preupload" in parts:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.reply(200, json.dumps({"files": files}).encode())
        if "commit" in parts:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {v["path"]: base64.b64decode(v["content"]) for v in (line["value"] for line in lines if line["key"] == "file")}
            commit = self.hub.add("/".join(parts[2:4]), files)
            url = f"http://{self.headers['Host']}/{'/'.join(parts[2:4])}/commit/{commit}"
            return self.reply(200, json.dumps({"commitUrl": url, "commitOid": commit, "success": True, "hookOutput": ""}).encode())
        self.reply(404, b"{}")


@contextmanager
def serve(hub: Hub):
    """Serve a Hub; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
