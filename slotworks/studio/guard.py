"""Who may use the page: the one that knows the token, from the page itself. And how much may be sent.

A page in a browser can send requests to any address, also to this computer's own; where a name that it controls is
pointed at this computer (DNS rebinding), it can read the answers, too. So every request, also those for files and of
the queue, has to name this computer as its host, come from this page if it comes from one, and carry the token, in its
address or in the cookie that follows. The token is a part of the address that `slotworks studio` prints.
"""

import asyncio
import ipaddress
import secrets
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from slotworks.ranges import whole_number

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_UPLOAD = 64 << 20
"""Bytes of one request."""
MAX_KEPT = 256 << 20
"""Bytes of all uploads and shown pictures together; the oldest go first."""
MAX_FILES = 512
MAX_AGE = 3600.0
"""Seconds that an upload or a shown picture is kept."""
AT_ONCE = 4
"""Uploads that are received at the same time; others wait."""
LINGER = 30.0
"""Seconds for which what comes of a refused upload is read and dropped."""


class _Gone(Exception):
    """Who was sending an upload closed the page: no error of the page."""


class Guard:
    """ASGI middleware around the whole page.

    Args:
        app: the page.
        host: address that is listened on.
        port: of the page.
        folder: where uploads are kept.
        token: by default a random one.
    """

    def __init__(self, app: App, *, host: str, port: int, folder: Path, token: str | None = None):
        self.app, self.host, self.folder = app, host.strip("[]").lower(), folder
        self.token = token or secrets.token_urlsafe(24)
        self.cookie = f"slotworks-studio-{port}"  # cookies do not tell ports of a host apart
        self.local = is_local(host)
        self.uploads = asyncio.Semaphore(AT_ONCE)
        self.coming: list[int] = []  # bytes of the uploads that are being received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused, hand the rest on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        given = query.pop("token", [""])[0]
        if not self._names_us(headers.get("host", "")):
            await _refuse(scope, send, 403, "This address does not belong to the studio; open the one that it printed.")
        elif not _same_origin(headers):
            await _refuse(scope, send, 403, "Requests from other pages are refused.")
        elif not (self._right(given) or self._right(_cookies(headers.get("cookie", "")).get(self.cookie, ""))):
            await _refuse(scope, send, 403, "Open the address that `slotworks studio` printed, with its token.")
        elif given and scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/":
            place = f"?{urlencode(query, doseq=True)}" if query else ""
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
            await _answer(send, 303, "", [("location", f"/{place}"), ("set-cookie", cookie)])
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            await self._upload(scope, receive, send, headers)
        else:
            await self.app(scope, receive, _with_headers(send))

    async def _upload(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        """Of a stated length within bounds, a few at a time, after making room."""
        length = headers.get("content-length", "")
        if whole_number(length) is None:
            await _refuse(scope, send, 411, "An upload has to state its length.", receive)
        elif int(length) > MAX_UPLOAD:
            size = f"{int(length) / 1e6:,.0f} MB"
            text = f"The upload has {size}; at most {MAX_UPLOAD / 1e6:,.0f} are taken."
            await _refuse(scope, send, 413, text, receive)
        else:
            async with self.uploads:
                await asyncio.to_thread(prune, self.folder)
                await self._receive(scope, receive, send, int(length))

    async def _receive(self, scope: Scope, receive: Receive, send: Send, length: int) -> None:
        """Hand an upload on where the disk has room for it; nothing is left of one that breaks off."""
        failed = False

        async def heard() -> MutableMapping[str, Any]:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            return message

        async def hold_back(message: MutableMapping[str, Any]) -> None:
            nonlocal failed
            failed = failed or message.get("status") == 500
            if not failed:
                await send(message)

        refusal = ""
        if length + sum(self.coming) > shutil.disk_usage(self.folder).free:
            refusal = "no space left on device"
        else:
            self.coming.append(length)
            try:
                await self.app(scope, heard, _with_headers(hold_back))
            except OSError as error:  # something else filled the disk meanwhile
                refusal = error.strerror or str(error)
            except _Gone:
                return
            finally:
                self.coming.remove(length)
                if not self.coming:  # what is whole lies in folders
                    for path in self.folder.iterdir():
                        with suppress(OSError):
                            path.unlink()
        if refusal:
            text = f"The disk of the computer that runs the studio refused the upload ({refusal}); make room there."
            await _refuse(scope, send, 507, text, receive)

    def _right(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def _names_us(self, host: str) -> bool:
        """Whether a `Host` can be this computer's: no name that others could point at it."""
        name = _host_name(host)
        if name == self.host or is_local(name):
            return True
        if self.local:
            return False
        return _is_address(name) or name in (socket.gethostname().lower(), socket.getfqdn().lower())


def is_local(host: str) -> bool:
    """Whether only this computer can use an address.

    >>> [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "localhost.evil.example")]
    [True, True, True, False, False]
    """
    name = host.strip("[]").lower()
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def prune(folder: Path, *, max_bytes: int = MAX_KEPT, max_files: int = MAX_FILES, max_age: float = MAX_AGE) -> None:
    """Delete files that are too old, and the oldest until what is left is within bounds."""
    found = []
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
            if path.is_dir() and not path.is_symlink():
                if time.time() - stat.st_mtime > 60:  # before that, a file may be about to come
                    path.rmdir()  # an empty one; others refuse
            else:
                found.append((stat.st_mtime, stat.st_size, path))
        except OSError:
            continue
    size, count, now = sum(entry[1] for entry in found), len(found), time.time()
    for changed, length, path in sorted(found):
        if now - changed > max_age or size > max_bytes or count > max_files:
            path.unlink(missing_ok=True)
            size, count = size - length, count - 1


def _same_origin(headers: dict[str, str]) -> bool:
    """Whether a request that says which page it comes from comes from ours."""
    origin = headers.get("origin")
    if origin is None:
        own = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        return own or headers.get("sec-fetch-mode") == "navigate"
    return origin.lower().partition("://")[2] == headers.get("host", "").lower()


def _host_name(host: str) -> str:
    """The name in `name:port` or `[address]:port`."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() and ":" in name else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookies(text: str) -> dict[str, str]:
    pairs = (part.strip().partition("=") for part in text.split(";"))
    return {name: value for name, _, value in pairs}


def _with_headers(send: Send) -> Send:
    """No other page may show this one in a frame, nor learn its address."""
    extra = [(b"x-frame-options", b"DENY"), (b"referrer-policy", b"same-origin")]

    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return wrapped


async def _refuse(scope: Scope, send: Send, status: int, text: str, receive: Receive | None = None) -> None:
    """Answer with a sentence. With `receive`, what still comes is read and dropped before the connection is closed.

    Who sends a body reads the answer only afterwards, browsers too; one that is cut off says "network error" at most.
    """
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": text})
    else:
        await _answer(send, status, text + "\n", [("connection", "close")], receive)


async def _answer(
    send: Send, status: int, text: str, headers: list[tuple[str, str]], receive: Receive | None = None
) -> None:
    body = text.encode()
    all_headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body))), *headers]
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in all_headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if receive:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
    await send({"type": "http.response.body", "body": b""})
