"""`slotworks doctor`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.markup import escape

from slotworks.cli.console import out, parse, print_json
from slotworks.cli.runs import run_of

COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    return parse(doctor, argv, verb="doctor")


def doctor(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    images: int = 320,
    split: Literal["train", "val", "test"] | None = None,
    out_folder: Annotated[Path | None, tyro.conf.arg(name="out")] = None,
    module: Path | None = None,
    json: bool = False,
) -> int:
    """Look for stripes, one slot that takes all, split backgrounds, uniform attention, dead slots; name the likely fix.

    Exit code 1 if something is wrong, 0 if the run is healthy.

    Examples:
      slotworks doctor runs/slot_attention.tetrominoes_mini

    Args:
        run: run folder.
        images: how many images to look at.
        split: train, val or test; by default that of the recipe (eval_split).
        out_folder: folder for eval/doctor.json in place of the run folder.
        module: Python file that defines the run's own classes.
        json: print the findings as JSON.
    """
    from slotworks import api
    from slotworks.parts import import_file

    if module:
        import_file(module)
    findings = api.examine(run_of(run), split=split, num_images=images, out=out_folder)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            color = COLORS[finding.severity]
            out.print(
                f"[{color}]{finding.name.replace('_', ' ')}[/{color}]: {escape(finding.evidence)}", soft_wrap=True
            )
            if finding.fix:
                out.print(f"    {finding.fix}", soft_wrap=True, markup=False)
    return 1 if any(finding.severity == "problem" for finding in findings) else 0
