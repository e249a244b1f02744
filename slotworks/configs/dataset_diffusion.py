"""Dataset Diffusion's segmenter on generated images of VOC's and COCO's classes, and in miniature (Nguyen et al. 2023).

Training images are made first: `slotworks synthesize dataset_diffusion.voc` makes those of `dataset_diffusion.voc` in
`data/generated/dataset_diffusion.voc`, and so on. The second training (`_stage2`) needs the run folder of the first: by
default the one that `slotworks train` makes. Tests are on real images, scored as classes:

    slotworks evaluate runs/dataset_diffusion.voc_stage2 --task semantic --batch-size 8

Settings are those of `configs/voc` and `configs/coco` of VinAIResearch/Dataset-Diffusion, the numbers are table 9's of
GLASS. docs/methods/dataset_diffusion.md says what is not in our sources.
"""

from dataclasses import replace

from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import SCENES_ENCODER, glass_table
from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.data.stores.generated import Generated
from slotworks.encoders.vit import DINOV2_B14_NORMED_448
from slotworks.methods import DatasetDiffusionConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig
from slotworks.vocabulary import COCO_CLASSES

ADAM = Adam(
    lr=1e-4,
    weight_decay=1e-4,
    decay="linear",
    decay_power=0.9,
    max_grad_norm=0.01,
    lr_scales={"backbone": 0.1},
)

FIRST = "the first training; no source of ours prints its number"
SCORED = "by --task semantic; of its own paper, its best, taken as that of the second training"


def _generated(name: str, real: DataConfig, size: int = 512) -> Generated:
    """Generated images with their masks, real ones to evaluate on."""
    return Generated(root=f"data/generated/{name}", image_size=size, mask_size=512, real=real)


@recipe(Published("released configs/voc/deeplabv3_r101_genvoc_20k_adamw.py", note=FIRST))
def voc() -> Run:
    """VOC 2012, DeepLabV3 with ResNet-101, the first training, on `slotworks synthesize dataset_diffusion.voc`."""
    return Run(
        method=DatasetDiffusionConfig(),
        data=_generated(
            "dataset_diffusion.voc", VOC(image_size=512, mask_size=320, crop="whole", interpolation="bilinear")
        ),
        optimizer=ADAM,
        steps=20_000,
        batch_size=8,  # four on each of two GPUs
        num_workers=4,
        eval_every=5_000,
        protocol="oclf",
    )


coco = voc.but(
    "COCO 2017, DeepLabV3 with ResNet-101, the first training, on `slotworks synthesize dataset_diffusion.coco`.",
    Published("released configs/coco/deeplabv3_r101_gencoco_40k_adamw.py", note=FIRST),
    method={"class_names": COCO_CLASSES},
    data=_generated(
        "dataset_diffusion.coco", COCO(image_size=512, mask_size=320, crop="whole", interpolation="bilinear")
    ),
    steps=40_000,
)

voc_stage2 = voc.but(
    "VOC 2012, self-training: anew on what the segmenter of dataset_diffusion.voc sees in the generated images.",
    glass_table("table 9", {"mIoU over classes": "64.8"}, SCORED),
    method={"teacher": "runs/dataset_diffusion.voc"},
)

coco_stage2 = coco.but(
    "COCO 2017, self-training: anew on what the segmenter of dataset_diffusion.coco sees in the generated images.",
    glass_table("table 9", {"mIoU over classes": "34.2"}, SCORED),
    method={"teacher": "runs/dataset_diffusion.coco"},
)

coco_dinov2_100k = coco.but(
    "COCO 2017 on GLASS's 100K images (`slotworks synthesize glass.coco`) with a frozen DINOv2 ViT-B/14.",
    glass_table("appendix F", {"mIoU over classes": "42.8"}, "by --task semantic; backbone and images are all it says"),
    method={"backbone": "vit", "loss_weights": {}, "image_size": 448, "vit": DINOV2_B14_NORMED_448},
    data=_generated(
        "glass.coco", COCO(image_size=448, mask_size=320, crop="whole", interpolation="bilinear"), size=448
    ),
)


@recipe(takes="2 minutes of one core without bfloat16 instructions, beside other work")
def scenes_mini() -> Run:
    """Drawn shapes whose class is their colour, on the images of `slotworks synthesize glass.scenes`, a small ViT.

    Not a row of a table. Colours are classes, so they are not distorted.
    """
    return Run(
        method=DatasetDiffusionConfig(
            class_names=TINY_SCENES.class_names,
            image_size=64,
            backbone="vit",
            vit=SCENES_ENCODER,
            loss_weights={},
            hidden_dim=64,
            rates=(1, 2, 4),
            distort=False,
            test_scales=(1.0,),
            map_size=64,
            images_per_pass=64,
        ),
        data=Generated(root="data/generated/glass.scenes", image_size=64, mask_size=64, real=TINY_SCENES),
        optimizer=replace(ADAM, lr=1e-3, max_grad_norm=1.0),
        steps=300,
        batch_size=8,
        precision="auto",
        channels_last="auto",
        eval_every=300,
        save_every=100,
        protocol="oclf",
    )


scenes_stage2_mini = scenes_mini.but(
    "Drawn shapes, self-training: anew on what the segmenter of dataset_diffusion.scenes_mini sees in the same images.",
    method={"teacher": "runs/dataset_diffusion.scenes_mini"},
)


@recipe(takes="not measured here")
def painted_mini() -> Run:
    """Painted scenes, four shapes, on the images of `slotworks synthesize glass.painted`, a small ViT.

    Not a row of a table.
    """
    scenes = PaintedScenes()
    return changed(
        scenes_mini(),
        method={"class_names": scenes.class_names, "distort": True},
        data={"root": "data/generated/glass.painted", "real": scenes},
    )
