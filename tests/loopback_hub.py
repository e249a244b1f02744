"""A Hugging Face hub on this machine, as far as its client asks: repositories, commits, files, refusals."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories by name, each a list of commits, each a mapping of files."""

    def __init__(self):
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.gated: set[str] = set()
        self.cut: set[str] = set()  # files of which only half is sent
        self.asked: list[str] = []
        self.private: dict[str, bool] = {}
        self.address = ""
        self.at = lambda place: None  # where the client looks from now on

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """A new commit with these files beside the older ones; its name."""
        older = self.repos[repo][-1][1] if self.repos.get(repo) else {}
        oid = hashlib.sha1(repr((repo, len(self.repos.get(repo, [])), sorted(files))).encode()).hexdigest()
        self.repos.setdefault(repo, []).append((oid, {**older, **files}))
        return oid

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision: `main` is the last one."""
        commits = self.repos.get(repo, [])
        return commits[-1] if revision == "main" and commits else next((c for c in commits if c[0] == revision), None)


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of a server that answers for a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            hub.asked.append(f"{self.command} {self.path}")

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def say(self, status: int, content: object, **headers: str) -> None:
            self.answer(status, json.dumps(content).encode(), Content_Type="application/json", **headers)

        def refuse(self, status: int, code: str) -> None:
            self.say(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path)
            if not found:
                return self.refuse(404, "NotFound")
            repo, revision, name = found.groups()
            if repo in hub.gated:
                return self.refuse(403, "GatedRepo")
            if repo not in hub.repos:
                return self.refuse(401, "RepoNotFound")
            commit = hub.find(repo, revision)
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            oid, files = commit
            if name not in files:
                return self.refuse(404, "EntryNotFound")
            body = files[name]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X_Repo_Commit": oid}
            if name in hub.cut and self.command == "GET":
                self.close_connection = True
                return self.answer(200, body[: len(body) // 2], **headers, **{"Content-Length": str(len(body))})
            return self.answer(200, body, **headers)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != "Bearer hf_me":
                return self.refuse(401, "Unauthorized")
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if repo in hub.repos:
                    return self.say(409, {"url": f"{address}/{repo}", "error": "exists"})
                hub.repos[repo] = []
                hub.private[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
                return self.say(200, {"url": f"{address}/{repo}", "id": repo, "name": repo})
            if self.path == "/api/validate-yaml":
                return self.say(200, {"errors": [], "warnings": []})
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main(\?.*)?", self.path)
            if not found:
                return self.refuse(404, "NotFound")
            if found[2] == "preupload":
                files = [one["path"] for one in json.loads(body)["files"]]
                return self.say(
                    200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
                )
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            oid = hub.commit(found[1], files)
            return self.say(200, {"commitUrl": f"{address}/{found[1]}/commit/{oid}", "commitOid": oid})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
