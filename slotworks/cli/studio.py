"""`slotworks studio`."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks.cli.console import out, parse
from slotworks.errors import Stopped, UserError


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(studio, argv, verb="studio")
    return 0


def studio(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    port: int | None = None,
    host: str = "127.0.0.1",
    open: bool = False,
    device: str | None = None,
    module: Path | None = None,
) -> None:
    """Edit pictures in a browser: click objects, take them out, bring them in from a second picture, exchange them.

    Needs the extra `studio`. The page is served until Ctrl-C, by default to this computer alone.

    Examples:
      slotworks studio runs/slot_attention.tetrominoes_mini --open
      slotworks studio RUN --port 8000 --device cuda:0

    Args:
        run: run folder of a method that renders pictures.
        port: of the page; by default the first free one from 7860.
        host: address that is listened on; 0.0.0.0 lets other computers in, who may then open files of their own.
        open: show the page in a browser.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        module: Python file that defines the run's own classes.
    """
    from slotworks import api
    from slotworks.configs import import_file
    from slotworks.ranges import check_options

    if module:
        import_file(module)
    check_options(port=port)
    page = api.studio(run, device=device)
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, inbrowser=open, share=False, quiet=True, prevent_thread_lock=True
        )
    except OSError as error:
        raise UserError(f"The page cannot be served at {host}, port {port or 7860}: {error}; choose another.") from None
    out.print(f"{address}  (Ctrl-C ends it)", soft_wrap=True, markup=False)
    page.block_thread()  # swallows the Ctrl-C that ends it
    raise Stopped(signal.SIGINT)
