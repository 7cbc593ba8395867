"""A small server in the place of the Hugging Face Hub: the parts of its protocol that we use.

Data sets are given as files. Models are made, committed to (large files by Git LFS) and read as on
the Hub: with tokens, revisions, hashes, ranges.
"""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40  # of every data set
WRITE, READ = "hf_write", "hf_read"  # the tokens that the stand-in accepts
LFS_FROM = 1_000  # bytes; other files are sent in the commit itself


@dataclass
class Repository:
    """A model: its commits, the newest last."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1] if self.commits else {}

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1] if self.commits else ("0" * 40, {})
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Hub:
    """The state of the stand-in, and what was asked of it.

    Attributes:
        requests: method and path of each, with the range that was asked for.
        stall_at: a file of which only the half is sent, until the client goes away.
        stalled: set when that has happened.
        altered: a file of which other bytes are sent than were stored.
        refusal: why the Hub refuses every card.
    """

    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    models: dict[str, Repository] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stall_at: str | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    altered: str | None = None
    refusal: str | None = None


def is_lfs(content: bytes) -> bool:
    return len(content) >= LFS_FROM


def git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        if "Content_Length" not in headers:
            headers["Content_Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str, message: str = "") -> None:
        self.reply(status, b"{}", X_Error_Code=code, X_Error_Message=message or code)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def note(self) -> list[str]:
        """Remember the request; gives the parts of its path."""
        path = unquote(urlsplit(self.path).path)
        span = self.headers.get("Range", "")
        self.hub.requests.append(f"{self.command} {path} {span}".strip())
        return path.strip("/").split("/")

    def allowed(self, write: bool) -> bool:
        """Whether the token may do it; refuses the request otherwise."""
        known = (WRITE, READ)
        if self.token not in (None, *known) or (write and self.token is None):
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return False
        if write and self.token != WRITE:
            self.refuse(403, "", "this token has no right to write")
            return False
        return True

    def do_GET(self) -> None:
        match self.note():
            case ["api", "datasets", owner, name, *_]:
                self.dataset(f"{owner}/{name}")
            case ["datasets", owner, name, "resolve", revision, *rest]:
                key = f"{owner}/{name}" + ("@convert" if revision.endswith("convert") else "")
                content = self.hub.datasets[key]["/".join(rest)]
                tag = f'"{hashlib.sha256(content).hexdigest()}"'
                if "/".join(rest) == self.hub.stall_at and self.command == "GET":
                    self.stall(content, {"ETag": tag, "X_Repo_Commit": revision})
                    return
                self.reply(200, content, ETag=tag, X_Repo_Commit=revision)
            case ["api", "models", owner, name]:
                self.model(f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", revision]:
                self.model(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", revision, *_]:
                self.model(f"{owner}/{name}", revision, tree=True)
            case [owner, name, "resolve", revision, *rest]:
                self.file(f"{owner}/{name}", revision, "/".join(rest))
            case _:
                self.refuse(404, "")

    do_HEAD = do_GET

    def dataset(self, repository: str) -> None:
        files = self.hub.datasets.get(repository)
        if files is None:
            self.refuse(404, "RepoNotFound")
            return
        commit = COMMIT
        if "convert" in self.path:
            files, commit = self.hub.datasets[repository + "@convert"], COMMIT[:-7] + "convert"
        siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
        self.reply_json({"id": repository, "sha": commit, "siblings": siblings})

    def found(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if not self.allowed(write=False):
            return None
        model = self.hub.models.get(repository)
        if model is None or (model.private and self.token is None):
            self.refuse(401 if self.token is None else 404, "RepoNotFound")
            return None
        commit = model.at(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound")
        return commit

    def model(self, repository: str, revision: str, tree: bool = False) -> None:
        commit = self.found(repository, revision)
        if commit is None:
            return
        if not tree:
            siblings = [{"rfilename": name} for name in commit[1]]
            self.reply_json({"id": repository, "sha": commit[0], "siblings": siblings})
            return
        entries = []
        for name, content in commit[1].items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
            if is_lfs(content):
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.reply_json(entries)

    def file(self, repository: str, revision: str, name: str) -> None:
        commit = self.found(repository, revision)
        if commit is None:
            return
        content = commit[1].get(name)
        if content is None:
            self.refuse(404, "EntryNotFound")
            return
        tag = hashlib.sha256(content).hexdigest() if is_lfs(content) else git_hash(content)
        headers = {"ETag": f'"{tag}"', "X_Repo_Commit": commit[0], "Accept_Ranges": "bytes"}
        if name == self.hub.altered:
            content = content[::-1]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        status, part = 200, content[start:]
        if "Range" in self.headers:
            status = 206
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if name == self.hub.stall_at and self.command == "GET":
            self.stall(part, headers, status)
            return
        self.reply(status, part, **headers)

    def stall(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        """Send the half of a file, then nothing."""
        headers["Content_Length"] = str(len(content))
        self.reply(status, content[: len(content) // 2], **headers)
        self.wfile.flush()
        self.hub.stalled.set()
        self.connection.recv(1)  # until the client goes away
        self.close_connection = True

    def do_POST(self) -> None:
        parts, body = self.note(), self.body()
        match parts:
            case ["api", "validate-yaml"]:
                if self.hub.refusal:
                    self.reply(400, self.hub.refusal.encode())
                else:
                    self.reply_json({"errors": [], "warnings": []})
            case ["api", "repos", "create"] if self.allowed(write=True):
                self.create(json.loads(body))
            case ["api", "models", _, _, "preupload", _] if self.allowed(write=True):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] >= LFS_FROM else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self.reply_json({"files": files})
            case [_, _, "info", "lfs", "objects", "batch"] if self.allowed(write=True):
                self.reply_json({"transfer": "basic", "objects": self.batch(json.loads(body))})
            case ["api", "models", owner, name, "commit", _] if self.allowed(write=True):
                self.commit(f"{owner}/{name}", body)
            case ["api", *_] | [_, _, "info", *_]:
                pass  # refused already

    def create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        if repository in self.hub.models:
            self.reply(409, json.dumps({"url": self.url(repository)}).encode())
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.models[repository] = Repository(private)
        self.reply_json({"url": self.url(repository)})

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{path}"

    def batch(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        objects = []
        for item in asked["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.lfs:
                entry["actions"] = {"upload": {"href": self.url(f"lfs/{item['oid']}")}}
            objects.append(entry)
        return objects

    def commit(self, repository: str, body: bytes) -> None:
        model = self.hub.models[repository]
        files = dict(model.files)
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.lfs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = model.commit(files)
        self.reply_json({"commitUrl": self.url(f"{repository}/commit/{oid}"), "commitOid": oid})

    def do_PUT(self) -> None:
        parts, content = self.note(), self.body()
        assert hashlib.sha256(content).hexdigest() == parts[-1]
        self.hub.lfs[parts[-1]] = content
        self.reply(200)


@contextmanager
def running(hub: Hub) -> Iterator[str]:
    """The stand-in's address, while the block runs."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub, "timeout": 600})
    )
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(address: str, home: Path) -> dict[str, str]:
    """Of a process that takes the stand-in for the Hub; without a token."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **mine,
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "600",  # seconds; 10 by default, too few on a busy machine
        "HF_HUB_ETAG_TIMEOUT": "600",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
