"""`slotworks compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.markup import escape
from rich.table import Table

from slotworks.cli.console import err, out, parse, print_json, short_names
from slotworks.cli.runs import run_of


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(compare, argv, verb="compare")
    return 0


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    /,
    data: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    metric: tuple[str, ...] = (),
    confidence: float = 0.95,
    seed: int = 0,
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("comparison"),
    json: bool = False,
) -> None:
    """Compare runs that were evaluated: mean and spread over seeds, and the difference from the first run.

    Nothing is computed anew: the records of `slotworks evaluate` are read, of which all runs must have some of the same
    pictures by the same rules. A folder of seeds, as `slotworks train --seeds` makes, counts as one run. The interval
    of a difference is a paired bootstrap over images of the means over seeds. Writes OUT/table.md, table.tex,
    table.json and plot.png.

    Examples:
      slotworks compare runs/dinosaur.scenes_mini runs/slate.scenes_mini
      slotworks compare RUN_A RUN_B --protocol oclf --metric fg_ari mbo_i --out comparison

    Args:
        runs: run folders, or folders of seeds; the first is what the others are compared with. One folder of seeds
            alone gives their mean and spread.
        data: only records of this data set; by default all that every run has.
        split: only records of this split.
        protocol: only records under this protocol.
        metric: only these metrics, by their names in the records, such as fg_ari.
        confidence: of the intervals.
        seed: of the bootstrap.
        out_folder: folder for the tables and the picture.
        json: print what stands in table.json.
    """
    from slotworks.ranges import check_options
    from slotworks.reports import compare as report
    from slotworks.reports.seeds import read_entry

    check_options(seed=seed)
    entries = [read_entry(run_of(run), str(run)) for run in runs]
    how: Any = {"metrics": metric, "confidence": confidence, "seed": seed}
    found = report.compare(entries, data=data, split=split, protocol=protocol, **how)
    names = short_names([entry.name for entry in entries])
    written = report.write_comparison(found, out_folder, names)
    if json:
        print_json(found)
        return
    for one in found:
        head, rows, apart = report.cells(one, names)
        titles, *lines = zip(head, *rows, *apart, strict=True)  # a line for each metric: there are more of them
        table = Table(title=escape(report.about(one)), title_justify="left")
        for column, title in enumerate(titles):
            table.add_column(escape(title), justify="right" if column else "left")
        for line in lines:
            table.add_row(*map(escape, line))
        out.print(table)
        out.print(report.legend(one), style="dim", soft_wrap=True, markup=False)
        out.print(one["rules"], style="dim", soft_wrap=True, markup=False)
        for note in one["notes"]:
            err.print(note, soft_wrap=True, markup=False)
    err.print("Wrote " + ", ".join(str(path) for path in written), soft_wrap=True, highlight=False, markup=False)
