"""`slotworks demo glass`: the whole of GLASS in miniature, from captions to an edited picture."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from slotworks.cli.console import err, out, parse, percent, print_json, show_page
from slotworks.cli.train import check_stopped
from slotworks.errors import check_extra
from slotworks.files import check_writable, replacing
from slotworks.machine import Precision
from slotworks.ranges import check_options

if TYPE_CHECKING:
    from slotworks.training import Run

EDIT_STEPS, EDIT_SCALE = 20, 1.5  # of the sampler
EDITS = 48  # painted scenes whose edits are scored
SHOWN = 8  # whose edits are shown
PHASES = (650, 120)  # steps of both, fewer than the recipes' 2,000 and 800


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(demo_glass, argv, verb="demo glass")
    return 0


def demo_glass(
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("runs/demo_glass"),
    images: int = 300,
    steps: int | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    device: str | None = None,
    open: bool = True,
    json: bool = False,
) -> None:
    """GLASS from nothing, without a download: generate images with pseudo-masks, guide slots with them, edit pictures.

    1. The diffusion model of painted scenes draws images from captions; its attention gives masks of classes.
    2. GLASS is trained on them, phase 1: slots guided by the masks.
    3. Phase 2: the U-Net as well.
    4. Objects are taken out of painted scenes that it has not seen, added and swapped; these edits are scored.
    5. They are shown.

    Stopped, it goes on where it was. The recipes are glass.painted, glass.painted_mini and glass.painted_phase2_mini,
    with fewer images and steps.

    Examples:
      slotworks demo glass
      slotworks demo glass --images 100 --steps 200        a quick look

    Args:
        out_folder: folder of everything.
        images: how many are generated.
        steps: of each training, in the place of the demo's.
        seed: of weights, data order and noise.
        precision: of generation and training: 32, bf16 or 16; auto: what this device computes fast.
        device: cpu, cuda, cuda:1 or mps; by default the first GPU, or the CPU.
        open: show the report in a browser where there is one.
        json: print the result as JSON.
    """
    from slotworks import api
    from slotworks.configs import glass
    from slotworks.configs.synthesis import RECIPES

    began = time.monotonic()
    check_options(num_images=images, steps=steps, seed=seed)
    check_writable(out_folder)
    check_extra("synthesis", "diffusers", "pyarrow.parquet")
    generated, first, last = (out_folder / name for name in ("generated", "glass", "glass_phase2"))
    _say(1, f"{images:,} images from captions, with masks from attention")
    synthesis = replace(RECIPES["glass.painted"](), num_images=images, precision=precision)
    made = api.synthesize(synthesis, generated, device=device)

    def shortened(run: "Run", default: int) -> "Run":
        data: Any = run.data
        data = replace(data, images=replace(data.images, root=str(generated)))
        count = steps or default
        return replace(run, data=data, seed=seed, steps=count, eval_every=count, precision=precision)

    second = glass.painted_phase2_mini()
    second = replace(second, method=replace(second.method, phase_1=str(first)))
    runs = {
        first: (2, "GLASS, phase 1: slots guided by the masks", glass.painted_mini(), PHASES[0]),
        last: (3, "GLASS, phase 2: the U-Net as well", second, PHASES[1]),
    }
    scores: dict[str, dict[str, float]] = {}
    for folder, (number, text, run, default) in runs.items():
        _say(number, text)
        answer = api.train(shortened(run, default), folder, device=device)
        if "metrics" not in answer:
            err.print("Stopped; the same command goes on from there.")
            check_stopped(answer)
            return
        scores[folder.name] = {name: answer["metrics"][name]["mean"] for name in ("miou_i", "mbo_i", "fg_ari")}

    _say(4, f"an object of each of {EDITS} painted scenes taken out, added, swapped")
    how = {"steps": EDIT_STEPS, "cfg_scale": EDIT_SCALE}
    edits = api.evaluate(last, task="edits", num_images=EDITS, device=device, **how)[0]["metrics"]
    _say(5, f"edits of {SHOWN} scenes drawn")
    pictures = last / "pictures"
    pictures.mkdir(exist_ok=True)
    if made["sheet"]:
        with replacing(pictures / "generated_sheet.png") as beside:
            beside.write_bytes(Path(made["sheet"]).read_bytes())
    sheet = _show(last, pictures / "edits_sheet.png", device, how)
    from slotworks.reports import write_report

    page = write_report(last)
    answer = {
        "folder": str(out_folder),
        "images": made["images"],
        "scores": scores,
        "edits": {name: value["mean"] for name, value in edits.items()},
        "sheet": str(sheet),
        "report": str(page),
        "seconds": time.monotonic() - began,
    }
    if json:
        print_json(answer)
        return
    found = scores[last.name]
    out.print(
        f"GLASS  mIoU_i {percent(found['miou_i'])}  mBO_i {percent(found['mbo_i'])}  "
        f"FG-ARI {percent(found['fg_ari'])}  on held-out painted scenes"
    )
    said = {"removal": "taken out", "added": "added", "swapped": "swapped"}
    text = ", ".join(f"{word} {percent(edits[name]['mean'])}" for name, word in said.items())
    out.print(f"Edits that land where they should, of those that can: {text}")
    out.print(
        f"In each row a scene, its slots, drawn again, one object out, one added, swapped: {sheet}", soft_wrap=True
    )
    out.print(f"Open {page.resolve()}", soft_wrap=True, markup=False)
    show_page(page, open=open)


def _show(run: Path, file: Path, device: str | None, how: dict[str, Any]) -> Path:
    """Edits of the first test scenes, each in a row."""
    from slotworks import load
    from slotworks.configs.glass import painted_mini
    from slotworks.evaluation.show import show_edits
    from slotworks.types import to_batch

    data: Any = painted_mini().data
    scenes = data.images.real.open("test")
    sheet = show_edits(load(run, device=device)[1], to_batch(scenes.__getitems__(range(SHOWN))), **how)
    with replacing(file) as beside:
        sheet.sheet(across=True).save(beside, format="PNG")
    return file


def _say(number: int, text: str) -> None:
    err.print(f"[bold]{number} of 5[/bold]  {text}", soft_wrap=True)
