"""`slotworks report`."""

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks.cli.console import out, parse, print_json
from slotworks.cli.runs import run_of


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(report, argv, verb="report")
    return 0


def report(run: Annotated[Path, tyro.conf.Positional], /, open: bool = False, json: bool = False) -> None:
    """Write RUN/report.html: pictures, curves, scores with their protocol, worst cases first, settings, verdict.

    Of a folder of several seeds it writes the page of each, and one with their mean and spread.

    Examples:
      slotworks report runs/slot_attention.tetrominoes_mini --open

    Args:
        run: run folder, or the folder of `slotworks train --seeds`.
        open: show the page in a browser.
        json: print the path as JSON.
    """
    from slotworks.files import seed_folders
    from slotworks.reports import write_report
    from slotworks.reports.seeds import write_seeds_report

    folder = run_of(run)
    path = write_report(folder) if seed_folders(folder) == [folder] else write_seeds_report(folder)
    print_json({"report": str(path)}) if json else out.print(str(path), soft_wrap=True, markup=False)
    if open:
        webbrowser.open(path.resolve().as_uri())
