"""Who may use the studio's page, how much may be sent, and what is kept."""

import asyncio
import os
import shutil
import socket
import time

import pytest

from slotworks.studio import guard as guards
from slotworks.studio.guard import Guard, prune
from slotworks.studio.page import without_folders

TOKEN = "the-right-token"
HOST = "127.0.0.1:7860"


async def nowhere(scope, receive, send):
    raise AssertionError(scope)


def call(guard: Guard, path: str = "/", *, kind: str = "http", method: str = "GET", query: str = "", **headers: str):
    """Status, headers and whether the request reached the page."""
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    guard.app = app
    given = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": kind, "path": path, "query_string": query.encode(), "method": method}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    asyncio.run(guard(scope, receive, send))
    answer = dict(sent[0].get("headers", ()))
    return sent[0].get("status", sent[0]["type"]), answer, bool(reached)


@pytest.fixture
def guard(tmp_path) -> Guard:
    return Guard(nowhere, host="127.0.0.1", port=7860, folder=tmp_path, token=TOKEN)


COOKIE = f"a=b; slotworks-studio-7860={TOKEN}; c"


def test_the_token_lets_in_and_becomes_a_cookie(guard):
    status, headers, reached = call(guard, query=f"token={TOKEN}&__theme=dark")
    assert (status, headers[b"location"], reached) == (303, b"/?__theme=dark", False)
    name, _, rest = headers[b"set-cookie"].decode().partition("=")
    assert rest == f"{TOKEN}; HttpOnly; SameSite=Lax; Path=/"
    status, headers, reached = call(guard, cookie=f"{name}={TOKEN}")
    assert (status, reached) == (200, True)
    assert headers[b"x-frame-options"] == b"DENY"
    assert call(guard, "/gradio_api/info", query=f"token={TOKEN}")[2]  # a program may send it with each request


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"cookie": "slotworks-studio-7860="},
        {"cookie": f"slotworks-studio-7861={TOKEN}"},
        {"cookie": "slotworks-studio-7860=wrong-token"},
        {"cookie": COOKIE, "host": "evil.example"},
        {"cookie": COOKIE, "host": "evil.example:7860", "origin": "http://evil.example:7860"},
        {"cookie": COOKIE, "host": "localhost.evil.example"},
        {"cookie": COOKIE, "host": "192.168.1.5:7860"},
        {"cookie": COOKIE, "host": ""},
        {"cookie": COOKIE, "origin": "http://evil.example"},
        {"cookie": COOKIE, "origin": "http://127.0.0.1:8000"},
        {"cookie": COOKIE, "origin": "null"},
        {"cookie": COOKIE, "sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    ],
)
def test_everybody_else_is_refused(guard, kind, headers):
    for path in (
        "/",
        "/config",
        "/gradio_api/queue/join",
        "/gradio_api/queue/data",
        "/gradio_api/upload",
        "/assets/x.js",
    ):
        status, _, reached = call(guard, path, kind=kind, method="POST", **headers)
        assert not reached
        assert status == (403 if kind == "http" else "websocket.close")


@pytest.mark.parametrize("query", ["token=wrong-token", "token=", "token=%ff%fe", "token=the-right-token0"])
def test_a_wrong_token_is_refused(guard, query):
    assert call(guard, query=query)[::2] == (403, False)


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:9000", "[::1]:7860", "LOCALHOST"])
def test_names_of_this_computer(guard, host):
    assert call(guard, cookie=COOKIE, host=host, origin=f"http://{host}")[::2] == (200, True)


def test_other_computers_name_this_one_by_its_address(tmp_path):
    guard = Guard(nowhere, host="0.0.0.0", port=7860, folder=tmp_path, token=TOKEN)
    for host in ("192.168.1.5:7860", "127.0.0.1:7860", socket.gethostname(), f"{socket.gethostname()}:7860"):
        assert call(guard, cookie=COOKIE, host=host)[::2] == (200, True)
        assert call(guard, host=host)[::2] == (403, False)
    assert call(guard, cookie=COOKIE, host="evil.example:7860")[::2] == (403, False)


