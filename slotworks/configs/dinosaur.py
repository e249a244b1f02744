"""DINOSAUR: every row of its authors' reference table for COCO, VOC and MOVi-C/E, and small `_mini` recipes.

FG-ARI and mBO_i are those of that table, which names the tables and figures of the paper (arXiv 2209.14860); masks are
scored at 320 pixels on COCO and VOC and at 128 on MOVi. Settings are those of the released configurations (OCLF); where
one is missing (MLP on VOC; MOVi with ViT-B) those of the nearest one.

The encoder is frozen: `CachedFeatures` around `data` runs it once per image instead of once per step. On COCO, with
`flip=False` inside and `flips=True` around, and on MOVi it shows the same images.
"""

from dataclasses import fields

from slotworks.configs.recipe import Published, Recipe, recipe
from slotworks.configs.shared import SCENES_VIT, glass_table, so_po_go, zero_shot
from slotworks.data import COCO, VOC, CollageScenes
from slotworks.data.readers.movi import MOVi
from slotworks.data.readers.pictures import Pictures
from slotworks.data.scenes import ShapeScenes
from slotworks.data.stores.features import CachedFeatures
from slotworks.encoders.vit import DINO_B8, DINO_B16, DINO_S8, DINO_S16, DINOV2_B14, DINOV2_S14_NORMED, MAE_B16
from slotworks.methods import DinosaurConfig, DinosaurStudentConfig
from slotworks.training import Adam, Run

OCLF_ADAM = Adam(lr=4e-4, warmup_steps=10_000, half_life_steps=100_000, half_life_after_warmup=True, max_grad_norm=1.0)
SCENES = ShapeScenes(  # as many objects in every image, so that no slot is left over to cut the background in two
    num_train=2_000, min_objects=2, max_objects=2, sizes=(0.36, 0.42, 0.48), background="gradient"
)


def _paper(where: str, fg_ari: str, mbo_i: str) -> Published:
    return Published(f"Seitzer et al. 2023, {where}; the authors' reference page", {"FG-ARI": fg_ari, "mBO_i": mbo_i})


@recipe(
    _paper("table 12", "40.5", "27.7"),
    glass_table("tables 2 and 11", {"mIoU_i": "26.8", "mBO_i": "28.1", "mBO_c": "32.1", "FG-ARI": "40.6"}),
    so_po_go("22.1", "71.2", "2.1"),  # which decoder is not stated, neither here nor in the next two
    zero_shot("CLEVRTex", "30.2", "35.1"),
    zero_shot("Objects365", "16.2", "18.9"),
    glass_table("table 9", {"mIoU_c": "31.7"}),
    takes="not measured here; batch 64 over 8 GPUs in the paper",
)
def coco_mlp() -> Run:
    """COCO, DINO ViT-B/16, MLP decoder."""
    return Run(
        method=DinosaurConfig(encoder=DINO_B16, num_slots=7),
        data=COCO(image_size=224, mask_size=320, crop="center", flip=True, interpolation="bicubic"),
        optimizer=OCLF_ADAM,
        steps=500_000,
        batch_size=64,
        precision="32",  # as the released code computes, unless told otherwise
        num_workers=4,
        eval_every=25_000,
        save_every=5_000,
        protocol="oclf",
    )


coco_mlp_mae = coco_mlp.but(
    "COCO, MAE ViT-B/16, MLP decoder.", _paper("table 12", "42.3", "29.1"), method={"encoder": MAE_B16}
)

coco_mlp_dinov2 = coco_mlp.but(
    "COCO, DINOv2 ViT-B/14, MLP decoder: the row of the VideoSAUR code release, masks at 224 pixels.",
    Published("the authors' reference page, DINOv2 row of VideoSAUR's code", {"FG-ARI": "45.6", "mBO_i": "29.6"}),
    notes="Settings of its `configs/dinosaur/coco_base14_dinov2.yml`.",
    method={"encoder": DINOV2_B14, "feature_mlp_dim": 2 * 768},
    data={"mask_size": 224, "crop": "random"},
    optimizer={"half_life_steps": 90_000},  # the rate has halved after 100,000 steps, warm-up included
)

coco_transformer = coco_mlp.but(
    "COCO, DINO ViT-B/16, Transformer decoder with 8 heads.",
    _paper("figure 5", "34.1", "31.6"),
    glass_table("tables 2 and 11", {"mIoU_i": "31.6", "mBO_i": "33.3", "mBO_c": "41.2", "FG-ARI": "35.2"}),
    glass_table("table 9", {"mIoU_c": "40.6"}),
    method={"decoder": "transformer", "decoder_heads": 8},
)

coco_transformer_s16 = coco_transformer.but(
    "COCO, DINO ViT-S/16, Transformer decoder.", _paper("table 11", "36.9", "29.7"), method={"encoder": DINO_S16}
)

coco_transformer_s8 = coco_transformer.but(
    "COCO, DINO ViT-S/8, Transformer decoder: 784 patches.",
    _paper("table 11", "34.3", "32.3"),
    takes="not measured here",
    method={"encoder": DINO_S8},
)

