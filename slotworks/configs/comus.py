"""COMUS: masks of salient objects, clustered over the data set, a segmenter trained on them, and one on what it sees.

The saliency network comes first, converted from its published file; then masks, and two trainings:

    slotworks convert basnet_unsupervised.pth --out runs/comus.voc
    slotworks label runs/comus.voc                 masks of the training images, in data/generated/comus.voc
    slotworks train comus.voc_segmenter
    slotworks train comus.voc_self_trained
    slotworks evaluate runs/comus.voc_self_trained --task semantic

Settings are those of `configs/self_training/pascal.yaml` of zadaianchuk/comus. docs/methods/comus.md says what differs.
"""

from dataclasses import replace

from slotworks.configs import dataset_diffusion
from slotworks.configs.blocks import NOTHING
from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import SCENES_ENCODER, glass_table, untrained
from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.data import VOC
from slotworks.data.stores.generated import Generated
from slotworks.methods import ComusConfig, DatasetDiffusionConfig
from slotworks.training import Adam, Run

IMAGES = VOC(image_size=512, mask_size=320, crop="whole")
SCORED = "taken to be of its own paper, after both iterations; clusters are named once, by the validation images"


@recipe(
    Published("released configs/config_clustering.yaml", note="no source of ours prints the number of the clusters"),
    takes=NOTHING,
    options="--task semantic",
)
def voc() -> Run:
    """VOC 2012: salient objects by BASNet, DINO ViT-S/8 of their boxes, 20 spectral clusters; after a conversion."""
    return untrained(ComusConfig(), IMAGES)


@recipe(Published("released configs/self_training/pascal.yaml", note="the first iteration"))
def voc_segmenter() -> Run:
    """VOC 2012, the first iteration: DeepLabV3 with DINO's ResNet-50 on `slotworks label runs/comus.voc`, 10 epochs.

    Steps are ten epochs of four fifths of trainaug; the released code labels the 1,464 images of VOC's train instead.
    """
    return Run(
        method=DatasetDiffusionConfig(
            loss_weights={"auxiliary": 0.0},
            backbone="resnet50",
            resnet="Ramos-Ramos/dino-resnet-50",
            hidden_dim=256,
            crop_scales=(1.0, 1.41),  # half of the area to all of it
            max_share=1.0,
            distort=False,
            test_scales=(1.0,),
            test_flip=False,
        ),
        data=Generated(root="data/generated/comus.voc", image_size=512, mask_size=512, real=IMAGES),
        optimizer=Adam(lr=6e-5),
        steps=1_510,
        batch_size=56,  # seven on each of eight GPUs
        num_workers=4,
        eval_every=500,
        protocol="oclf",
    )


voc_self_trained = voc_segmenter.but(
    "VOC 2012, the second iteration: anew on what the segmenter of comus.voc_segmenter sees, five epochs.",
    glass_table("table 9", {"mIoU over classes": "50.0"}, SCORED),
    method={"teacher": "runs/comus.voc_segmenter"},
    steps=755,
)


@recipe(takes=NOTHING, options="--task semantic")
def scenes_mini() -> Run:
    """Drawn scenes of one shape whose class is its colour: spectral saliency and boxes by the package's small ViT.

    Not a row of a table. One object in each image is what the method takes for granted.
    """
    return untrained(
        ComusConfig(
            encoder=replace(SCENES_ENCODER, features="keys"),
            image_size=64,
            saliency="spectral",
            min_area=20,
            box_size=64,
            num_neighbors=10,
        ),
        replace(TINY_SCENES, min_objects=1, max_objects=1, num_train=300),
    )


@recipe()
def scenes_segmenter_mini() -> Run:
    """Drawn shapes, the first iteration with a small ViT on `slotworks label comus.scenes_mini`, 300 images.

    Not a row of a table. Colours are classes, so they are not distorted.
    """
    real = replace(TINY_SCENES, min_objects=1, max_objects=1)
    return changed(
        dataset_diffusion.scenes_mini(),
        data={"root": "data/generated/comus.scenes_mini", "real": real},
        optimizer={"lr_scales": {}},
    )
