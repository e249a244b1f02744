"""Slot Attention: every row of the supplement's tables, the rows of SlotDiffusion's, and reduced-cost `_mini`s."""

from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import FROM_SPOT, PAINTED, SCENES_ENCODER, glass_table, slot_diffusion_run
from slotworks.data import CLEVR, COCO, VOC, CelebA, CLEVRTex, MultiDSprites, Tetrominoes
from slotworks.data.scenes import ShapeScenes, SpriteScenes, TetrominoScenes
from slotworks.methods import SlotAttentionConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig

# Supplement, section 5: one setting for all data sets, no clipping, no weight decay.
PAPER_ADAM = Adam(lr=4e-4, warmup_steps=10_000, half_life_steps=100_000)
KERAS = 1e-3  # epsilon of the LayerNorms of the released code, which uses those of Keras
PAPER = "Locatello et al. 2020, table 1"


@recipe(
    Published(PAPER, {"FG-ARI": "99.5 +- 0.2"}, "4 of 5 seeds, one outlier left out"),
    takes="7.5 hours on one V100 in the paper",
)
def tetrominoes() -> Run:
    """Object discovery on Tetrominoes."""
    return Run(
        method=SlotAttentionConfig(image_size=(35, 35), num_slots=4, norm_eps=KERAS),
        data=Tetrominoes(),
        optimizer=PAPER_ADAM,
        steps=500_000,
        batch_size=64,
        precision="32",  # the released code computes in float32
        eval_every=25_000,
        save_every=5_000,
    )


multi_dsprites = tetrominoes.but(
    "Object discovery on multi-dSprites, coloured on grey.",
    Published(PAPER, {"FG-ARI": "91.3 +- 0.3"}, "5 seeds"),
    takes="24 hours on one V100 in the paper",
    method={"image_size": (64, 64), "num_slots": 6},
    data=MultiDSprites(),
)

clevr6 = tetrominoes.but(
    "Object discovery on CLEVR scenes with at most six objects.",
    Published(PAPER, {"FG-ARI": "98.8 +- 0.3"}, "5 seeds"),
    takes="5 days 13 hours on one V100 in the paper",
    method={"image_size": (128, 128), "num_slots": 7, "channels": 64, "decoder_strides": (2, 2, 2, 2, 1)},
    data=CLEVR(max_objects=6),
)

clevr6_11 = clevr6.but(
    "CLEVR scenes with at most six objects and eleven slots, to test with up to ten objects and five iterations.",
    Published("Locatello et al. 2020, supplement, figure 14", note="of five seeds one gave the background a slot"),
    notes="Of `--seeds 5`, `slotworks doctor runs/slot_attention.clevr6_11 --data clevr10 --set "
    "method.test-iterations=5`\ncounts those whose background has a slot of its own; `slotworks evaluate` with the "
    "same options scores them.",
    method={"num_slots": 11},
)


@recipe(
    Published(
        "SlotDiffusion, table 1",
        {"MSE": "212.4", "LPIPS": "0.410", "FG-ARI": "67.92", "mIoU": "36.70"},
        "background counted; settings of img_based/configs/sa/sa_clevrtex_params-res128.py",
    ),
    takes="not measured here; one GPU in the released configuration",
)
def clevrtex() -> Run:
    """CLEVRTex with eleven slots: the Slot Attention row of SlotDiffusion's table 1, as its repository trains it.

    200 epochs. Not the network of Locatello et al.: 5.19 instead of 0.89 million parameters, see
    `SlotAttentionConfig.parts`.
    """
    return _slot_diffusion(CLEVRTex(variant="full"), num_slots=11, epochs=200, images=40_000)


@recipe(
    Published(
        "SlotDiffusion, table 1",
        {"MSE": "243.3", "LPIPS": "0.284"},
        "there are no masks; settings of img_based/configs/sa/sa_celeba_params-res128.py",
    ),
    takes="not measured here; one GPU in the released configuration",
)
def celeba() -> Run:
    """CelebA with four slots: the Slot Attention row of SlotDiffusion's table 1, as its repository trains it.

    100 epochs.
    """
    return _slot_diffusion(CelebA(), num_slots=4, epochs=100, images=162_770)


@recipe(
    glass_table("tables 2 and 11", {"mBO_i": "17.2", "mBO_c": "19.2", "FG-ARI": "21.4"}, FROM_SPOT),
    takes="not measured here; eight GPUs in OCLF's configuration",
)
def coco() -> Run:
    """COCO 2017, 128 pixels, 11 slots: the Slot Attention that DINOSAUR, SPOT and GLASS are compared with.

    Settings of OCLF's `configs/experiment/projects/bridging/slot_attention/coco.yaml`: SAVi's ResNet-34 and decoder.
    """
    return Run(
        method=SlotAttentionConfig(
            parts="oclf",
            image_size=(128, 128),
            num_slots=11,
            slot_dim=256,
            mlp_dim=512,
            channels=64,
            decoder_strides=(2, 2, 2, 2),
        ),
        data=COCO(image_size=128, mask_size=320, crop="random", flip=True, interpolation="bilinear"),
        optimizer=Adam(lr=2e-4, warmup_steps=2_500, decay="cosine", decay_after_warmup=True, max_grad_norm=1.0),
        steps=500_000,
        batch_size=64,
        precision="32",
        num_workers=4,
        eval_every=25_000,
        save_every=5_000,
        protocol="oclf",
    )