voc_mlp = coco_mlp.but(
    "VOC 2012, DINO ViT-B/16, MLP decoder.",
    _paper("table 3", "24.6", "39.5"),
    glass_table("tables 2 and 11", {"mIoU_i": "39.1", "mBO_i": "39.7", "mBO_c": "41.2", "FG-ARI": "24.6"}),
    so_po_go("22.4", "70.2", "0.07"),  # which decoder is not stated
    glass_table("table 9", {"mIoU_c": "41.0"}),
    takes="not measured here",
    method={"num_slots": 6},
    data=VOC(image_size=224, mask_size=320, crop="random", flip=True, interpolation="bicubic"),
    steps=300_000,
)

voc_transformer = voc_mlp.but(
    "VOC 2012, DINO ViT-B/16, Transformer decoder with 4 heads.",
    _paper("figure 5", "24.8", "44.0"),
    glass_table("tables 2 and 11", {"mIoU_i": "42.0", "mBO_i": "43.2", "mBO_c": "47.8", "FG-ARI": "23.1"}),
    glass_table("table 9", {"mIoU_c": "47.5"}),
    method={"decoder": "transformer", "decoder_heads": 4},
)

movi_c_mlp = coco_mlp.but(
    "MOVi-C, DINO ViT-S/8, MLP decoder, 11 slots; every frame of the videos is one image.",
    _paper("figure 3", "67.2", "38.6"),
    takes="not measured here",
    method=DinosaurConfig(
        encoder=DINO_S8, num_slots=11, slot_dim=128, mlp_dim=512, decoder_dims=(1024, 1024, 1024), decoder_heads=4
    ),
    data=MOVi(variant="c", image_size=224, mask_size=128, interpolation="bicubic", frames="single"),
    eval_split="val",  # the one that its table was measured on
)

movi_c_mlp_b8 = movi_c_mlp.but(
    "MOVi-C, DINO ViT-B/8, MLP decoder, 11 slots.", _paper("figure 3", "68.6", "39.1"), method={"encoder": DINO_B8}
)

movi_c_mlp_b16 = movi_c_mlp.but(
    "MOVi-C, DINO ViT-B/16, MLP decoder, 11 slots.", _paper("table 3", "66.0", "35.0"), method={"encoder": DINO_B16}
)

movi_c_transformer = movi_c_mlp_b16.but(
    "MOVi-C, DINO ViT-B/16, Transformer decoder with 4 heads, 11 slots; slot attention is scored.",
    _paper("table 3", "55.7", "42.4"),
    method={"decoder": "transformer"},
    protocol="oclf[attention]",
)

movi_e_mlp = movi_c_mlp.but(
    "MOVi-E, DINO ViT-S/8, MLP decoder, 24 slots.",
    _paper("figure 3", "64.7", "34.1"),
    method={"num_slots": 24},
    data={"variant": "e"},
)

movi_e_mlp_b8 = movi_e_mlp.but(
    "MOVi-E, DINO ViT-B/8, MLP decoder, 24 slots.", _paper("figure 3", "65.1", "35.5"), method={"encoder": DINO_B8}
)

movi_e_mlp_11 = movi_e_mlp.but(
    "MOVi-E, DINO ViT-S/8, MLP decoder, 11 slots, fewer than objects.",
    _paper("table 13", "76.7", "29.7"),
    method={"num_slots": 11},
)

movi_e_mlp_b8_11 = movi_e_mlp_b8.but(
    "MOVi-E, DINO ViT-B/8, MLP decoder, 11 slots, fewer than objects.",
    _paper("table 13", "79.3", "32.7"),
    method={"num_slots": 11},
)


@recipe(
    takes="118 to 151 seconds of training on one busy CPU core",
)
def scenes_mini() -> Run:
    """Drawn shapes, the small ViT of this package, MLP decoder, at a reduced cost.

    Not a row of a table. Slots start from learned vectors with the bi-level gradient of BO-QSA, the decoder's positions
    from waves, everything is smaller, weights are averaged, batch 16; the encoder runs once over the training
    images. Two objects and three slots: where a slot is left over, some runs cut the image into regions. To be compared
    with k-means on the same features, feature_kmeans.scenes_mini.
    """
    return Run(
        method=DinosaurConfig(
            encoder=SCENES_VIT,
            num_slots=3,
            slot_dim=64,
            num_iterations=5,
            mlp_dim=256,
            initializer="learned",
            gradient="bilevel",
            decoder_dims=(128, 128, 128),
            decoder_positions="sine",
        ),
        data=CachedFeatures(images=SCENES, encoder=SCENES_VIT),
        optimizer=Adam(
            lr=2e-3, warmup_steps=100, decay="linear", decay_start=0.5, final_lr_scale=0.02, max_grad_norm=1.0
        ),
        steps=2_000,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        ema_decay=0.998,
        eval_every=500,
        save_every=500,
        protocol="oclf",
    )


