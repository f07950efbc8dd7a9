"""A Hub on the loopback: enough of its HTTP API for huggingface_hub to push to and for datasets to load from.

Repositories live in memory, with real git and LFS hashes. `faults` break requests on purpose; `log` keeps them all.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".parquet", ".safetensors", ".bin")
WRITERS = {"hf_writer": "me"}
"""Token -> the one namespace that it may write to."""


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        stored = f"oid sha256:{self.sha256}\nsize {len(self.content)}\n".encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        found = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return found | ({"lfs": lfs} if self.lfs else {})


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    """By sha, in order."""
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({".gitattributes": Blob(b"*.parquet filter=lfs\n", False)})

    @property
    def head(self) -> str:
        return self.branches["main"]

    @property
    def files(self) -> dict[str, Blob]:
        return self.commits[self.head]

    def commit(self, files: dict[str, Blob], branch: str = "main", message: str = "") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.branches[branch] = files, message, sha
        return sha

    def at(self, revision: str) -> str | None:
        sha = (self.branches | self.tags).get(revision, revision)
        return sha if sha in self.commits else None


@dataclass
class Fault:
    """Breaks the requests that match, after letting `skip` of them through, `times` times."""

    method: str
    path: str
    status: int
    """HTTP status, or 0 to cut the connection in the middle of the request."""
    skip: int = 0
    times: int = 1000

    def hits(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path):
            return False
        self.skip, let_through = self.skip - 1, self.skip > 0
        if let_through or self.times <= 0:
            return False
        self.times -= 1
        return True


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.kill: Callable[[bool], bool] = lambda answered: False
        """Asked before a request is done (false) and after (true); says whether its client has been killed."""
        self.spoil: Callable[[bytes], bytes] = lambda content: content
        """What becomes of a large file on its way into a commit."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def sent(self) -> list[str]:
        """Hashes of the large files that were uploaded, in order."""
        return [path.rpartition("/")[2] for method, path in self.log if method == "PUT" and path.startswith("/lfs/")]


