"""DiffuMask: a segmenter trained on generated images of one object, whose masks have a threshold each.

Images come first, then the segmenter of Dataset Diffusion learns from them, several put together in one:

    slotworks synthesize diffu_mask.voc
    slotworks train diffu_mask.voc
    slotworks evaluate runs/diffu_mask.voc --task semantic --batch-size 8

docs/methods/diffu_mask.md says what differs from the released code; its segmenter is a Mask2Former.
"""

from slotworks.configs import dataset_diffusion
from slotworks.configs.recipe import changed, recipe
from slotworks.configs.shared import glass_table
from slotworks.data.scenes import PaintedScenes
from slotworks.training import Run


@recipe(
    glass_table("table 9", {"mIoU over classes": "57.4"}, "taken to be of its own paper; of a Mask2Former there"),
)
def voc() -> Run:
    """VOC 2012, DeepLabV3 with ResNet-101 on `slotworks synthesize diffu_mask.voc`, put together of 1, 4 or 9 images.

    Rate, batch and steps are those of Dataset Diffusion's segmenter.
    """
    return changed(
        dataset_diffusion.voc(),
        method={"splices": (1, 2, 3)},
        data={"root": "data/generated/diffu_mask.voc"},
    )


@recipe(takes="not measured here")
def scenes_mini() -> Run:
    """Painted scenes, four shapes: a small ViT on the masks of `slotworks synthesize diffu_mask.painted`.

    Not a row of a table.
    """
    scenes = PaintedScenes()
    return changed(
        dataset_diffusion.scenes_mini(),
        method={"class_names": scenes.shapes, "splices": (1, 2), "distort": True},
        data={"root": "data/generated/diffu_mask.painted", "real": scenes},
    )
