"""`slotworks synthesize`."""

import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from slotworks import tables
from slotworks.cli.console import err, out, percent, print_json, take_option
from slotworks.cli.engines import HELP as ENGINES
from slotworks.cli.engines import take_engine
from slotworks.engines import Engine, OneByOne
from slotworks.errors import UserError
from slotworks.ranges import whole_number
from slotworks.remote import Place, as_place

if TYPE_CHECKING:
    from slotworks.synthesis import Synthesis

HELP = """usage: slotworks synthesize CONFIG [--out DIR] [--workers N] [--engine ray] [--device D] [--OPTION ...]
       slotworks synthesize CONFIG --pictures-of FOLDER --out DIR [--OPTION ...]
       slotworks synthesize CONFIG --measure FILE [--json] [--OPTION ...]

Generate images with pseudo-masks, GLASS's training data. Stopped at any point, the same command goes on: finished
shards are kept, and nothing depends on how often it was stopped or how many processes share the work.

  slotworks synthesize glass.scenes --num-images 300             drawn scenes, no download: minutes on a CPU
  slotworks synthesize glass.coco --source.data.root DIR         BLIP-2 captions, Stable Diffusion 2.1
  slotworks synthesize glass.coco --class-prompts per_class --low 0.5
  slotworks synthesize glass.voc --model FOLDER --masks sam2     another checkpoint; segments of SAM 2 as masks
  slotworks synthesize glass.coco --workers 8                    eight processes, each with a GPU
  slotworks synthesize glass.coco --engine ray --address HOST:6379    every GPU of a Ray cluster
  slotworks synthesize glass.coco --pictures-of data/generated/glass.coco --out data/low --low 0.3
                                                                 other masks; generates nothing
  slotworks synthesize glass.coco --measure captions.jsonl       what its words for classes keep; generates nothing
  slotworks synthesize glass.coco --rank 3 --world-size 16       machine 3 of 16 that share a folder: begins there

  --out DIR        default data/generated/CONFIG; holds shard-*.parquet, synthesis.yaml, sheet.png, captions/. Or a URL
                   such as s3://bucket/folder (extra `remote`)
  --rank R, --world-size N   with which share of the shards to begin; by default what torchrun says, or the first.
                   Processes that are started one by one share all of them, and do what others leave
  --device D       default: the first GPU, with torchrun the process's own; or the CPU
  --pictures-of DIR   the pictures of this folder, with masks by --masks, --low, --high, --power or SAM 2's settings
{engines}
  --measure FILE   captions of pictures with known classes, a line {"caption": "...", "classes": ["person", ...]} for
                   each, or COCO's captions_val2017.json beside instances_val2017.json: print which share of pictures
                   and of classes COCO's names alone keep, and which with synonyms
  --json           print the result as JSON

Train on a folder of shards with the data set `Generated(root=DIR)`. `slotworks synthesize CONFIG --help` lists every
option. What can be made:
"""


