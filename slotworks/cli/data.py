"""`slotworks data list | prepare | features | check`."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.markup import escape

from slotworks import tables
from slotworks.cli.console import out, parse, print_json, take_option
from slotworks.cli.engines import HELP as ENGINES
from slotworks.cli.engines import run_parts, take_engine
from slotworks.engines import Engine, OneByOne, Part
from slotworks.errors import UserError
from slotworks.files import check_writable
from slotworks.remote import RemotePath, is_url

HELP = """usage: slotworks data list | prepare NAME | features RECIPE | check ROOT

  slotworks data list                                            size, licence, splits, what background means
  slotworks data prepare voc2012 --root data/VOCdevkit           official files to memory-mapped stores; resumes
  slotworks data features dinosaur.coco_mlp --workers 4          what its frozen encoder sees, before the training
  slotworks data check data/VOCdevkit                            which file is missing or damaged, and where it comes
  from

`slotworks data prepare --help` and so on show the options."""

PREPARE_HELP = """usage: slotworks data prepare NAME [--root DIR] [--split SPLIT] [--json] [--OPTION VALUE ...]

Turn official files into memory-mapped stores. Killed and started again, it goes on where it was.

  slotworks data prepare tetrominoes --root data/tetrominoes
  slotworks data prepare coco2017 --split val                    only what measuring needs
  slotworks data prepare voc2012 --image-size 448 --skip-damaged

  --root DIR     folder of the official files; default data/NAME
  --split SPLIT  train, val or test: only the store of this one, where each has its own
  --send URL     also copy the stores there, s3://bucket/folder and the like (extra `remote`): a root for other machines
{engines}
  --json         print the folders of the stores as JSON

`slotworks data prepare NAME --help` lists the options of a data set. A recipe looks for a store that was made with its
own options.""".replace("{engines}", ENGINES)

FEATURES_HELP = """usage: slotworks data features RECIPE [--workers N] [--engine ray] [--json] [--OPTION VALUE ...]

Compute the features, and latents, that a recipe's frozen networks see in its training images, which its training would
do by one process at its start. The same bytes whoever computes them. Killed and started again, it goes on.

  slotworks data features dinosaur.coco_mlp --workers 4
  slotworks data features glass.coco --engine ray --address HOST:6379

{engines}
  --json         print the folder of the store as JSON

Options of the recipe as of `slotworks train RECIPE`. Until the store is whole, the disk holds twice what it takes.
""".replace("{engines}", ENGINES)


def main(argv: Sequence[str]) -> int:
    """Choose the action."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    action, *rest = argv
    if action in ("prepare", "features"):
        return prepare(rest) if action == "prepare" else features(rest)
    if action == "list" and set(rest) <= {"--json"}:  # without the parser it answers at once
        return list_data(json=bool(rest))
    actions = {"list": list_data, "check": check}
    if action not in actions:
        raise UserError(f"There is no action {action!r}; expected list, prepare, features or check.")
    return parse(actions[action], rest, verb=f"data {action}") or 0


def list_data(json: bool = False) -> int:
    """List the data sets.

    Args:
        json: print the rows as JSON.
    """
    rows = tables.read()["data"]
    if json:
        print_json(rows)
        return 0
    for group in _groups(rows):
        first = group[0]
        out.print(f"[bold]{', '.join(row['name'] for row in group)}[/bold]", soft_wrap=True)
        for label, text in (
            ("size", f"{first['download']} to download, {first['disk']} prepared"),
            ("splits", first["splits"]),
            ("background", first["background"]),
            ("overlaps", first["overlaps"]),
            ("licence", first["licence"]),
            ("from", " ".join(dict.fromkeys(row["origin"] for row in group))),
        ):
            out.print(f"  {label:<11}{text}", soft_wrap=True, markup=False)
    out.print(
        "Drawn scenes need no files: see the recipes that end in _mini. A folder of own pictures: docs/data.md.",
        style="dim",
    )
    return 0


