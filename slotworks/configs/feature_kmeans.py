"""k-means on ViT features, beside the recipes of DINOSAUR: same images, features and number of regions. No training."""

from slotworks.configs.blocks import NOTHING
from slotworks.configs.dinosaur import SCENES
from slotworks.configs.recipe import recipe
from slotworks.configs.shared import PAINTED, SCENES_ENCODER, SCENES_VIT, untrained
from slotworks.data import COCO, VOC
from slotworks.data.readers.pictures import Pictures
from slotworks.encoders.vit import DINO_B16, DINOV2_S14_NORMED
from slotworks.methods import FeatureKMeansConfig
from slotworks.training import Run


@recipe(takes=NOTHING)
def voc() -> Run:
    """VOC 2012, DINO ViT-B/16, six clusters: what dinosaur.voc_mlp has to beat."""
    return untrained(FeatureKMeansConfig(encoder=DINO_B16, num_slots=6), VOC(image_size=224, mask_size=320))


@recipe(takes=NOTHING)
def coco() -> Run:
    """COCO 2017, DINO ViT-B/16, seven clusters: what dinosaur.coco_mlp has to beat."""
    return untrained(FeatureKMeansConfig(encoder=DINO_B16, num_slots=7), COCO(image_size=224, mask_size=320))


@recipe(takes=NOTHING)
def scenes_mini() -> Run:
    """Drawn shapes and the small ViT of this package, three clusters: what dinosaur.scenes_mini has to beat.

    `normalize` and `position_weight` were chosen on validation images by mBO_i.
    """
    return untrained(FeatureKMeansConfig(encoder=SCENES_VIT, num_slots=3, normalize=False), SCENES)


@recipe(takes=NOTHING)
def painted_mini() -> Run:
    """Painted scenes and the small ViT of this package, six clusters: what slot_diffusion.painted_mini has to beat."""
    return untrained(FeatureKMeansConfig(encoder=SCENES_ENCODER, num_slots=6, normalize=False), PAINTED.images)


@recipe(takes=NOTHING)
def photos() -> Run:
    """Own photographs, DINOv2 ViT-S/14 behind its last norm, six clusters: what dinosaur.photos_mlp has to beat.

    `--set method.smooth=3` averages the masks over three by three patches, which is a fairer baseline.
    """
    return untrained(
        FeatureKMeansConfig(encoder=DINOV2_S14_NORMED, num_slots=6), Pictures(flip=False), "oclf[attention]"
    )
