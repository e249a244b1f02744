"""Trained runs that come with the package, a folder for each, and those that one command builds. Imports no torch.

    slotworks zoo                                   which there are: data, size, number
    slotworks segment zoo:dinosaur-scenes photo.jpg
    slotworks zoo build spot-scenes                 train one that does not come along

A folder holds what `slotworks.hub.save_pretrained` writes, weights in float16, and `eval/`, the records of these very
weights, from which the number of the table and the card are made. One that was built lies in `runs/zoo` and takes the
place of one of the same name here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotworks import tables
from slotworks.errors import UserError, nearest
from slotworks.json_text import read_json
from slotworks.reports.card import records

PREFIX = "zoo:"
SHIPPED = Path(__file__).parent
BUILT = Path("runs") / "zoo"
"""Where `slotworks zoo build` puts what it makes, below the current folder."""


@dataclass(frozen=True)
class Member:
    """A run by name: the recipe that it is trained by, and the task that it is measured in."""

    name: str
    recipe: str
    task: str = "discovery"
    about: str = ""  # of the data, for the card
    begin: tuple[int, int] = (0, 1)  # the pictures of its test data that the studio begins with


MEMBERS = (
    Member("slot-attention-tetrominoes", "slot_attention.tetrominoes_mini"),
    Member("slot-attention-painted", "slot_attention.painted_mini"),
    Member("slot-attention-sets", "set_prediction.scenes_mini", task="sets"),
    Member("savi-scenes", "savi.scenes_mini"),
    Member("slate-scenes", "slate.scenes_mini"),
    Member("steve-scenes", "steve.scenes_mini"),
    Member("slot-diffusion-scenes", "slot_diffusion.scenes_mini"),
    Member("dinosaur-scenes", "dinosaur.scenes_mini"),
    Member(
        "dinosaur-photos",
        "dinosaur.collages_mlp_round2",
        about="The pictures are collages of photographed cut-outs on drawn backgrounds, without any other photograph. "
        "The cut-outs, which are not in this package, are 187 of the stamps of Tux Paint (Debian's "
        "tuxpaint-stamps-default, GPL-2): 121 to train on, 20 for validation, 46 for the numbers above. On the same "
        "collages six clusters of k-means on the same features have FG-ARI 51.0 ± 1.9, ARI 57.3 ± 0.8, mBO_i 54.1 ± "
        "1.4, averaged over 3 x 3 patches 60.2 ± 2.2, 66.4 ± 0.9, 55.1 ± 1.5; eight slots of which those with a cosine "
        "above 0.9 are joined 78.5 ± 1.7, 73.3 ± 0.7, 65.2 ± 1.1.",
    ),
    Member("spot-scenes", "spot.scenes_stage2_mini"),
    Member("stable-lsd-painted", "stable_lsd.painted_mini"),
    Member("glass-painted", "glass.painted_phase2_mini", begin=(6, 5)),
)


def is_name(text: str) -> bool:
    """Whether it names a run of the zoo, as `zoo:NAME`."""
    return text.startswith(PREFIX)


def member(name: str) -> Member:
    """The member of this name, with or without `zoo:`.

    Raises:
        UserError: if there is none.
    """
    bare = name.removeprefix(PREFIX)
    for known in MEMBERS:
        if known.name == bare:
            return known
    names = nearest(bare, (known.name for known in MEMBERS))
    raise UserError(f"The zoo has no {bare!r}. Nearest: {names}. `slotworks zoo` lists all.")


def folder_of(name: str) -> Path:
    """The folder of the member of this name: built here, or shipped with the package.

    Raises:
        UserError: if there is no such member, or it has to be built first.
    """
    found = member(name)
    for place in (BUILT / found.name, SHIPPED / found.name):
        if (place / "config.json").is_file():
            return place
    takes = (tables.row(found.recipe) or {}).get("takes", tables.UNKNOWN)
    raise UserError(
        f"zoo:{found.name} does not come with the package; `slotworks zoo build {found.name}` trains it here ({takes})."
    )


def rows() -> list[dict[str, Any]]:
    """All members, those that are there first, each as one row of what a user asks: data, size, number, cost.

    `folder`, `mib`, `number` and `picture` are None for a member that has to be built.
    """
    found = [_row(one) for one in MEMBERS]
    return sorted(found, key=lambda row: row["folder"] is None)


def _row(one: Member) -> dict[str, Any]:
    known = tables.row(one.recipe) or {}
    about = {key: known.get(key) for key in ("method", "data", "takes", "measured", "command")}
    row = {"name": f"{PREFIX}{one.name}", "recipe": one.recipe, **about}
    try:
        folder = folder_of(one.name)
        license = read_json((folder / "config.json").read_text(encoding="utf-8")).get("license")
    except (UserError, OSError, ValueError, AttributeError):  # not there, or damaged: to be built
        return row | dict.fromkeys(("folder", "mib", "number", "picture", "license"))
    made = records(folder)
    picture = folder / "masks.png"
    return row | {
        "folder": str(folder),
        "mib": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 2),
        "number": f"{made[0]['numbers']} ({made[0]['protocol']}, {made[0]['num_images']} images)" if made else None,
        "picture": str(picture) if picture.is_file() else None,
        "license": license,
    }
