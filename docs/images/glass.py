"""Makes glass_masks.png and glass_edits.png: `python docs/images/glass.py RECON_RUN GLASS_RUN GLASS_PHASE2_RUN`.

The first eight test scenes of two objects or more, not chosen. Masks, row by row: image, true masks, those of
reconstruction alone, those of GLASS. Edits, a scene in each row: image, true masks, slots, drawn again, without the
slot of object `1 + i % m`, with that of the next scene's, and that in the place of its own.

With `--blind FOLDER` the third run makes twenty single edits for somebody to name who does not know them: `before` and
`after` of each side by side, and what was done in `answers.json`.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slotworks import load
from slotworks.configs.glass import painted_mini
from slotworks.evaluation.edits import draw_edits
from slotworks.evaluation.masks import inspecting, predicted_masks
from slotworks.evaluation.samples import contact_sheet, to_pixels
from slotworks.evaluation.show import show, show_edits
from slotworks.types import to_batch

HOW = {"steps": 25, "cfg_scale": 1.5}  # of the sampler
HERE = Path(__file__).parent
SCENES = painted_mini().data.images.real


def pictures(recon_run: str, glass_run: str, phase2_run: str) -> None:
    scenes = SCENES.open("test")
    indices = list(islice((i for i in range(len(scenes)) if scenes[i]["num_objects"] > 1), 8))
    batch = to_batch(scenes.__getitems__(indices), torch.device("cpu"))
    rows = []
    for folder in (recon_run, glass_run):
        method = load(folder, device="cpu")[1]
        with inspecting(method, seed=0):
            masks = predicted_masks(method.encode(batch["image"]), None, size=(64, 64))
        shown = list(show(batch, masks=masks).rows.values())
        rows += shown if not rows else shown[-1:]
    contact_sheet(rows).save(HERE / "glass_masks.png", optimize=True)
    edits = show_edits(load(phase2_run, device="cpu")[1], batch, **HOW)
    edits.sheet(across=True).save(HERE / "glass_edits.png", optimize=True)


def blind(run: str, folder: str) -> None:
    out, scenes, method = Path(folder), SCENES.open("val"), load(run, device="cpu")[1]
    out.mkdir(parents=True, exist_ok=True)
    indices = list(islice((i for i in range(len(scenes)) if 1 < scenes[i]["num_objects"] < 5), 20))
    batch = to_batch(scenes.__getitems__(indices), torch.device("cpu"))
    count = batch["num_objects"]
    with inspecting(method, seed=0):
        mask = batch["mask"]
        gone = 1 + torch.arange(20) % count
        _, drawn = draw_edits(method, batch["image"], mask == gone[:, None, None], **HOW)
    kinds = np.random.default_rng(0).choice(["removed", "added", "swapped"], 20)
    names = {key: list(getattr(SCENES, key)) for key in ("shapes", "colors")}
    answers, pairs = [], []
    for i, kind in enumerate(kinds):
        pairs.append([Image.fromarray(to_pixels(drawn[name][i])) for name in ("before", str(kind))])
        own, new = (_named(batch, j, int(gone[j]) - 1, names) for j in (i, (i + 1) % 20))
        answers.append({"scene": indices[i], "edit": str(kind), "object": own, "new": new})
    for part in range(0, 20, 10):
        contact_sheet(pairs[part : part + 10], cell=128).save(out / f"edits_{part}.png")
    contact_sheet([[Image.fromarray(one)] for one in to_pixels(batch["image"])], cell=64).save(out / "scenes.png")
    (out / "answers.json").write_text(json.dumps(answers, indent=1))


def _named(batch: dict, scene: int, which: int, names: dict[str, list[str]]) -> str:
    color, shape = (int(batch[key][scene, which]) - 1 for key in ("color", "shape"))
    place = [round(100 * float(batch[key][scene, which])) for key in ("x", "y")]
    return f"{names['colors'][color]} {names['shapes'][shape]} at {place[0]} {place[1]}"


if __name__ == "__main__":
    if "--blind" in sys.argv:
        blind(sys.argv[1], sys.argv[3])
    else:
        pictures(*sys.argv[1:4])
