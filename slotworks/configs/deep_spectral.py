"""Deep Spectral Methods, and its self-training: a segmenter trained on the clusters of the segments.

Segments need no training: `--task semantic` clusters those of all images and matches clusters with classes. For the
self-training their masks are written first, and by default `slotworks train` reads them where they are written:

    slotworks label deep_spectral.voc_crf        masks of the training images, in data/generated/deep_spectral.voc_crf
    slotworks train deep_spectral.voc_stage2
    slotworks evaluate runs/deep_spectral.voc_stage2 --task semantic

docs/methods/baselines.md says what is not in our sources.
"""

from dataclasses import replace

from slotworks.configs import dataset_diffusion
from slotworks.configs.blocks import NOTHING
from slotworks.configs.recipe import changed, recipe
from slotworks.configs.shared import SCENES_ENCODER, glass_table, untrained
from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.data import COCO, VOC
from slotworks.data.stores.generated import Generated
from slotworks.methods import DatasetDiffusionConfig, DeepSpectralConfig
from slotworks.training import Adam, Run

IMAGES = VOC(image_size=480, mask_size=320, crop="whole")


@recipe(
    glass_table("table 9", note="prints the number after the self-training, that of voc_stage2"),
    takes=NOTHING,
    options="--task semantic",
)
def voc() -> Run:
    """VOC 2012: segments from DINO ViT-S/16, clustered over the validation images into 20 classes and background."""
    return untrained(DeepSpectralConfig(), IMAGES)


voc_crf = voc.but(
    "VOC 2012, the clusters of each image drawn to its borders by a fully connected CRF; makes masks for voc_stage2.",
    glass_table("table 9", note="prints the number of voc_stage2; settings of the released extract/extract.py"),
    method={"crf_iterations": 5},
)

coco = voc.but("COCO 2017; not a row of a table.", data=COCO(image_size=480, mask_size=320, crop="whole"))


@recipe(
    glass_table("table 9", {"mIoU over classes": "37.2"}, "by --task semantic; of its own paper, with self-training"),
)
def voc_stage2() -> Run:
    """VOC 2012, self-training: DeepLabV3+ with DINO's ResNet-50 on `slotworks label deep_spectral.voc_crf`.

    Rate and batch are those of the README's command; `train.yaml` has 5e-3 and `base.yaml` 144.
    """
    return Run(
        method=DatasetDiffusionConfig(
            image_size=224,
            loss_weights={"auxiliary": 0.0},
            backbone="resnet50",
            resnet="Ramos-Ramos/dino-resnet-50",
            frozen_stages=4,  # its last stage is trained
            low_level_dim=48,
            hidden_dim=256,
            crop_scales=(8 / 7, 4.04),  # of 256 pixels a window of 224, and of this again 1 to 0.08 of the area
            max_share=1.0,
            test_scales=(1.0,),
            test_flip=False,
        ),
        data=Generated(root="data/generated/deep_spectral.voc_crf", image_size=224, mask_size=224, real=IMAGES),
        optimizer=Adam(lr=2e-4, weight_decay=1e-8, decay="linear"),
        steps=5_000,
        batch_size=96,
        num_workers=4,
        eval_every=1_000,
        protocol="oclf",
    )


@recipe(takes=NOTHING, options="--task semantic")
def scenes_mini() -> Run:
    """Drawn shapes whose class is their colour: segments from the small ViT of the package, clustered and refined.

    Not a row of a table. Segments, eigenvectors and the weight of colours were chosen on validation images.
    """
    return untrained(
        DeepSpectralConfig(
            encoder=replace(SCENES_ENCODER, features="keys"),
            num_slots=3,
            num_eigenvectors=6,
            color_weight=1.0,
            erode=0,
            dilate=0,
            crf_iterations=5,
        ),
        replace(TINY_SCENES, num_train=300),
    )


@recipe(takes="one and a half minutes of a CPU core; beside nine other processes 22")
def scenes_stage2_mini() -> Run:
    """Drawn shapes, self-training with a small ViT on `slotworks label deep_spectral.scenes_mini`, 300 images.

    Not a row of a table, and no better than the masks it learns from. Colours are classes, so they are not distorted.
    """
    return changed(
        dataset_diffusion.scenes_mini(),
        data={"root": "data/generated/deep_spectral.scenes_mini"},
        optimizer={"lr_scales": {}},
    )