voc = coco.but(
    "VOC 2012 (trainaug), 128 pixels, 11 slots: the Slot Attention that DINOSAUR, SPOT and GLASS are compared with.",
    glass_table("tables 2 and 11", {"mBO_i": "24.6", "mBO_c": "24.9", "FG-ARI": "12.3"}, FROM_SPOT),
    notes="Settings of OCLF's `configs/experiment/projects/bridging/slot_attention/voc2012_trainaug.yaml`.",
    data=VOC(image_size=128, mask_size=320, crop="random", flip=True, interpolation="bilinear"),
)


def _slot_diffusion(data: DataConfig, *, num_slots: int, epochs: int, images: int) -> Run:
    """Adam without clipping; from a hundredth of the rate up over a fortieth of the steps, by a cosine down to it."""
    method = SlotAttentionConfig(
        parts="slot_diffusion",
        image_size=(128, 128),
        num_slots=num_slots,
        slot_dim=192,
        mlp_dim=384,
        channels=128,
        decoder_strides=(2, 2, 2, 2),
        initializer="learned",
        eps=1e-6,
    )
    ends = {"warmup": 40, "warmup_scale": 0.01, "decay_after_warmup": True, "final_lr_scale": 0.01}
    run = slot_diffusion_run(method, data, epochs=epochs, samples=images, lr=4e-4, **ends)
    return changed(run, protocol="slot-diffusion[decoder]")


@recipe(takes="5 minutes of training on two CPU cores without bfloat16 instructions")
def tetrominoes_mini() -> Run:
    """Tetrominoes drawn on the fly, at a reduced cost: the recipe of `slotworks demo`.

    Not the paper's configuration. `tetrominoes_long_mini` with cheaper and fewer steps: the encoder works at a quarter
    of the resolution, and behind the first layer, whose kernel costs next to nothing, the decoder's kernels are 3x3.
    Which slot a pixel belongs to is also asked of its colour: early on, the decoder's masks lose the dark edges of
    objects to the ground.
    """
    cheaper = {"encoder_strides": (2, 2, 1, 1), "decoder_kernel_size": (5, 3, 3), "init_noise_steps": 2_500}
    return changed(tetrominoes_long_mini(), method=cheaper | {"mask_posterior": 0.25}, steps=3_800)


@recipe(
    takes="about 4.3 minutes of training on two recent CPU cores in bfloat16, 16 to 20 in float32; 460 MiB",
)
def tetrominoes_long_mini() -> Run:
    """Tetrominoes drawn on the fly, at a reduced cost: longer than `tetrominoes_mini` and better.

    Not the paper's configuration. The encoder and the decoder work at half the resolution, slots start from learned
    vectors with the bi-level gradient of BO-QSA (one of five iterations is differentiated), weights are averaged,
    batch 16.
    """
    return Run(
        method=SlotAttentionConfig(
            image_size=(35, 35),
            num_slots=4,
            num_iterations=5,
            test_iterations=8,
            encoder_strides=(2, 1, 1, 1),
            decoder_shuffle=2,
            initializer="learned",
            gradient="bilevel",
            init_noise_steps=5_000,
            position_gain=2.0,
        ),
        data=TetrominoScenes(),
        optimizer=Adam(
            lr=1e-3, warmup_steps=350, decay="linear", decay_start=0.5, final_lr_scale=0.02, max_grad_norm=1.0
        ),
        steps=10_000,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        ema_decay=0.998,
        eval_every=1_000,
        save_every=1_000,
    )


multi_dsprites_mini = tetrominoes_long_mini.but(
    "Multi-dSprites (coloured on grey) drawn on the fly, at a reduced cost.",
    takes="about 11 minutes on one busy core of a recent CPU, 28 on two without bfloat16 instructions",
    notes="Not the paper's configuration; see `tetrominoes_long_mini`. Spare slots still cut sprites in pieces.",
    method={
        "image_size": (64, 64),
        "num_slots": 6,
        "encoder_strides": (2, 2, 1, 1),
        "decoder_shuffle": 4,
        "init_noise_steps": 0,
    },
    data=SpriteScenes(variant="colored_on_grayscale"),
)

clevr6_mini = multi_dsprites_mini.but(
    "A stand-in for CLEVR6 that needs no file: drawn shapes on plain backgrounds, at a reduced cost.",
    takes="about 30 minutes of training on two CPU cores without bfloat16 instructions",
    method={"num_slots": 7},
    data=ShapeScenes(min_objects=3, max_objects=6, background="plain"),
)

clevrtex_mini = clevr6_mini.but(
    "A stand-in for CLEVRTex that needs no file: drawn shapes on textured backgrounds, at a reduced cost.",
    data={"background": "textured"},
)


painted_mini = tetrominoes_long_mini.but(
    "Painted scenes of 64 pixels, at a reduced cost: one of three that draw from slots, see slate.painted_mini.",
    takes="14 to 20 minutes of one core without bfloat16, beside other work",
    notes="Not a row of a table. As in slot_diffusion.painted_mini, slots look at the small frozen ViT of this package "
    "and\nthere is one more than objects, for the ground; the broadcast decoder works at a quarter of the side.",
    method=SlotAttentionConfig(
        image_size=(64, 64),
        encoder=SCENES_ENCODER,
        num_slots=6,
        decoder_shuffle=4,
        initializer="learned",
        gradient="bilevel",
    ),
    data=PAINTED,
    optimizer={"lr": 2e-3, "warmup_steps": 200, "final_lr_scale": 0.05},
    steps=3_500,
    eval_every=1_750,
    save_every=500,
    protocol="slot-diffusion[decoder]",
)
