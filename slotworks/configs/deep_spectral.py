"""Deep Spectral Methods without CRF and self-training. Nothing is trained; `--task semantic` for classes."""

from slotworks.configs.blocks import NOTHING
from slotworks.configs.recipe import recipe
from slotworks.configs.shared import glass_table, untrained
from slotworks.data import COCO, VOC
from slotworks.methods import DeepSpectralConfig
from slotworks.training import Run


@recipe(
    glass_table("table 9", {"mIoU over classes": "37.2"}, "of its own paper, after self-training, not included"),
    takes=NOTHING,
    options="--task semantic",
)
def voc() -> Run:
    """VOC 2012: segments from DINO ViT-S/16, clustered over the validation images into 20 classes and background."""
    return untrained(DeepSpectralConfig(), VOC(image_size=480, mask_size=320, crop="whole"))


coco = voc.but("COCO 2017; not a row of a table.", data=COCO(image_size=480, mask_size=320, crop="whole"))
