"""`slotworks evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.markup import escape

from slotworks.cli.console import err, matrix_tables, out, parse, print_json, protocol_tables, units
from slotworks.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    return parse(evaluate, argv, verb="evaluate")


def evaluate(
    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    /,
    data: tuple[str, ...] = (),
    root: Path | None = None,
    task: Literal["discovery", "semantic", "properties", "reconstruction", "removal", "sets"] = "discovery",
    protocol: tuple[str, ...] = (),
    lengths: tuple[int, ...] = (),
    split: Literal["train", "val", "test"] | None = None,
    images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
    rule: str | None = None,
    label: str | None = None,
    epochs: int | None = None,
    train_images: int | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    spare_below: float | None = None,
    perceptual: bool = False,
    by_objects: bool = False,
    set_fields: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    out_folder: Annotated[Path | None, tyro.conf.arg(name="out")] = None,
    module: Path | None = None,
    json: bool = False,
) -> int:
    """Score runs on data sets; prints a table, or a matrix of runs and data sets, and writes RUN/eval/*.json.

    RUN is a run folder, or a recipe that needs no training; its results go to runs/NAME. Scores that cannot be saved
    are printed all the same; the exit code is then 2.

    Examples:
      slotworks evaluate runs/slot_attention.tetrominoes_mini
      slotworks evaluate RUN --protocol all                          how far the numbers move
      slotworks evaluate RUN --protocol savi --lengths 1 6 12 24     how tracking gets harder with time
      slotworks evaluate RUN --data clevrtex --root DIR              another data set than the run's own
      slotworks evaluate RUN_A RUN_B --data clevrtex objects365      zero-shot matrix
      slotworks evaluate RUN --task properties                       class and place, read from frozen slots
      slotworks evaluate RUN --task sets --set method.num-iterations=5   predicted objects, with more iterations
      slotworks evaluate deep_spectral.voc --task semantic           a method that needs no training

    Args:
        runs: run folders, or recipes that need no training.
        data: data sets by name (`slotworks data list`, or scenes) instead of the run's own.
        root: folder of the data set; with several, the folder that holds theirs.
        task: object discovery, semantic segmentation over all images at once, properties read from frozen slots, or
            reconstruction of the images, removal of an object from each by its slot, or sets of objects that the method
            itself predicts.
        protocol: of discovery: names, or all. Default: the run's own; oclf for several runs.
        lengths: of discovery in videos: score the first so many frames of each video, one number after the other; also
            draws RUN/eval/lengths-DATA-SPLIT.png, which the report shows.
        split: train, val or test; by default that of the recipe for its own data (eval_split), test for other data.
        images: how many images; all by default.
        batch_size: images per forward pass.
        seed: of the initial slots.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        rule: of semantic: labels, hungarian, clusters or per_image.
        label: of properties: class, or a field of the data such as shape.
        epochs: of properties: at most this many; 50 by default.
        train_images: of properties: how many images the probes are trained on; all by default.
        steps: of reconstruction or removal by a generator: denoising steps.
        cfg_scale: of reconstruction or removal by a generator: guidance scale.
        spare_below: of removal: a slot that owns less than this share of the image is spare, and is dropped with the
            slot whose area it looks at; 0.002 by default, 0: never.
        perceptual: of reconstruction: also LPIPS and FID (extra `perceptual`).
        by_objects: of sets: also for each number of objects apart.
        set_fields: fields to change, for example method.num-slots=5 of a recipe, method.eval-orders=all of a SPOT run.
        out_folder: of a run folder: where eval/ is written instead, for example if the run lies where nothing can be
            written; of a recipe: its run folder, by default runs/NAME. With several runs, one folder for each below it.
        module: Python file that defines the run's own classes.
        json: print the records as JSON.
    """
    from slotworks import api
    from slotworks.cli.sources import find_all_data, find_run, with_root
    from slotworks.configs import import_file
    from slotworks.protocols import DEFAULT
    from slotworks.training import load_run

    if module:
        import_file(module)
    if not runs:
        raise UserError("Name a run folder, or a recipe that needs no training.")
    options = _options(
        task,
        rule=rule,
        label=label,
        epochs=epochs,
        num_train_images=train_images,
        steps=steps,
        cfg_scale=cfg_scale,
        spare_below=spare_below,
        perceptual=perceptual or None,
        by_objects=by_objects or None,
    )
    sources = find_all_data(data, root)
    places = _places(runs, out_folder)
    found = [find_run(run, settings=set_fields, out=place) for run, place in zip(runs, places, strict=True)]
    folders = [folder for folder, _ in found]
    if task == "discovery" and not protocol and len(runs) > 1:
        protocol = (DEFAULT,)
    records = []
    for (folder, config), place in zip(found, places, strict=True):
        records += api.evaluate(
            folder,
            data=sources or (with_root(load_run(folder).data, root) if root else None),
            split=split,
            task=task,
            protocols=protocol or None,
            lengths=lengths,
            num_images=images,
            batch_size=batch_size,
            seed=seed,
            device=device,
            config=config,
            out=place,
            **options,
        )
    unsaved = dict.fromkeys(record["unsaved"] for record in records if "unsaved" in record)
    if json:
        print_json(records)
    else:
        written = [place or folder for folder, place in zip(folders, places, strict=True)]
        _print(records, folders, written, several=len(folders) > 1 or len(sources) > 1, lengths=bool(lengths))
    for reason in unsaved:
        err.print(f"Not saved: {reason}", soft_wrap=True, markup=False, highlight=False)
    return 2 if unsaved else 0


def _places(runs: Sequence[str], out: Path | None) -> list[Path | None]:
    """Where the records of each run go; None for the run folder itself.

    Raises:
        UserError: if several runs would share a place.
    """
    if out is None or len(runs) == 1:
        return [out] * len(runs)
    names = [Path(run).name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Several runs are called {twice[0]}; with --out evaluate them one by one.")
    return [out / name for name in names]


def _print(
    records: list[dict[str, Any]], folders: Sequence[Path], written: Sequence[Path], *, several: bool, lengths: bool
) -> None:
    if several:
        tables = matrix_tables(records)
    else:
        about = f"{records[0]['data']}, {records[0]['split']} split, {records[0]['num_images']} images"
        tables = protocol_tables(escape(f"{folders[0]}: {about}; {units(records)}"), records)
    for table in tables:
        out.print(table)
    for rules in dict.fromkeys(record["rules"] for record in records):
        out.print(rules, style="dim", soft_wrap=True, markup=False)
    if lengths:
        for path in sorted(path for folder in written for path in folder.glob("eval/lengths-*.png")):
            out.print(str(path), soft_wrap=True, markup=False)


def _options(task: str, **given: Any) -> dict[str, Any]:
    """Options that were given, checked to belong to the task."""
    of = {
        "discovery": (),
        "semantic": ("rule",),
        "properties": ("label", "epochs", "num_train_images"),
        "reconstruction": ("steps", "cfg_scale", "perceptual"),
        "removal": ("steps", "cfg_scale", "spare_below"),
        "sets": ("by_objects",),
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in of[task]:
            owner = next(known for known, names in of.items() if name in names)
            option = "train-images" if name == "num_train_images" else name.replace("_", "-")
            raise UserError(f"--{option} belongs to --task {owner}; the task is {task}.")
    return given