def main(argv: Sequence[str]) -> int:
    """Parse by hand what belongs to the verb; the rest are fields of the recipe."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.replace("{engines}", ENGINES), end="")
        for row in tables.read()["synthesis"]:
            print(f"  {row['name']}\n      {row['about']}")
        return 0
    name, *rest = argv
    if name.startswith("-"):
        known = ", ".join(row["name"] for row in tables.read()["synthesis"])
        raise UserError(f"The first word after `synthesize` is {name}, expected one of {known}.")
    rest, folder = take_option(rest, "--out")
    rest, device = take_option(rest, "--device")
    rest, rank = take_option(rest, "--rank")
    rest, world_size = take_option(rest, "--world-size")
    rest, measured = take_option(rest, "--measure")
    rest, pictures = take_option(rest, "--pictures-of")
    rest, engine = take_engine(rest)
    as_json = "--json" in rest
    config = build(name, [word for word in rest if word != "--json"])
    if measured is not None:
        if folder or rank or world_size or device:
            raise UserError("--measure generates nothing; leave --out, --rank, --world-size and --device out.")
        return _measure(config, measured, as_json=as_json)
    share = _share(rank, world_size)
    if not isinstance(engine, OneByOne) and (rank or pictures):
        raise UserError("--workers and --engine share the work themselves; leave --rank and --pictures-of out.")
    if pictures is not None and folder is None:
        raise UserError("--pictures-of needs --out, a folder for the new masks.")
    place = as_place(folder or Path("data") / "generated" / name.replace(".py:", ".").replace("/", "_"))
    return _run(config, place, share, device, engine, pictures, as_json=as_json)


def build(name: str, overrides: Sequence[str]) -> "Synthesis":
    """The recipe of this name with fields overridden from the command line."""
    import tyro

    from slotworks.configs.synthesis import find_synthesis
    from slotworks.synthesis import Synthesis

    function = find_synthesis(name)
    try:
        return tyro.cli(
            Synthesis,
            default=function(),
            args=list(overrides),
            prog=f"slotworks synthesize {name}",
            description=function.__doc__,
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _run(
    config: "Synthesis",
    folder: Place,
    share: tuple[int, int],
    device: str | None,
    engine: Engine,
    pictures: str | None,
    *,
    as_json: bool,
) -> int:
    from slotworks import api

    rank, world_size = share
    try:
        if pictures is not None:
            answer = api.synthesize(config, folder, device=device, pictures=pictures)
        elif isinstance(engine, OneByOne):
            answer = api.synthesize(config, folder, rank=rank, world_size=world_size, device=device)
        else:
            answer = api.synthesize(config, folder, device=device, engine=engine)
    except KeyboardInterrupt:
        err.print(
            f"Stopped. Finished shards are kept in {folder}; the same command goes on.", soft_wrap=True, markup=False
        )
        return 128 + signal.SIGINT
    if as_json:
        print_json(answer)
        return 0
    rate = "" if answer.get("images_per_second") is None else f", {answer['images_per_second']:.2f} images/s"
    left_out = f" {answer['left_out']:,} prompts name no class and were left out." if answer.get("left_out") else ""
    err.print(
        f"[bold]{answer['images']:,} images[/bold] in {answer['shards']} shards below {escape(str(folder))}; "
        f"{answer['made']:,} made now in {answer['seconds']:,.0f} s{rate}.{left_out}",
        soft_wrap=True,
    )
    if answer["sheet"]:
        err.print(f"Look at them: {answer['sheet']}", soft_wrap=True, markup=False)
    return 0


def _measure(config: "Synthesis", file: str, *, as_json: bool) -> int:
    """How much each reading of "nouns that are class names" keeps of captioned pictures with known classes."""
    from slotworks.synthesis.kept import kept, read_labelled_captions
    from slotworks.synthesis.nouns import SYNONYMS, NounMatcher

    names, tagger = (getattr(config.source, field, None) for field in ("class_names", "tagger"))
    if names is None or tagger is None:
        raise UserError("This recipe reads no captions; measure glass.coco or glass.voc.")
    captions = read_labelled_captions(file)
    readings = {"class names alone": None, "with synonyms": SYNONYMS}
    found = {
        label: kept(captions, NounMatcher(names, synonyms=words, tagger=tagger)) for label, words in readings.items()
    }
    if as_json:
        print_json({label: {**asdict(one), "shares": one.shares} for label, one in found.items()})
        return 0
    for label, one in found.items():
        shares = ", ".join(f"{name} {percent(share)}" for name, share in one.shares.items())
        out.print(f"{label:<18} {shares}", soft_wrap=True, markup=False)
    one, more = found.values()
    for name, (there, every) in list(one.by_class.items())[:10]:
        out.print(f"  {name:<16} {there} of {every}, {more.by_class[name][0]}", soft_wrap=True, markup=False)
    out.print(
        f"{one.pictures} pictures; pictures: whose caption names a class; classes: of all in the pictures; right: of "
        "those named. Below: of each class without synonyms, and with them.",
        style="dim",
        soft_wrap=True,
    )
    return 0


def _share(rank: str | None, world_size: str | None) -> tuple[int, int]:
    """Which part of how many: from the options, or from torchrun."""
    if (rank is None) != (world_size is None):
        raise UserError("--rank and --world-size belong together; give both or none.")
    first, count = rank or os.environ.get("RANK", "0"), world_size or os.environ.get("WORLD_SIZE", "1")
    share = whole_number(first), whole_number(count)
    if share[0] is None or share[1] is None or share[0] >= share[1]:
        raise UserError(
            f"--rank is {first} and --world-size {count}; processes are counted from 0, below their number."
        )
    return share[0], share[1]
