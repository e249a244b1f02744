"""EmerDiff from summaries of the paper (see the method). Nothing is trained; forty denoisings per image."""

from slotworks.configs.blocks import NOTHING
from slotworks.configs.recipe import Published, recipe
from slotworks.configs.shared import glass_table, untrained
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.methods import EmerDiffConfig
from slotworks.training import Run


@recipe(
    glass_table("table 9", {"mIoU over classes": "40.3"}, "no other source confirms it"),
    takes=NOTHING,
    options="--task semantic",
)
def voc() -> Run:
    """VOC 2012, Stable Diffusion 1.4."""
    return untrained(EmerDiffConfig(), VOC(image_size=512, mask_size=320, crop="whole"))


coco = voc.but(
    "COCO 2017, Stable Diffusion 1.4.",
    Published(
        "GLASS, table 9", {"mIoU over classes": "33.1"}, "also its paper's number on ADE20K: not to be relied on"
    ),
    data=COCO(image_size=512, mask_size=320, crop="whole"),
)


@recipe(takes=NOTHING, options="--task semantic")
def painted_mini() -> Run:
    """Painted scenes, the package's diffusion model of these, eight clusters of queries.

    Not a row of a table. Settings were set once and not tried otherwise.
    """
    small = {"image_size": 64, "num_slots": 8, "num_steps": 20, "blur": 1.0, "map_stride": 1}
    return untrained(EmerDiffConfig(model="package:painted_diffusion", **small), PaintedScenes())
