"""k-means on ViT features, beside the recipes of DINOSAUR: same images, features and number of regions. No training."""

from slotworks.configs.dinosaur import SCENES, SCENES_VIT
from slotworks.data import COCO, VOC
from slotworks.encoders.vit import DINO_B16
from slotworks.methods import FeatureKMeansConfig
from slotworks.training import Run

__all__ = ["coco", "scenes_mini", "voc"]


def voc() -> Run:
    """VOC 2012, DINO ViT-B/16, six clusters: what dinosaur.voc_mlp has to beat.

    Command:   slotworks evaluate feature_kmeans.voc
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured yet; no published number.
    """
    return Run(
        method=FeatureKMeansConfig(encoder=DINO_B16, num_slots=6),
        data=VOC(image_size=224, mask_size=320),
        steps=0,
        batch_size=1,
        protocol="oclf",
        expected="not measured yet",
    )


def coco() -> Run:
    """COCO 2017, DINO ViT-B/16, seven clusters: what dinosaur.coco_mlp has to beat.

    Command:   slotworks evaluate feature_kmeans.coco
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured yet; no published number.
    """
    return Run(
        method=FeatureKMeansConfig(encoder=DINO_B16, num_slots=7),
        data=COCO(image_size=224, mask_size=320),
        steps=0,
        batch_size=1,
        protocol="oclf",
        expected="not measured yet",
    )


def scenes_mini() -> Run:
    """Drawn shapes and the small ViT of this package, three clusters: what dinosaur.scenes_mini has to beat.

    `normalize` and `position_weight` were chosen on validation images by mBO_i.

    Command:   slotworks evaluate feature_kmeans.scenes_mini
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  FG-ARI 52.2, mBO_i 38.6; with `position_weight` 1, the best for FG-ARI, 56.6 and 28.2.
    """
    return Run(
        method=FeatureKMeansConfig(encoder=SCENES_VIT, num_slots=3, normalize=False),
        data=SCENES,
        steps=0,
        batch_size=1,
        protocol="oclf",
        expected="FG-ARI 52.2, mBO_i 38.6",
    )
