"""MaskCLIP with CLIP ViT-B/16. Nothing is trained; `--task semantic` scores it, slot `k` being class `k`."""

from slotworks.configs.blocks import NOTHING
from slotworks.configs.recipe import Published, recipe
from slotworks.configs.shared import glass_table, untrained
from slotworks.configs.tiny_clip import CAPTIONED
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.data.scenes.shapes import BACKGROUNDS
from slotworks.methods import MaskCLIPConfig
from slotworks.training import Run
from slotworks.vocabulary import COCO_CLASSES, as_words


@recipe(
    glass_table("table 9", {"mIoU over classes": "38.8"}, "its way to find the background is not stated"),
    takes=NOTHING,
    options="--task semantic",
)
def voc() -> Run:
    """VOC 2012 with the background as a class, won by names of surroundings."""
    return untrained(MaskCLIPConfig(), VOC(image_size=512, mask_size=320, crop="whole", interpolation="bilinear"))


voc_foreground = voc.but(
    "VOC 2012 with 20 classes and no background, scored on foreground pixels alone.",
    Published(
        "README of the released code, table of VOC", {"mIoU over classes": "49.5"}, "20 classes, foreground pixels only"
    ),
    options="--task semantic --count-background False",
    method={"background": "none"},
)

coco = voc.but(
    "COCO 2017 with 80 classes and the background.",
    glass_table("table 9", {"mIoU over classes": "20.6"}),
    method=MaskCLIPConfig(class_names=as_words(COCO_CLASSES)),
    data=COCO(image_size=512, mask_size=320, crop="whole", interpolation="bilinear"),
)


@recipe(takes=NOTHING, options="--task semantic")
def painted_mini() -> Run:
    """Painted scenes, four shapes and five grounds by the package's small CLIP.

    Not a row of a table.
    """
    method = MaskCLIPConfig(
        model="package:tiny_clip",
        image_size=64,
        class_names=CAPTIONED.class_names[:4],
        background_names=tuple(f"on {name}" for name in BACKGROUNDS),
        templates=("{}",),
    )
    return untrained(method, PaintedScenes())