@contextmanager
def running() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.server.log.append((self.command, path))
        if self.server.kill(False):
            self.close_connection = True
            return
        fault = next((fault for fault in self.server.faults if fault.hits(self.command, path)), None)
        if fault is not None and fault.status == 0:
            self.rfile.read(min(100, int(self.headers.get("Content-Length") or 0)))
            self.connection.close()
            self.close_connection = True
            return
        self.body = self._read_body()
        try:
            if fault is not None:
                raise Refused(fault.status, "on purpose")
            answer = self._route(path)
        except Refused as refused:
            message = json.dumps({"error": str(refused), **refused.more}).encode()
            answer = refused.status, message, {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
        if self.server.kill(True):
            self.close_connection = True
            return
        self._answer(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        ours = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (ours | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _namespace(self) -> str | None:
        """Whom the token lets write; None without one. A wrong token is refused even where none is needed."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        token = header.removeprefix("Bearer ")
        if token not in WRITERS:
            raise Refused(401, "Invalid credentials in Authorization header")
        return WRITERS[token]

    def _repo(self, kind: str, name: str, *, write: bool = False) -> Repo:
        namespace = self._namespace()
        repo = self.server.repos.get((kind, name))
        if write and namespace is None:
            raise Refused(401, "Invalid username or password.")
        if repo is None or (repo.private and namespace != name.partition("/")[0]):
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and namespace != name.partition("/")[0]:
            raise Refused(403, "You don't have write access")
        return repo

    def _route(self, path: str) -> tuple[Any, ...]:
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/validate-yaml":
            return self._validate_card()
        if path.startswith("/lfs/"):
            return self._store(path.rpartition("/")[2])
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._repo("dataset" if match[1] else "model", match[2], write=True)
            return self._batch()
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(self._repo("dataset" if match[1] else "model", match[2]), match[3], match[4])
        if match := re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+)(?:/(.*))?)?)?", path):
            kind, name, verb, revision, rest = match.groups()
            repo = self._repo(kind, name, write=self.command != "GET" and verb != "paths-info")
            if verb in (None, "revision"):
                return self._info(kind, name, repo, revision or "main")
            if verb == "refs":
                tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": c} for t, c in repo.tags.items()]
                heads = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c} for b, c in repo.branches.items()]
                return 200, {"branches": heads, "converts": [], "tags": tags}
            if verb == "settings":
                repo.private = json.loads(self.body)["visibility"] == "private"
                return 200, {}
            if verb == "branch":
                return self._branch(repo, revision)
            sha = repo.at(revision or "main")
            if sha is None or (verb == "commit" and revision not in repo.branches):
                raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if verb == "tree":
                return self._tree(repo.commits[sha], rest or "")
            if verb == "paths-info":
                wanted = self._form().get("paths", [])
                return 200, [b.entry(p) for p, b in repo.commits[sha].items() if p in wanted]
            if verb == "preupload":
                return self._preupload(repo.commits[sha])
            if verb == "commit":
                return self._commit(repo, revision, self._url(kind, name))
            if verb == "tag":
                return self._tag(repo, sha)
        raise Refused(404, f"no such page: {path}", "EntryNotFound")

    def _form(self) -> dict[str, Any]:
        if "json" in (self.headers.get("Content-Type") or ""):
            return json.loads(self.body)
        return parse_qs(self.body.decode())

    def _create(self) -> tuple[Any, ...]:
        wanted = json.loads(self.body)
        kind, name = wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}"
        namespace = self._namespace()
        if namespace is None:
            raise Refused(401, "Invalid username or password.")
        if namespace != wanted["organization"]:
            raise Refused(403, "You don't have the rights to create a repo under this namespace")
        url = self._url(kind, name)
        if (kind, name) in self.server.repos:
            raise Refused(409, "You already created this repo", url=url)
        self.server.repos[kind, name] = Repo(private=wanted.get("visibility") == "private")
        return 200, {"url": url, "name": name}

    def _url(self, kind: str, name: str) -> str:
        return f"{self.server.url}/{'datasets/' * (kind == 'dataset')}{name}"

    def _validate_card(self) -> tuple[Any, ...]:
        wanted = json.loads(self.body)
        try:
            data = yaml.safe_load(wanted["content"].split("---\n")[1])
            sizes = data.get("size_categories", ["n<1K"]) if isinstance(data, dict) else [""]
            valid = all(re.fullmatch(r"n<1K|\d+[KMBT]<n<\d+[KMBT]|n>1T", size) for size in sizes)
            errors = [] if valid else ["size_categories"]
        except (yaml.YAMLError, IndexError) as error:
            errors = [str(error)]
        return (400 if errors else 200), {"errors": [{"message": e} for e in errors], "warnings": []}

    def _info(self, kind: str, name: str, repo: Repo, revision: str) -> tuple[Any, ...]:
        sha = repo.at(revision)
        if sha is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        info = {"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": [], "downloads": 0}
        card = repo.commits[sha].get("README.md")
        if card is not None:
            info["cardData"] = yaml.safe_load(card.content.decode().split("---\n")[1])
        return 200, info

    def _tree(self, files: dict[str, Blob], folder: str) -> tuple[Any, ...]:
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        if not inside:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = [b.entry(p) for p, b in sorted(inside.items()) if recursive or "/" not in p.removeprefix(prefix)]
        folders = {path[:i] for path in inside for i, c in enumerate(path) if c == "/" and i > len(prefix)}
        folders = {f for f in folders if recursive or "/" not in f.removeprefix(prefix)}
        return 200, [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)] + entries

    def _preupload(self, files: dict[str, Blob]) -> tuple[Any, ...]:
        answers = []
        for file in json.loads(self.body)["files"]:
            there = files.get(file["path"])
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            answers.append(answer | ({"oid": there.sha256 if there.lfs else there.oid} if there else {}))
        return 200, {"files": answers}

    def _batch(self) -> tuple[Any, ...]:
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
            there = wanted["oid"] in self.server.large
            answers.append({"oid": wanted["oid"], "size": wanted["size"]} | ({} if there else {"actions": upload}))
        return 200, {"transfer": "basic", "objects": answers}

    def _store(self, oid: str) -> tuple[Any, ...]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "not the content that was announced")
        self.server.large[oid] = self.body
        return 200, b""

    def _branch(self, repo: Repo, branch: str) -> tuple[Any, ...]:
        if self.command == "DELETE":
            if branch == "main" or branch not in repo.branches:
                raise Refused(403 if branch == "main" else 404, f"{branch} cannot be deleted")
            del repo.branches[branch]
            return 200, {}
        start = repo.at(json.loads(self.body).get("startingPoint", "main"))
        if branch in repo.branches or start is None:
            raise Refused(404 if start is None else 409, f"Reference {branch} already exists, or no starting point")
        repo.branches[branch] = start
        return 200, {}

    def _commit(self, repo: Repo, branch: str, url: str) -> tuple[Any, ...]:
        head = repo.branches[branch]
        files, message = dict(repo.commits[head]), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "header":
                    if value.get("parentCommit") not in (None, head):
                        raise Refused(412, "A commit has happened since")
                    message = f"{value['summary']}\n\n{value['description']}"
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    if value["oid"] not in self.server.large:
                        raise Refused(400, f"{value['path']}: no such large file")
                    files[value["path"]] = Blob(self.server.spoil(self.server.large[value["oid"]]), True)
                case "deletedFile":
                    if value["path"] not in files:
                        raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                    del files[value["path"]]
        sha = repo.commit(files, branch, message)
        return 200, {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha}

    def _tag(self, repo: Repo, sha: str) -> tuple[Any, ...]:
        tag = json.loads(self.body)["tag"]
        if tag in repo.tags:
            raise Refused(409, f"Tag {tag} already exists")
        repo.tags[tag] = sha
        return 200, {}

    def _resolve(self, repo: Repo, revision: str, path: str) -> tuple[Any, ...]:
        sha = repo.at(revision)
        blob = repo.commits[sha].get(path) if sha else None
        if sha is None or blob is None:
            raise Refused(404, f"no {path} at {revision}", "EntryNotFound" if sha else "RevisionNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.sha256 if blob.lfs else blob.oid}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return 200, blob.content, headers
        start, end = int(wanted[1]), int(wanted[2] or len(blob.content) - 1)
        part = blob.content[start : end + 1]
        span = f"bytes {start}-{start + len(part) - 1}/{len(blob.content)}"
        return 206, part, headers | {"Content-Range": span}
