"""StableLSD on COCO and VOC, the weakly supervised variants of GLASS's table 5, and a small `_mini` recipe.

Settings are those of the released code (`configs/coco/train.sh`: 32 images on each of 4 GPUs). On VOC only the rows of
GLASS's tables exist: its steps and batch are GLASS's. `CachedLatents` around `data`, with `flip=False` inside and
`flips=True` around, runs the encoder and the VAE once per image.
"""

from dataclasses import replace

from slotworks.configs.recipe import Published, recipe
from slotworks.configs.shared import SCENES_ENCODER, glass_table, images_from_slots, properties, so_po_go, zero_shot
from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.data.stores.latents import CachedLatents
from slotworks.decoders import StableDiffusionConfig
from slotworks.methods import StableLSDConfig
from slotworks.training import Adam, Run

SCENES_ADAM = Adam(lr=1e-3, warmup_steps=100, decay="linear", decay_start=0.5, final_lr_scale=0.05, max_grad_norm=1.0)
TINY_DIFFUSION = StableDiffusionConfig("package:tiny_diffusion", image_size=64, context_dim=64)
PAINTED_DIFFUSION = replace(TINY_DIFFUSION, model="package:painted_diffusion", time_power=4.0)
"""What slots can tell is told where there is noise: docs/notes/glass.md."""


@recipe(
    glass_table("tables 2 and 11", {"mIoU_i": "24.7", "mBO_i": "25.9", "mBO_c": "30.0", "FG-ARI": "28.9"}),
    Published("Jiang et al. 2023, table of COCO", {"FG-ARI": "35.0"}),
    so_po_go("10.2", "87.3", "1.6"),
    zero_shot("CLEVRTex", "24.0", "27.6"),
    zero_shot("Objects365", "14.8", "16.9"),
    properties("16.4", "0.062", "COCO"),
    images_from_slots("10.92", "0.20", "0.72", "140.62"),
    glass_table("table 9", {"mIoU_c": "29.5"}),
    takes="not measured here; four GPUs in the released script",
)
def coco() -> Run:
    """COCO, seven slots: the released setting."""
    return Run(
        method=StableLSDConfig(),
        data=COCO(image_size=448, mask_size=256, crop="center", flip=True, interpolation="bilinear"),
        optimizer=Adam(lr=2e-5, weight_decay=1e-2, max_grad_norm=1.0),
        steps=500_000,
        batch_size=128,
        precision="bf16",  # float16 with a loss scale in the released code; bfloat16 has the range without one
        num_workers=4,
        eval_every=25_000,
        save_every=5_000,
        protocol="glass-release",
    )


voc = coco.but(
    "VOC 2012 (trainaug), seven slots: GLASS's run of StableLSD.",
    glass_table("tables 2 and 11", {"mIoU_i": "30.0", "mBO_i": "30.4", "mBO_c": "33.1", "FG-ARI": "8.7"}),
    so_po_go("6.7", "91.6", "0.40"),
    properties("55.1", "0.039", "VOC"),
    glass_table("table 9", {"mIoU_c": "32.9"}),
    takes="not measured here",
    data=VOC(image_size=448, mask_size=256, crop="center", flip=True, interpolation="bilinear"),
    steps=250_000,
    batch_size=32,
)

voc_bbox = voc.but(
    "VOC 2012, slots start from the boxes of the objects: StableLSD-BBox. Needs SBD's archive.",
    glass_table("table 5", {"mIoU_i": "30.5", "mBO_i": "37.8", "mBO_c": "42.2"}),
    method={"initializer": "boxes"},
    data={"train_masks": True},
)

voc_dynamic = voc.but(
    "VOC 2012, as many slots as objects: StableLSD-Dynamic. Needs SBD's archive.",
    glass_table("table 5", {"mIoU_i": "30.8", "mBO_i": "38.2", "mBO_c": "43.4"}),
    method={"dynamic": True},
    data={"train_masks": True},
)


@recipe(takes="not measured yet")
def scenes_mini() -> Run:
    """Drawn shapes, the small ViT and the small diffusion model of this package, at a reduced cost.

    Not a row of a table. Slots are smaller, and both frozen networks run once over the training images.
    """
    return Run(
        method=StableLSDConfig(
            encoder=SCENES_ENCODER,
            diffusion=TINY_DIFFUSION,
            num_slots=5,
            slot_dim=64,
            num_iterations=5,
            mlp_dim=128,
            initializer="learned",
        ),
        data=CachedLatents(
            images=replace(TINY_SCENES, num_train=4_000),
            encoder=SCENES_ENCODER,
            diffusion=TINY_DIFFUSION.model,
            latent_size=TINY_DIFFUSION.image_size,
        ),
        optimizer=SCENES_ADAM,
        steps=1_000,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        ema_decay=0.995,
        eval_every=500,
        save_every=250,
        protocol="oclf[attention]",
    )


painted_mini = scenes_mini.but(
    "Painted scenes, where this package's other diffusion model puts objects in their places, at a reduced cost.",
    notes="Not a row of a table. Shapes are classes, so that many pictures hold several objects of one class.",
    takes="10 minutes on one core of a CPU without bfloat16, beside other work",
    method={"diffusion": PAINTED_DIFFUSION, "num_slots": 6, "num_iterations": 3},
    data={"images": PaintedScenes(num_train=2_000), "diffusion": PAINTED_DIFFUSION.model},
    optimizer={"lr": 2e-3},
)

painted_bbox_mini = painted_mini.but(
    "Painted scenes, slots start from the boxes of the objects: StableLSD-BBox in miniature.",
    method={"initializer": "boxes"},
    data={"labels": ("mask",)},
)

painted_dynamic_mini = painted_mini.but(
    "Painted scenes, as many slots as objects: StableLSD-Dynamic in miniature.",
    method={"dynamic": True},
    data={"labels": ("mask",)},
)
