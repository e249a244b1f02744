"""`slotworks doctor`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.markup import escape

from slotworks.cli.console import out, parse, print_json
from slotworks.cli.runs import run_of

if TYPE_CHECKING:
    from slotworks.evaluation.doctor import Finding

COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    return parse(doctor, argv, verb="doctor")


def doctor(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    data: str | None = None,
    root: Path | None = None,
    images: int = 320,
    split: Literal["train", "val", "test"] | None = None,
    set_fields: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    out_folder: Annotated[Path | None, tyro.conf.arg(name="out")] = None,
    module: Path | None = None,
    json: bool = False,
) -> int:
    """Look for stripes, one slot that takes all, split backgrounds, uniform attention, dead slots; name the likely fix.

    Of a folder of several seeds, as `slotworks train --seeds` makes, each is looked at, and what was found is counted:
    the share of seeds that give the background a slot of its own, for example. Exit code 1 if something is wrong with
    one, 0 if all are healthy.

    Examples:
      slotworks doctor runs/slot_attention.tetrominoes_mini
      slotworks doctor runs/slot_attention.clevr6_11 --data clevr10 --set method.test-iterations=5     of all seeds

    Args:
        run: run folder, or a folder of several seeds.
        data: another data set than the run's own, by name (`slotworks data list`, or scenes).
        root: folder of the data set.
        images: how many images to look at.
        split: train, val or test; by default that of the recipe (eval_split) for its own data, test for other data.
        set_fields: fields of the method to change, for example method.test-iterations=5.
        out_folder: folder for eval/doctor.json in place of the run folder; of several seeds one for each below it.
        module: Python file that defines the run's own classes.
        json: print the findings as JSON; of several seeds a list for each, by the name of its folder.
    """
    from slotworks import api
    from slotworks.cli.sources import find_data, find_run, with_root
    from slotworks.files import seed_folders
    from slotworks.parts import import_file
    from slotworks.training import load_run

    if module:
        import_file(module)
    folders = seed_folders(run_of(run))
    several = len(folders) > 1
    found = {}
    for folder in folders:
        folder, config = find_run(str(folder), settings=set_fields)
        other = find_data(data, root) if data else with_root(load_run(folder).data, root) if root else None
        how = {"config": config} if config else {}
        place = out_folder / folder.name if out_folder and several else out_folder
        found[folder.name] = api.examine(folder, data=other, split=split, num_images=images, out=place, **how)
        if several and not json:
            out.print(f"[bold]{escape(folder.name)}[/bold]")
        if not json:
            _tell(found[folder.name])
    if json:
        as_dicts = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        print_json(as_dicts if several else next(iter(as_dicts.values())))
    elif several:
        out.print(share_of_seeds(found), soft_wrap=True, markup=False, highlight=False)
    return 1 if any(finding.severity == "problem" for findings in found.values() for finding in findings) else 0


def _tell(findings: "Sequence[Finding]") -> None:
    for finding in findings:
        color = COLORS[finding.severity]
        out.print(f"[{color}]{finding.name.replace('_', ' ')}[/{color}]: {escape(finding.evidence)}", soft_wrap=True)
        if finding.fix:
            out.print(f"    {finding.fix}", soft_wrap=True, markup=False)


def share_of_seeds(found: "Mapping[str, Sequence[Finding]]") -> str:
    """A line: of how many seeds each thing was found, most frequent first.

    >>> from slotworks.evaluation.doctor import Finding
    >>> split, well = Finding("background_split", "note", ""), Finding("healthy", "ok", "")
    >>> share_of_seeds({"seed0": [split], "seed1": [well], "seed2": [split]})
    'Of 3 seeds: background split 2 (seed0, seed2), healthy 1 (seed1).'
    """
    names = Counter(finding.name for findings in found.values() for finding in findings)
    counted = []
    for name, count in names.most_common():
        seeds = [seed for seed, findings in found.items() if any(finding.name == name for finding in findings)]
        counted.append(f"{name.replace('_', ' ')} {count} ({', '.join(seeds)})")
    return f"Of {len(found)} seeds: {', '.join(counted)}."