def _groups(rows: Sequence[dict]) -> list[list[dict]]:
    """Variants that differ in nothing but their name and origin, together."""
    groups: dict[tuple, list] = {}
    for row in rows:
        key = tuple(row[part] for part in ("folder", "download", "disk", "splits", "background"))
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def prepare(argv: Sequence[str]) -> int:
    """Parse by hand what belongs to the action; the rest are fields of the data set."""
    if not argv or argv[0] in ("-h", "--help"):
        print(PREPARE_HELP)
        return 0
    name, *rest = argv
    if name.startswith("-"):
        raise UserError(
            f"The first word after `prepare` is {name}, expected a name; `slotworks data list` prints them."
        )
    import tyro

    from slotworks.data import catalog

    row = catalog.find_row(name)
    rest, split = take_option(rest, "--split")
    rest, url = take_option(rest, "--send")
    rest, engine = take_engine(rest)
    if url is not None:
        if not is_url(url):
            raise UserError(f"--send is {url}; expected a URL such as s3://bucket/folder.")
        check_writable(url)
    as_json = "--json" in rest
    rest = [word for word in rest if word != "--json"]
    default = row.config()
    prog = f"slotworks data prepare {name}"
    about = f"{(type(default).__doc__ or '').splitlines()[0]}\n\nAlso: --split train|val|test, --json."
    try:
        config = tyro.cli(
            type(default),
            default=default,
            args=rest,
            prog=prog,
            description=about,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    options = {field.name: getattr(config, field.name) for field in fields(config)}
    changed = {key: value for key, value in options.items() if value != getattr(default, key) and key != "root"}
    stores = catalog.stores(row.name, root=config.root, **changed, **({"split": split} if split else {}))
    paths = _all(engine, "stores", [Part(f"The store {one.store_path}", one.prepare) for one in stores])
    if url is not None:
        from slotworks.data.stores.store import send_store

        for path in paths:
            send_store(path, RemotePath(url) / "prepared" / path.name)
    if as_json:
        print_json({"prepared": [str(path) for path in paths]})
    else:
        for path in paths:
            out.print(f"Prepared: {path}", soft_wrap=True, markup=False)
    return 0


def features(argv: Sequence[str]) -> int:
    """Parse by hand what belongs to the action; the rest are fields of the recipe."""
    if not argv or argv[0] in ("-h", "--help"):
        print(FEATURES_HELP)
        return 0
    name, *rest = argv
    if name.startswith("-"):
        raise UserError(f"The first word after `features` is {name}, expected a recipe.")
    from slotworks.cli.train import build
    from slotworks.data.stores.features import CachedFeatures

    rest, engine = take_engine(rest)
    as_json = "--json" in rest
    data = build(name, [word for word in rest if word != "--json"]).data
    if not isinstance(data, CachedFeatures):
        raise UserError(f"{name} trains on {data.name} itself, and keeps no features; there is nothing to compute.")
    path = _compute(data, engine)
    if as_json:
        print_json({"features": str(path)})
    else:
        out.print(f"Features: {path}", soft_wrap=True, markup=False)
    return 0


def _compute(data: Any, engine: Engine) -> Path:
    """Blocks of features by an engine, and from them the store; its folder."""
    from slotworks.data.stores.features import compute_block

    if not isinstance(engine, OneByOne):
        blocks = data.missing_blocks()
        parts = [Part(f"Rows {one.start} to {one.stop}", compute_block, (data, one.start, one.stop)) for one in blocks]
        _all(engine, "blocks", parts)
    data.open("train")
    return data.store_path(data.key(data.images.open("train")))


def _all(engine: Engine, unit: str, parts: Sequence[Part]) -> list[Any]:
    """The answers of parts that are all needed; the others are finished before an error is raised."""
    answers = dict(run_parts(engine, unit, parts))
    for answer in answers.values():
        if isinstance(answer, Exception):
            raise answer
    return [answers[number] for number in range(len(parts))]


def check(root: Path, /, name: str | None = None, json: bool = False) -> int:
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
            color = {"ok": "green", "note": "yellow"}.get(finding.status, "red")
            out.print(f"[{color}]{finding.status}[/{color}] {escape(finding.message)}", soft_wrap=True)
    return 1 if any(finding.status in ("missing", "damaged") for finding in findings) else 0