def test_tokens_are_random(tmp_path):
    tokens = {Guard(nowhere, host="::1", port=1, folder=tmp_path).token for _ in range(3)}
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize(
    ("length", "status"),
    [
        ({}, 411),
        ({"content_length": "x"}, 411),
        ({"content_length": str((64 << 20) + 1)}, 413),
        ({"content_length": "9"}, 200),
    ],
)
def test_uploads_state_their_length_within_bounds(guard, length, status):
    given = call(guard, "/gradio_api/upload", method="POST", cookie=COOKIE, **length)
    assert given[::2] == (status, status == 200)


def test_a_few_uploads_at_a_time(guard):
    """32 at once: all are taken, four of them at the same time."""
    now, most, done = 0, 0, []

    async def app(scope, receive, send):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        done.append(scope)

    async def both() -> None:
        headers = [(b"host", HOST.encode()), (b"cookie", COOKIE.encode()), (b"content-length", b"9")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/gradio_api/upload",
            "query_string": b"",
            "headers": headers,
        }
        await asyncio.gather(*(guard(scope, nowhere, nowhere) for _ in range(32)))

    guard.app = app
    asyncio.run(both())
    assert (len(done), most) == (32, guards.AT_ONCE)


UPLOAD = {"method": "POST", "cookie": COOKIE, "content_length": "9"}


def test_an_upload_without_room_is_refused(guard, monkeypatch):
    usage = shutil._ntuple_diskusage(100, 92, 8)
    monkeypatch.setattr(guards.shutil, "disk_usage", lambda path: usage)
    status, _, reached = call(guard, "/gradio_api/upload", **UPLOAD)
    assert (status, reached) == (507, False)
    assert call(guard, "/gradio_api/upload", **UPLOAD | {"content_length": "8"})[0] == 200
    guard.coming.append(1)
    assert call(guard, "/gradio_api/upload", **UPLOAD | {"content_length": "8"})[0] == 507


@pytest.mark.parametrize("others", [0, 1])
def test_a_disk_that_fills_up_during_an_upload(guard, tmp_path, others):
    """A sentence in the place of the page's own answer; half a file goes where no other is coming."""
    guard.coming += [5] * others
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "cat.png").touch()
    sent = []

    async def app(scope, receive, send):
        (tmp_path / "tmpx").write_bytes(b"half")
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise OSError(28, "No space left on device")

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    guard.app = app
    asyncio.run(guard._receive({"type": "http"}, receive, send, 9))
    assert [message["status"] for message in sent if "status" in message] == [507]
    assert b"refused the upload (No space left on device); make room there." in sent[1]["body"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.png", *["tmpx"] * others, "whole"]
    assert len(guard.coming) == others


def test_an_upload_that_is_broken_off_is_no_error_and_leaves_nothing(guard, tmp_path):
    async def app(scope, receive, send):
        (tmp_path / "tmpx").write_bytes(b"half")
        await receive()

    async def gone():
        return {"type": "http.disconnect"}

    guard.app = app
    asyncio.run(guard._receive({"type": "http"}, gone, nowhere, 9))
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_bounded(tmp_path):
    for k in range(10):
        file = tmp_path / f"{k:02d}" / "cat.png"
        file.parent.mkdir()
        file.write_bytes(bytes(100))
        os.utime(file, (time.time() - 100 * (10 - k),) * 2)

    def left() -> list[str]:
        return sorted(path.parent.name for path in tmp_path.rglob("*.png"))

    prune(tmp_path, max_age=750.0)
    assert left() == ["03", "04", "05", "06", "07", "08", "09"]
    prune(tmp_path, max_bytes=500)
    assert left() == ["05", "06", "07", "08", "09"]
    prune(tmp_path, max_files=2)
    assert left() == ["08", "09"]
    outside = tmp_path.parent / "outside"
    outside.mkdir()
    (outside / "mine.png").touch()
    (tmp_path / "link").symlink_to(outside)
    prune(tmp_path, max_age=-1.0)
    assert left() == []
    assert (outside / "mine.png").exists()


def test_messages_name_no_folder():
    text = "/t/x/files/09af/my cat.png cannot be read as a picture ([Errno 2] '/t/x/files/09af/my cat.png')."
    assert without_folders(text, "/t/x/files") == "my cat.png cannot be read as a picture ([Errno 2] 'my cat.png')."
    assert without_folders("data/cat.png", "/t/x/files") == "data/cat.png"
