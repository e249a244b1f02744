"""`slotworks demo glass`: the whole of GLASS in miniature, from captions to an edited picture."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from slotworks.cli.console import err, out, parse, percent, print_json, show_page
from slotworks.cli.train import check_stopped
from slotworks.errors import UserError, check_extra
from slotworks.files import check_writable, replacing
from slotworks.machine import Precision
from slotworks.ranges import check_options

if TYPE_CHECKING:
    from slotworks.training import Run

EDIT_STEPS, EDIT_SCALE = 20, 1.5  # of the sampler
REMOVALS = 64  # drawn scenes from which an object is taken


def main(argv: Sequence[str]) -> int:
    """Parse and run."""
    parse(demo_glass, argv, verb="demo glass")
    return 0


def demo_glass(
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("runs/demo_glass"),
    images: int = 1_000,
    steps: int | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    device: str | None = None,
    open: bool = True,
    json: bool = False,
) -> None:
    """GLASS from nothing, without a download: generate images with pseudo-masks, guide slots with them, edit a picture.

    1. The small diffusion model of this package draws images from captions; its attention gives masks of classes.
    2. StableLSD is trained on them, without the masks: what GLASS is compared with.
    3. GLASS is trained on them: slots first, then the U-Net as well.
    4. Both are measured on drawn scenes that neither has seen.
    5. An object is taken out of a drawn scene.

    Stopped, it goes on where it was. The recipes are glass.scenes, stable_lsd.scenes_mini, glass.scenes_mini and
    glass.scenes_phase2_mini.

    Examples:
      slotworks demo glass
      slotworks demo glass --images 300 --steps 500        a quick look

    Args:
        out_folder: folder of everything.
        images: how many are generated.
        steps: of each training, in the place of the recipes'.
        seed: of weights, data order and noise.
        precision: of generation and training: 32, bf16 or 16; auto: what this device computes fast.
        device: cpu, cuda, cuda:1 or mps; by default the first GPU, or the CPU.
        open: show the report in a browser where there is one.
        json: print the result as JSON.
    """
    from slotworks import api
    from slotworks.configs import glass, stable_lsd
    from slotworks.configs.synthesis import RECIPES
    from slotworks.data.stores.generated import Generated

    began = time.monotonic()
    check_options(num_images=images, steps=steps, seed=seed)
    check_writable(out_folder)
    check_extra("synthesis", "diffusers", "pyarrow.parquet")
    generated = out_folder / "generated"
    _say(1, f"{images:,} images from captions, with masks from attention")
    synthesis = replace(RECIPES["glass.scenes"](), num_images=images, precision=precision)
    made = api.synthesize(synthesis, generated, device=device)

    def on_generated(run: "Run") -> "Run":
        data: Any = run.data
        real = data.images.real if isinstance(data.images, Generated) else data.images
        shards = Generated(root=str(generated), image_size=64, mask_size=64, real=real)
        data = replace(data, images=shards, flips=True)
        return replace(run, data=data, seed=seed, steps=steps or run.steps, precision=precision)

    answers, folders = {}, {}
    runs = {
        "stable_lsd": (2, "StableLSD on these images", stable_lsd.scenes_mini()),
        "glass": (3, "GLASS, phase 1: slots guided by the masks", glass.scenes_mini()),
        "glass_phase2": (3, "GLASS, phase 2: the U-Net as well", glass.scenes_phase2_mini()),
    }
    for name, (number, text, run) in runs.items():
        _say(number, text)
        folders[name] = out_folder / name
        if name == "glass_phase2":
            run = replace(run, method=replace(run.method, phase_1=str(folders["glass"])))
        answers[name] = api.train(on_generated(run), folders[name], device=device)
        if "metrics" not in answers[name]:
            err.print("Stopped; the same command goes on from there.")
            check_stopped(answers[name])
            return

    _say(4, f"removal of an object from each of {REMOVALS} drawn scenes")
    last = folders["glass_phase2"]
    how = {"steps": EDIT_STEPS, "cfg_scale": EDIT_SCALE, "device": device}
    removal = api.evaluate(last, task="removal", num_images=REMOVALS, **how)[0]
    _say(5, "an object is taken out of a drawn scene")
    edits = _edit(last, seed, device)
    pictures = last / "pictures"
    if made["sheet"]:
        with replacing(pictures / "generated_sheet.png") as beside:
            beside.write_bytes(Path(made["sheet"]).read_bytes())
    from slotworks.reports import write_report

    page = write_report(last)
    scores = {
        name: {metric: answer["metrics"][metric]["mean"] for metric in ("miou_i", "mbo_i", "fg_ari")}
        for name, answer in answers.items()
    }
    answer = {
        "folder": str(out_folder),
        "images": made["images"],
        "scores": scores,
        "removal": {name: value["mean"] for name, value in removal["metrics"].items()},
        "edits": edits,
        "report": str(page),
        "seconds": time.monotonic() - began,
    }
    if json:
        print_json(answer)
        return
    for name, text in (("stable_lsd", "StableLSD"), ("glass", "GLASS")):
        found = scores[name]
        out.print(
            f"{text:<10} mIoU_i {percent(found['miou_i'])}  mBO_i {percent(found['mbo_i'])}  "
            f"FG-ARI {percent(found['fg_ari'])}  on held-out drawn scenes"
        )
    out.print(f"Edits that remove their object and nothing else: {percent(removal['metrics']['success']['mean'])}")
    out.print(f"Open {page.resolve()}", soft_wrap=True, markup=False)
    show_page(page, open=open)


def _edit(run: Path, seed: int, device: str | None) -> list[str]:
    """Draw a scene that the run has not seen and take one object out; gives the files written."""
    from PIL import Image

    from slotworks import api
    from slotworks.configs.tiny_diffusion import TINY_SCENES

    scenes = TINY_SCENES.open("test")
    for index in range(64):
        scene = scenes[index]
        if scene["num_objects"] == 3:
            break
    else:
        raise UserError("No drawn scene has three objects.")
    x, y = (round(64 * float(scene[axis][2])) for axis in ("x", "y"))  # the nearest object, which nothing covers
    with replacing(run / "pictures" / "scene.png") as beside:
        Image.fromarray(scene["image"]).save(beside, format="PNG")
    answers = api.edit(
        run,
        run / "pictures" / "scene.png",
        out=run / "pictures",
        remove_at=[(min(x, 63), min(y, 63))],
        steps=EDIT_STEPS,
        cfg_scale=EDIT_SCALE,
        seed=seed,
        device=device,
    )
    return answers[0]["written"]


def _say(number: int, text: str) -> None:
    err.print(f"[bold]{number} of 5[/bold]  {text}", soft_wrap=True)
