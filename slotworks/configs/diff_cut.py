"""DiffCut. Nothing is trained; `--task semantic` scores it as its authors do, matching in every image.

Its published numbers are of refined masks, compared at 128 pixels (`eval_diffcut.py --refinement` of its code).
"""

from slotworks.configs.blocks import NOTHING
from slotworks.configs.recipe import recipe
from slotworks.configs.shared import glass_table, untrained
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.methods import DiffCutConfig
from slotworks.training import Run

HOW = "of its own paper; with PAMR, compared at 128 pixels"


@recipe(glass_table("table 9", {"mIoU over classes": "65.2"}, HOW), takes=NOTHING, options="--task semantic")
def voc() -> Run:
    """VOC 2012, SSD-1B. The middle square of pictures, stored at 512 pixels and enlarged to 1024."""
    return untrained(DiffCutConfig(refinement=10), VOC(image_size=512, mask_size=128, interpolation="bilinear"))


voc_unrefined = voc.but(
    "VOC 2012, SSD-1B, borders as the cuts leave them.",
    glass_table("table 9", {}, "prints the refined number"),
    method={"refinement": 0},
)


voc_sd14 = voc.but(
    "VOC 2012, Stable Diffusion 1.4, the smaller choice of the released code.",
    method={"model": "CompVis/stable-diffusion-v1-4"},
)

coco = voc.but(
    "COCO 2017, 80 classes and the background.",
    glass_table("table 9", {"mIoU over classes": "34.1"}, HOW),
    data=COCO(image_size=512, mask_size=128, interpolation="bilinear"),
)


@recipe(takes=NOTHING, options="--task semantic")
def painted_mini() -> Run:
    """Painted scenes, the package's diffusion model of these: features of 4 x 4 places.

    Not a row of a table. `tau` was set once and not tried otherwise.
    """
    method = DiffCutConfig(model="package:painted_diffusion", input_size=64, num_slots=8, tau=0.9, map_size=64)
    return untrained(method, PaintedScenes())
