"""`slotworks evaluate`."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.markup import escape

from slotworks.cli.console import (
    Metrics,
    err,
    matrix_tables,
    out,
    parse,
    print_json,
    protocol_tables,
    take_option,
    units,
)
from slotworks.cli.engines import engine_of, run_parts
from slotworks.engines import OneByOne, Part
from slotworks.errors import UserError
from slotworks.tables import learn, metric, read, task_row


def main(argv: Sequence[str]) -> int:
    """Parse and run; the options are those of the tasks of the package and, if another is asked for, of that one."""
    _, task = take_option(argv, "--task")
    rows = {row["name"]: row for row in read()["tasks"]}
    if task is not None and task not in rows:
        from slotworks.evaluation.task import find

        rows = {task: task_row(find(task)), **rows}
    evaluate.__annotations__["tasks"] = Annotated[_options_of(rows), tyro.conf.OmitArgPrefixes]
    return parse(evaluate, argv, verb="evaluate")


def evaluate(
    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    /,
    tasks: Any,
    data: tuple[str, ...] = (),
    root: Path | None = None,
    pictures: Path | None = None,
    task: str = "discovery",
    split: Literal["train", "val", "test"] | None = None,
    images: int | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    seed: int = 0,
    device: str | None = None,
    set_fields: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = (),
    out_folder: Annotated[Path | None, tyro.conf.arg(name="out")] = None,
    module: Path | None = None,
    workers: int | None = None,
    engine: str = "processes",
    address: str | None = None,
    json: bool = False,
) -> int:
    """Score runs on data sets; prints a table, or a matrix of runs and data sets, and writes RUN/eval/*.json.

    RUN is a run folder, or a recipe that needs no training; its results go to runs/NAME. Of a folder of several seeds,
    as `slotworks train --seeds` makes, each is scored; mean and standard deviation are printed. Scores that cannot be
    saved are printed all the same, as are those of the other runs where one cannot be scored; the exit code is then 2.

    Examples:
      slotworks evaluate runs/slot_attention.tetrominoes_mini
      slotworks evaluate RUN --protocol all                          how far the numbers move
      slotworks evaluate RUN --protocol savi --lengths 1 6 12 24     how tracking gets harder with time
      slotworks evaluate RUN --data clevrtex --root DIR              another data set than the run's own
      slotworks evaluate RUN --pictures holiday                      your own pictures with masks
      slotworks evaluate RUN_A RUN_B --data clevrtex objects365      zero-shot matrix
      slotworks evaluate RUN --task properties                       class and place, read from frozen slots
      slotworks evaluate RUN --task sets --set method.num-iterations=5   predicted objects, with more iterations
      slotworks evaluate deep_spectral.voc --task semantic           a method that needs no training

    Args:
        runs: run folders, folders of seeds, or recipes that need no training.
        data: data sets by name (`slotworks data list`, or scenes) instead of the run's own.
        root: folder of the data set; with several, the folder that holds theirs.
        pictures: folder of your own pictures with masks. Of the one that the run was trained on its split test, of
            another all, or its folder test or val.
        task: discovery of objects, semantic segmentation, properties read from frozen slots, reconstruction of images,
            removal of an object by its slot, or sets that the method predicts; or one of your own, as module:NAME.
        split: train, val or test; by default that of the recipe for its own data (eval_split), test for other data.
        images: how many images; all by default.
        batch_size: images per forward pass.
        image_size: pixels of square images, where the method takes other ones than it was trained on.
        seed: of the initial slots.
        device: for example cuda:0 or cpu; the first GPU if there is one.
        set_fields: fields to change, for example method.num-slots=5 of a recipe, method.eval-orders=all of a SPOT run.
        out_folder: of a run folder: where eval/ is written instead, for example if the run lies where nothing can be
            written; of a recipe: its run folder, by default runs/NAME. With several runs, one folder for each below it.
        module: Python file that defines the run's own classes.
        workers: runs scored at the same time, each in a process of its own; one after the other by default.
        engine: processes on this machine, or ray for a Ray cluster (docs/guides/cluster.md).
        address: HOST:PORT of a Ray cluster; by default one on this machine.
        json: print the records as JSON.
    """
    from slotworks import api
    from slotworks.cli.pictures import own_pictures
    from slotworks.cli.sources import find_all_data, find_run, with_root
    from slotworks.files import seed_folders
    from slotworks.parts import import_file
    from slotworks.progress import silent
    from slotworks.protocols import DEFAULT
    from slotworks.training import load_run

    if module:
        import_file(module)
    if not runs:
        raise UserError("Name a run folder, or a recipe that needs no training.")
    if pictures and (data or root):
        raise UserError("--pictures names the data; leave --data and --root out.")
    given = _given(task, tasks)
    bases = [(base, [base if one == Path(base) else str(one) for one in seed_folders(Path(base))]) for base in runs]
    runs = tuple(one for _, seeds in bases for one in seeds)
    sources = find_all_data(data, root)
    places = _places(runs, out_folder)
    found = [find_run(run, settings=set_fields, out=place) for run, place in zip(runs, places, strict=True)]
    folders = [folder for folder, _ in found]
    if task == "discovery" and len(runs) > 1 and not _comparable({load_run(folder).protocol for folder in folders}):
        given.setdefault("protocols", (DEFAULT,))  # runs are compared under the same rules
    calls = []
    for (folder, config), place in zip(found, places, strict=True):
        chosen: Any = sources or (with_root(load_run(folder).data, root) if root else None)
        if pictures:
            chosen = own_pictures(load_run(folder).data, pictures, score=True)
            err.print(f"{pictures}: {chosen.marked.describe()}", soft_wrap=True, markup=False, highlight=False)
        how = {
            "data": chosen,
            "split": split or (chosen.scored_split if pictures else None),
            "task": task,
            "num_images": images,
            "batch_size": batch_size,
            "seed": seed,
            "device": device,
            "config": config,
            "out": place,
            "image_size": image_size,
            **given,
        }
        calls.append(partial(api.evaluate, folder, **how))
    runner = engine_of(engine, None if workers is None else str(workers), address)
    with silent() if json else nullcontext():
        if isinstance(runner, OneByOne):
            answers = {number: _answer(call) for number, call in enumerate(calls)}
        else:
            parts = [Part(run, call) for run, call in zip(runs, calls, strict=True)]
            answers = dict(run_parts(runner, "runs", parts))
    failed = {k: answer for k, answer in sorted(answers.items()) if isinstance(answer, Exception)}
    for error in failed.values():
        if len(failed) == len(runs) or not isinstance(error, UserError):
            raise error
    scored = [k for k in range(len(runs)) if k not in failed]
    folders, places = [folders[k] for k in scored], [places[k] for k in scored]
    records: list[dict[str, Any]] = [record for k in scored for record in answers[k]]
    unsaved = dict.fromkeys(record["unsaved"] for record in records if "unsaved" in record)
    for record in records:
        learn(record.get("about"))
    if json:
        print_json(records)
    else:
        about = partial(metric, own=tasks.rows[task]["metrics"])
        written = [place or folder for folder, place in zip(folders, places, strict=True)]
        several = len(folders) > 1 or len(sources) > 1
        _print(records, folders, written, about, several=several, lengths="lengths" in given)
        _print_seeds(records, [(base, seeds) for base, seeds in bases if len(seeds) > 1])
    for reason in unsaved:
        err.print(f"Not saved: {reason}", soft_wrap=True, markup=False, highlight=False)
    for k, error in failed.items():
        err.print(f"{runs[k]} was not scored: {error}", soft_wrap=True, markup=False, highlight=False)
    return 2 if unsaved or failed else 0


def _answer(call: Callable[[], Any]) -> Any:
    """What it gives, or the user's mistake that it raised, as of a part."""
    try:
        return call()
    except UserError as error:
        return error


def _comparable(names: set[str]) -> bool:
    """Whether runs with these protocols are scored under their own: it is one, and tells more than FG-ARI."""
    from slotworks.protocols import get

    return len(names) == 1 and {"mbo_i", "miou_i"} <= set(get(*names, importing=False).metrics)


def _places(runs: Sequence[str], out: Path | None) -> list[Path | None]:
    """Where the records of each run go; None for the run folder itself. A seed lies below the name of its folder.

    Raises:
        UserError: if several runs would share a place.
    """
    if out is None or len(runs) == 1:
        return [out] * len(runs)
    names = ["/".join(Path(run).parts[-2 if re.fullmatch(r"seed\d+", Path(run).name) else -1 :]) for run in runs]
    names = [name.replace(":", "-") for name in names]  # zoo:NAME
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"Several runs are called {twice[0]}; with --out evaluate them one by one.")
    return [out / name for name in names]


def _print(
    records: list[dict[str, Any]],
    folders: Sequence[Path],
    written: Sequence[Path],
    about: Metrics,
    *,
    several: bool,
    lengths: bool,
) -> None:
    if several:
        tables = matrix_tables(records, about)
    else:
        what = f"{records[0]['data']}, {records[0]['split']} split, {records[0]['num_images']} images"
        tables = protocol_tables(escape(f"{folders[0]}: {what}; {units(records, about)}"), records, about)
    for table in tables:
        out.print(table)
    for rules in dict.fromkeys(record["rules"] for record in records):
        out.print(rules, style="dim", soft_wrap=True, markup=False)
    if lengths:
        for path in sorted(path for folder in written for path in folder.glob("eval/lengths-*.png")):
            out.print(str(path), soft_wrap=True, markup=False)


def _print_seeds(records: Sequence[dict[str, Any]], bases: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Mean and standard deviation of each folder of seeds, a line for each data set and protocol."""
    from slotworks.reports.labels import label
    from slotworks.reports.seeds import in_words, over_seeds

    for base, seeds in bases:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for record in records:
            if record["run"] in seeds:
                groups.setdefault((record["data"], record["protocol"]), []).append(record)
        for (data, protocol), found in groups.items():
            values = ", ".join(f"{label(name)} {in_words(name, value)}" for name, value in over_seeds(found).items())
            text = f"{base}, mean ± standard deviation of {len(found)} seeds on {data}, {protocol}: {values}"
            out.print(text, soft_wrap=True, markup=False)


def _options_of(rows: Mapping[str, Mapping[str, Any]]) -> type:
    """A dataclass with the options of all tasks; None, () or False is one that was not given."""
    plain = {"int": int, "float": float, "str": str, "bool": bool}
    owners: dict[str, list[str]] = {}
    known = {}
    for name, row in rows.items():
        for one in row["options"]:
            if one["flag"].replace("-", "_") in (*evaluate.__annotations__, "set", "out"):
                raise UserError(f"The task {name} has an option --{one['flag']}, as the command has; rename it.")
            owners.setdefault(one["flag"], []).append(name)
            known.setdefault(one["flag"], one)
    made = []
    for flag, one in known.items():
        kind: Any = Literal[tuple(one["type"])] if isinstance(one["type"], list) else plain[one["type"]]
        help_text = f"of {' or '.join(owners[flag])}: {one['about']}."
        default: Any = () if one["many"] else False if kind is bool else None
        kind = tuple[kind, ...] if one["many"] else kind if kind is bool else kind | None
        made.append((flag.replace("-", "_"), Annotated[kind, tyro.conf.arg(name=flag, help=help_text)], default))
    return make_dataclass("Options", made, frozen=True, namespace={"rows": rows, "owners": owners})


def _given(task: str, options: Any) -> dict[str, Any]:
    """The options that were given, by the names that the task knows them by.

    Raises:
        UserError: for an option of another task.
    """
    names = {one["flag"]: one["name"] for one in options.rows[task]["options"]}
    given = {}
    for field in fields(options):
        flag, value = field.name.replace("_", "-"), getattr(options, field.name)
        if value is field.default or value == ():
            continue
        if flag not in names:
            raise UserError(f"--{flag} belongs to --task {options.owners[flag][0]}; the task is {task}.")
        given[names[flag]] = value
    return given
