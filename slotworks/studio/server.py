"""The page on an address of this computer, guarded, with uploads in a folder of its own that ends with it."""

import atexit
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from slotworks.errors import UserError, needs_extra
from slotworks.files import locked
from slotworks.studio.guard import MAX_AGE, MAX_UPLOAD, Guard, is_local, prune
from slotworks.studio.page import CSS, KEYS, build_page
from slotworks.studio.views import Studio

FIRST_PORT, PORTS = 7860, 100
FOLDER = "slotworks-studio-"
"""How the names of folders with uploads begin, below that for temporary files."""


class Server:
    """The studio's page, served until `close`.

    Args:
        studios: what the page shows, a tab for each.
        host: address to listen on; others than this computer's own let other computers in.
        port: by default the first free one from 7860.

    Raises:
        UserError: if the address cannot be listened on, or `gradio` is not installed.
    """

    def __init__(self, studios: Studio | Sequence[Studio], *, host: str = "127.0.0.1", port: int | None = None):
        with needs_extra("studio"):
            import gradio
            import uvicorn
            from fastapi import FastAPI
        listening = _listen(host, port)
        self.port: int = listening.getsockname()[1]
        remove_left()
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER)).resolve()  # for this user alone
        self._lock = ExitStack()
        self._lock.enter_context(locked(self.folder, doing="serving a page"))
        uploads = self.folder / "files"
        uploads.mkdir()
        self._before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        atexit.register(self.close)
        app = gradio.mount_gradio_app(
            FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            build_page([studios] if isinstance(studios, Studio) else studios),
            path="/",
            server_name=host,
            server_port=self.port,
            footer_links=[],
            run_history=False,
            max_file_size=MAX_UPLOAD,
            show_error=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            head=KEYS,
            css=CSS,
        )
        self.guard = Guard(app, host=host, port=self.port, folder=uploads)
        config = uvicorn.Config(self.guard, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        self._ended = threading.Event()
        threading.Thread(target=self._tidy, args=(uploads,), daemon=True).start()
        shown = host if is_local(host) or host not in ("0.0.0.0", "::", "[::]") else socket.gethostname()
        shown = f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
        self.address = f"http://{shown}:{self.port}/?token={self.guard.token}"
        while not self._server.started:
            if not self._thread.is_alive():
                self.close()
                raise UserError(f"The page at {host}, port {self.port}, ended at once; see the lines above.")
            time.sleep(0.01)

    def _tidy(self, uploads: Path) -> None:
        while not self._ended.wait(MAX_AGE / 60):
            prune(uploads)

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """End the page and delete what was uploaded. Does nothing the second time."""
        atexit.unregister(self.close)
        if not self.folder.exists():
            return
        if hasattr(self, "_server"):
            self._server.should_exit = True
            self._thread.join(10)
            self._ended.set()
        if self._before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = self._before
        shutil.rmtree(self.folder / "files", ignore_errors=True)
        self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_left() -> None:
    """Delete the uploads of studios of this user that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with locked(folder, doing="serving a page"):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, AttributeError, UserError):  # somebody else's, or in use; Windows knows no owner
            continue


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens on the port, or on the first free one.

    Raises:
        UserError: if there is none.
    """
    reason: Exception | None = None
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host.strip("[]"), candidate), family=family)
        except (OSError, OverflowError) as error:
            reason = error
    raise UserError(f"The page cannot be served at {host}, port {port or FIRST_PORT}: {reason}; choose another.")
