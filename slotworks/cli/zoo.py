"""`slotworks zoo`."""

import json as json_module
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from slotworks.cli.console import err, out, parse, print_json
from slotworks.errors import UserError

HELP = """usage: slotworks zoo [--json]
       slotworks zoo build NAME [--run RUN] [--out DIR] [--license L]

Trained runs that come with the package, and those that one command builds. Every command that takes a run takes
zoo:NAME.

  slotworks zoo                                     which there are: data, size, number, picture; what others take
  slotworks segment zoo:dinosaur-scenes photo.jpg
  slotworks zoo build spot-scenes                   train one that does not come along; stopped, it goes on
"""

KEPT = ("started", "slotworks", "python", "torch", "commit", "device", "cores")
"""What a member says of where it was trained; no paths."""


def main(argv: Sequence[str]) -> int:
    """List, or `build`."""
    if {"-h", "--help"} & set(argv[:1]):
        print(HELP, end="")
        return 0
    if argv and argv[0] == "build":
        return parse(build, argv[1:], verb="zoo build")
    if wrong := [word for word in argv if word != "--json"]:
        raise UserError(f"`zoo` has no {wrong[0]}; it takes nothing, --json, or build NAME.")
    return show(json="--json" in argv)


def show(*, json: bool) -> int:
    """Print what there is and what can be built."""
    from slotworks.zoo import rows

    found = rows()
    if json:
        print_json(found)
        return 0
    there = [row for row in found if row["folder"]]
    for row in found:
        out.print(row["name"], markup=False)
        lines = {"method": f"{row['method']} on {row['data']}"}
        if row["folder"]:
            lines |= {"number": row["number"] or "not measured", "size": f"{row['mib']} MiB, {row['folder']}"}
            lines |= {"picture": row["picture"]} if row["picture"] else {}
        else:
            lines |= {"build": f"slotworks zoo build {row['name'].removeprefix('zoo:')}", "takes": row["takes"]}
            lines |= {"measured": row["measured"]}
        for label, text in lines.items():
            out.print(f"  {label:<11}{text}", soft_wrap=True, markup=False)
    size = sum(row["mib"] for row in there)
    out.print(f"{len(there)} of {len(found)} are here, {size:.1f} MiB; any command takes them as runs.")
    return 0


def build(
    name: Annotated[str, tyro.conf.Positional],
    /,
    run: Path | None = None,
    out_folder: Annotated[Path | None, tyro.conf.arg(name="out")] = None,
    license: str | None = None,
    json: bool = False,
) -> int:
    """Train a run of the zoo with the commands of its recipe, round it to float16, measure it and write its card.

    Stopped, the same command goes on. What was trained before is not trained again. Records of other weights that lie
    in the folder are moved to eval/before-CHECKSUM.

    Examples:
      slotworks zoo build spot-scenes
      slotworks zoo build savi-scenes --run runs/mine        of a run that was trained already

    Args:
        name: as `slotworks zoo` lists it.
        run: a trained run of the recipe, in place of training.
        out_folder: by default runs/zoo/NAME, where zoo:NAME is looked for.
        license: of the weights, by its name on the hub; the card says if there is none.
        json: print what was made as JSON.
    """
    from slotworks import api, tables, zoo
    from slotworks.cli import main as command
    from slotworks.cli.runs import run_of
    from slotworks.encoders import ViTConfig
    from slotworks.encoders.known import FILE, describe
    from slotworks.files import write_text
    from slotworks.hub import CARD, CONFIG, PICTURE, make_run, save_pretrained
    from slotworks.json_text import read_json
    from slotworks.reports.card import card, files_of
    from slotworks.training import load_run

    known = zoo.member(name)
    place = out_folder or zoo.BUILT / known.name
    if run is None:
        row = tables.row(known.recipe)
        assert row is not None
        for line in row["command"].split(" && "):
            err.print(line, style="bold", soft_wrap=True, markup=False)
            code = command(shlex.split(line)[1:])
            if code:
                return code
    source = run_of(run or Path("runs") / known.recipe)
    earlier = _weights_of(place)
    save_pretrained(source, place, license=license, pictures=True, half=True)
    if earlier not in (None, _weights_of(place)):  # its records are kept, and are none of the new weights
        for old in sorted(place.glob("eval/*.json")):
            kept_at = place / "eval" / f"before-{earlier[:12]}" / old.name
            kept_at.parent.mkdir(exist_ok=True)
            old.replace(kept_at)
    try:
        environment = read_json((source / "env.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the card then does not say where it was trained
        environment = {}
    kept = {key: environment[key] for key in KEPT if key in environment}
    write_text(place / "env.json", json_module.dumps(kept, indent=1) + "\n")
    if isinstance(encoder := getattr(load_run(source).method, "encoder", None), ViTConfig):
        write_text(place / FILE, json_module.dumps(describe(encoder), indent=1) + "\n")
    with tempfile.TemporaryDirectory() as beside:
        made = api.evaluate(make_run(place, beside), task=known.task, out=place)
    config = read_json((place / CONFIG).read_text(encoding="utf-8"))
    picture = PICTURE if (place / PICTURE).is_file() else None
    text = card(place, config, name=f"{zoo.PREFIX}{known.name}", picture=picture, about=known.about)
    write_text(place / CARD, text)
    if json:
        print_json({"folder": str(place), "metrics": made[0]["metrics"]})
    else:
        how = f"slotworks segment zoo:{known.name} {files_of(config['run']['method'])}"
        out.print(f"{place}: `{how}` takes it.", soft_wrap=True, markup=False)
    return 0


def _weights_of(folder: Path) -> str | None:
    """The checksum of the weights in a folder of `save_pretrained`; None if there are none."""
    from slotworks.hub import CONFIG
    from slotworks.json_text import read_json

    try:
        return str(read_json((folder / CONFIG).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
