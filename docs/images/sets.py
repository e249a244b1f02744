"""Draws sets.png from a run, and prints what it says of each object after each iteration, as Markdown.

Run `python docs/images/sets.py runs/set_prediction.scenes_mini [IMAGES [T]]`, by default three images of the test split
and T = 5 iterations: table 1 of Slot Attention's supplement. A row of the picture is an image, then which slot has most
of the attention at each place after iteration 1, 2, ... Wrong classes, and distances above 0.5 of 6, are bold.
"""

import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from slotworks.api import load
from slotworks.editing.pictures import to_picture
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.samples import PALETTE, contact_sheet
from slotworks.evaluation.sets import Seen, follow
from slotworks.training import load_run
from slotworks.types import to_batch

HERE = Path(__file__).parent
FAR = 0.5  # the supplement's


def cell(seen: Seen) -> str:
    distance = f"d={seen.distance:.2f}"
    return f"{seen}, {f'**{distance}**' if seen.distance > FAR else distance}"


def sets(folder: str, count: int = 3, iterations: int = 5) -> None:
    own = load_run(Path(folder)).method
    run, method = load(folder, device="cpu", config=replace(own, test_iterations=iterations))
    with inspecting(method, seed=0):
        batch = to_batch(run.data.open(run.eval_split).__getitems__(range(count)))
        output, followed = follow(method, batch, run.data.categories)
    rows = []
    for i, objects in enumerate(followed):
        maps = [replace(output, attn=attn).attn_maps[i].argmax(dim=0).numpy() for attn in output.attn_steps]
        rows.append([to_picture(batch["image"][i]), *(Image.fromarray(PALETTE[one]) for one in maps)])
        print(f"\n| image {i + 1} | {' | '.join(f't={t}' for t in range(1, iterations + 1))} |")
        print(f"| --- {'| --- ' * iterations}|")
        for true, steps in objects:
            print(f"| {true} | {' | '.join(map(cell, steps))} |")
    contact_sheet(rows).save(HERE / "sets.png", optimize=True)


if __name__ == "__main__":
    sets(sys.argv[1], *map(int, sys.argv[2:]))
