"""Single edits for somebody to name who does not know them: `python docs/images/blind.py RUN FOLDER`.

RUN draws painted scenes from slots. Twenty validation scenes of two to four objects, one edit each: `before` and
`after` side by side in two pictures, the scenes in a third, and what was done in `answers.json`.
"""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from slotworks import load
from slotworks.data.scenes import PaintedScenes
from slotworks.evaluation.edits import draw_edits
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.samples import contact_sheet, to_pixels
from slotworks.types import to_batch

SCENES = PaintedScenes()


def blind(run: str, folder: str, **how: Any) -> None:
    """`how` are options of `slotworks.evaluation.rendering.render`."""
    out, scenes, method = Path(folder), SCENES.open("val"), load(run, device="cpu")[1]
    out.mkdir(parents=True, exist_ok=True)
    indices = list(islice((i for i in range(len(scenes)) if 1 < scenes[i]["num_objects"] < 5), 20))
    batch = to_batch(scenes.__getitems__(indices), torch.device("cpu"))
    count = batch["num_objects"]
    with inspecting(method, seed=0):
        mask = batch["mask"]
        gone = 1 + torch.arange(20) % count
        _, drawn = draw_edits(method, batch["image"], mask == gone[:, None, None], **how)
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
    blind(*sys.argv[1:3])
