"""`slotworks studio`."""

import signal
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks.cli.console import err, out, parse
from slotworks.cli.runs import run_of


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(studio, argv, verb="studio")
    return 0


def studio(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    /,
    port: int | None = None,
    host: str = "127.0.0.1",
    open: bool = False,
    device: str | None = None,
    module: Path | None = None,
) -> None:
    """Edit pictures in a browser: click objects, take them out, bring them in from a second picture, exchange them.

    Without a run it opens one that comes along: GLASS on painted scenes, or Slot Attention without the extra
    `diffusion`. Runs that draw no pictures show their slots, and how alike those of two pictures are; runs of videos
    their tracks. Needs the extra `studio`. The page is served until Ctrl-C, by default to this computer alone. The
    printed address holds a token: who has it can use the page. Uploads are deleted at the end, the oldest earlier.

    Examples:
      slotworks studio --open                      nothing of one's own is needed
      slotworks studio runs/slot_attention.tetrominoes_mini --open
      slotworks studio RUN_A RUN_B                 a tab for each
      slotworks studio RUN --port 8000 --device cuda:0

    Args:
        runs: run folders, one or several; by default one of the zoo.
        port: of the page; by default the first free one from 7860.
        host: address that is listened on; 0.0.0.0 lets other computers in that have the token.
        open: show the page in a browser.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        module: Python file that defines the run's own classes.
    """
    from slotworks import api
    from slotworks.parts import import_file
    from slotworks.ranges import check_options
    from slotworks.studio.guard import is_local

    if module:
        import_file(module)
    check_options(port=port)
    page = api.studio(*map(run_of, runs), device=device, host=host, port=port)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uploads are deleted then, too
        if not is_local(host):
            err.print(
                f"The page listens on {host}: whoever on this network has the address with its token can use it, and "
                "what is sent can be read on the way.",
                soft_wrap=True,
                markup=False,
            )
        out.print(f"{page.address}  (Ctrl-C ends it)", soft_wrap=True, markup=False)
        if open:
            webbrowser.open(page.address)
        page.wait()
    finally:
        page.close()