voc_mini = scenes_mini.but(
    "VOC 2012 on the small ViT of this package, MLP decoder: the whole path from VOC's files, on a CPU.",
    takes="about three minutes of training on one busy CPU core, after the photographs have been prepared",
    notes="Not a row of a table: that ViT has only ever seen drawn shapes, its features say little about photographs.",
    method={"num_slots": 6},
    data=VOC(image_size=64, mask_size=320, crop="random", flip=True, interpolation="bicubic"),
    steps=800,
)

scenes_transformer_mini = scenes_mini.but(
    "Drawn shapes, the small ViT of this package, Transformer decoder, at a reduced cost; see scenes_mini.",
    takes="about four and a half minutes of training on one busy CPU core",
    notes="Shows that the path works, not what the decoder can do: no objects yet, and below k-means.",
    no_record="a run of 500 steps: FG-ARI 30.2, mBO_i 19.4 on 320 validation images (k-means 43.6 and 36.5)",
    method={"decoder": "transformer", "decoder_blocks": 2, "decoder_heads": 4},
    optimizer={"lr": 5e-4},
    steps=1_000,
)


# ---- photographs, in minutes on a CPU ------------------------------------------------------------------------------

PHOTOS_ADAM = Adam(lr=2e-3, warmup_steps=50, decay="linear", decay_start=0.5, final_lr_scale=0.02, max_grad_norm=1.0)
PHOTOS = CachedFeatures(images=Pictures(flip=False), encoder=DINOV2_S14_NORMED)


@recipe(takes="five minutes of training on one free CPU core, four more for the features of 1,000 pictures")
def photos_mlp() -> Run:
    """Own photographs, DINOv2 ViT-S/14, in minutes on a CPU: slots that beat k-means on the same features.

    Not a row of a table, and not the paper's method: features are taken behind the last norm and reduced to 128
    principal components, slots start at k-means centroids and gather coordinates with the features, and the decoder has
    one feature for each slot. docs/methods/dinosaur.md measures each of these. Masks are those of the attention.
    """
    return Run(
        method=DinosaurConfig(
            encoder=DINOV2_S14_NORMED,
            num_slots=6,
            slot_dim=64,
            feature_mlp_dim=128,
            mlp_dim=256,
            feature_components=128,
            initializer="kmeans",
            value_coordinates=True,
            tied_queries=True,
            decoder="flat",
            decoder_dims=(128, 128),
            decoder_positions="sine",
            decoded_patches=64,
        ),
        data=PHOTOS,
        optimizer=PHOTOS_ADAM,
        steps=4_000,
        batch_size=16,
        ema_decay=0.998,
        eval_every=4_000,
        save_every=500,
        eval_images=64,
        protocol="oclf[attention]",
    )


def _second_round(first: Recipe, name: str, about: str, *, distill: float, steps: int, **facts: str) -> Recipe:
    """The student of the recipe `dinosaur.NAME`."""
    run = first()
    sizes = {one.name: getattr(run.method, one.name) for one in fields(run.method) if one.name != "loss_weights"}
    method = DinosaurStudentConfig(**sizes, loss_weights={"distill": distill}, teacher=f"runs/dinosaur.{name}")
    return first.but(about, method=method, steps=steps, eval_every=steps, **facts)


photos_mlp_round2 = _second_round(
    photos_mlp,
    "photos_mlp",
    "Own photographs, the second round of dinosaur.photos_mlp: taught by its attention and by k-means.",
    takes="a minute of training on one free CPU core",
    distill=0.3,
    steps=600,
)

collages_mlp = photos_mlp.but(
    "Collages of cut-outs on drawn backgrounds, DINOv2 ViT-S/14: dinosaur.photos_mlp without a photograph.",
    takes="two minutes of training on one free CPU core, as long for the features of 400 collages",
    notes="What zoo:dinosaur-photos is trained by, on cut-outs whose licence allows it; any folder of cut-outs does.",
    data=CachedFeatures(
        images=CollageScenes(num_train=400, num_val=40, num_test=120, min_objects=2, max_objects=5),
        encoder=DINOV2_S14_NORMED,
    ),
    steps=1_000,
    eval_every=1_000,
)

collages_mlp_round2 = _second_round(
    collages_mlp,
    "collages_mlp",
    "Collages of cut-outs, the second round of dinosaur.collages_mlp: taught by its attention and by k-means.",
    takes="a minute of training on one free CPU core",
    distill=0.3,
    steps=400,
)

photos_transformer = photos_mlp.but(
    "Own photographs, DINOv2 ViT-S/14, a Transformer decoder that sees no patch but its own place.",
    takes="three minutes of training on one free CPU core",
    notes="As dinosaur.photos_mlp but for the decoder: the paper's, with its inputs hidden.",
    method={
        "decoder": "transformer",
        "decoder_dims": DinosaurConfig.decoder_dims,
        "decoder_positions": "normal",
        "decoded_patches": None,
        "decoder_blocks": 1,
        "decoder_heads": 4,
        "hidden_inputs": 1.0,
    },
    steps=1_200,
    eval_every=1_200,
)
