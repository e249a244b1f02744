"""`slotworks data list | prepare | check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks.cli.console import out, parse, print_json
from slotworks.types import UserError

HELP = """usage: slotworks data list | prepare NAME | check ROOT

  slotworks data list                                            size, licence, splits, what background means
  slotworks data prepare tetrominoes --root data/tetrominoes     official file to a memory-mapped store; resumes
  slotworks data check data/tetrominoes                          which file is missing or damaged, and where it comes
  from

`slotworks data prepare --help` and so on show the options."""


def main(argv: Sequence[str]) -> int:
    """Choose the action."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    actions = {"list": list_data, "prepare": prepare, "check": check}
    if argv[0] not in actions:
        raise UserError(f"There is no action {argv[0]!r}; expected list, prepare or check.")
    return parse(actions[argv[0]], argv[1:], verb=f"data {argv[0]}") or 0


def list_data(json: bool = False) -> int:
    """List the data sets.

    Args:
        json: print the rows as JSON.
    """
    from slotworks.data import catalog

    rows = catalog.list_rows()
    if json:
        print_json([{k: v for k, v in vars(row).items() if k != "config"} for row in rows])
        return 0
    for group in _groups(rows):
        first = group[0]
        out.print(f"[bold]{', '.join(row.name for row in group)}[/bold]", soft_wrap=True)
        for label, text in (
            ("size", f"{first.download} to download, {first.disk} prepared"),
            ("splits", first.splits),
            ("background", first.background),
            ("overlaps", first.overlaps),
            ("licence", first.licence),
            ("from", " ".join(dict.fromkeys(row.origin for row in group))),
        ):
            out.print(f"  {label:<11}{text}", soft_wrap=True, markup=False)
    out.print("Drawn scenes need no files: see the recipes that end in _mini.", style="dim")
    return 0


def _groups(rows: Sequence) -> list[list]:
    """Variants that differ in nothing but their name and origin, together."""
    groups: dict[tuple, list] = {}
    for row in rows:
        key = (row.folder, row.download, row.disk, row.splits, row.background)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def prepare(name: Annotated[str, tyro.conf.Positional], /, root: Path | None = None, json: bool = False) -> int:
    """Turn official files into a memory-mapped store. Killed and started again, it goes on where it was.

    Examples:
      slotworks data prepare tetrominoes --root data/tetrominoes

    Args:
        name: as `slotworks data list` prints it.
        root: folder of the official files; default data/NAME.
        json: print the store's path as JSON.
    """
    from slotworks.data import catalog

    path = catalog.prepare(name, root=root)
    print_json({"prepared": str(path)}) if json else out.print(f"Prepared: {path}", soft_wrap=True)
    return 0


def check(root: Annotated[Path, tyro.conf.Positional], /, name: str | None = None, json: bool = False) -> int:
    """Say which file below a folder is missing or damaged and where it comes from. Exit code 1 if any is.

    Examples:
      slotworks data check data/tetrominoes

    Args:
        root: folder of the data set.
        name: as `slotworks data list` prints it; default: whatever is recognised.
        json: print the findings as JSON.
    """
    from slotworks.data import catalog

    findings = catalog.check(root, name)
    if json:
        print_json([{**vars(finding), "path": str(finding.path)} for finding in findings])
    else:
        for finding in findings:
            color = "green" if finding.status == "ok" else "red"
            out.print(f"[{color}]{finding.status}[/{color}] {finding.message}", soft_wrap=True)
    return 1 if any(finding.status != "ok" for finding in findings) else 0
