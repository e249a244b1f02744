"""OVDiff: prototypes from generated images of each class, nothing is trained; see the method for what is our choice.

Images are made first; the first evaluation takes the prototypes from them and keeps them in the run folder:

    slotworks synthesize ov_diff.voc
    slotworks evaluate ov_diff.voc --task semantic
"""

from slotworks.configs.recipe import recipe
from slotworks.configs.shared import SCENES_VIT, glass_table, untrained
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.data.stores.generated import Generated
from slotworks.encoders.diffusion import DiffusionFeaturesConfig
from slotworks.methods import OVDiffConfig
from slotworks.training import Run
from slotworks.types import DataConfig
from slotworks.vocabulary import COCO_CLASSES


def _support(name: str, real: DataConfig) -> Generated:
    return Generated(root=f"data/generated/{name}", image_size=512, mask_size=512, real=real)


@recipe(
    glass_table("table 9", {"mIoU over classes": "66.3"}, "taken to be of its own paper"),
    takes="not measured here",
    options="--task semantic",
)
def voc() -> Run:
    """VOC 2012 with the background: features of DINO, CLIP and Stable Diffusion 1.5, 32 images of each class."""
    return untrained(OVDiffConfig(), _support("ov_diff.voc", VOC(image_size=512, mask_size=320, crop="whole")))


coco = voc.but(
    "COCO 2017 with 80 classes and the background.",
    glass_table("table 9", {"mIoU over classes": "34.6"}, "taken to be of its own paper"),
    method={"class_names": COCO_CLASSES},
    data=_support("ov_diff.coco", COCO(image_size=512, mask_size=320, crop="whole")),
)


@recipe(takes="not measured here", options="--task semantic")
def scenes_mini() -> Run:
    """Painted scenes, four shapes: features of the package's small ViT and diffusion model, 32 images of each.

    Not a row of a table. No CLIP chooses among classes.
    """
    scenes = PaintedScenes()
    return untrained(
        OVDiffConfig(
            class_names=scenes.shapes,
            image_size=64,
            vits=(SCENES_VIT,),
            diffusion=DiffusionFeaturesConfig(
                "package:painted_diffusion",
                image_size=64,
                attentions=(5, 6, 7, 8),
                timestep=200,
                feature_side=16,
                feature_dim=192,
            ),
            num_parts=8,
            clip_filter="",
            map_size=64,
        ),
        Generated(root="data/generated/ov_diff.painted", image_size=64, mask_size=64, real=scenes),
    )
