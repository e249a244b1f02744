"""SLATE: 3D Shapes as in the released code, the other data sets of the paper, two-stage training, and a `_mini`.

Settings outside of 3D Shapes come from later work that repeats the paper's table (OCLF's `configs/experiment/slate`,
Chang et al. 2022, SlotDiffusion); they were not checked against the paper itself.
"""

from slotworks.configs.recipe import Published, recipe
from slotworks.configs.shared import FROM_SPOT, PAINTED, SCENES, SCENES_ENCODER, glass_table, slot_diffusion_run
from slotworks.data import COCO, VOC, Bitmoji, CelebA, CLEVRMirror, CLEVRTex, Shapes3D, ShapeStacks
from slotworks.methods import SlateConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig

# Released code: the discrete VAE learns at 3e-4 from the first step on, all else at 1e-4 after a warm-up; the largest
# entry of the gradient is limited to 1. The code also halves both where the validation loss stagnates for four epochs.
RELEASED_ADAM = Adam(
    lr=1e-4,
    warmup_steps=30_000,
    lr_scales={"dvae": 3.0},
    constant_groups=("dvae",),
    max_grad_norm=1.0,
    grad_norm_type="inf",
)
OCLF_ADAM = Adam(lr=3e-4, warmup_steps=30_000, half_life_steps=250_000, half_life_after_warmup=True, max_grad_norm=1.0)
COMPOSED = Published("Singh et al. 2022, table of FID", note="FID and error of composed images, not in our sources")
UNROLLED = "Chang et al. 2022, table of SLATE, the row that is unrolled"
TABLE_1 = "SlotDiffusion, table 1"
CLEVRTEX = {"MSE": "313.3", "LPIPS": "0.391", "FG-ARI": "67.50", "mIoU": "38.14"}
CELEBA = {"MSE": "744.8", "LPIPS": "0.324"}


@recipe(COMPOSED, takes="not measured here; 20 epochs")
def shapes3d() -> Run:
    """3D Shapes: the settings of the released code."""
    return Run(
        method=SlateConfig(),
        data=Shapes3D(),
        optimizer=RELEASED_ADAM,
        steps=160_000,
        batch_size=50,
        precision="32",  # the released code computes in float32
        eval_every=8_000,
        save_every=4_000,
    )


clevr_mirror = shapes3d.but(
    "CLEVR-Mirror, 128 pixels, 12 slots, 7 iterations.",
    Published(UNROLLED, {"FID": "25.89", "MSE": "67.04"}),
    takes="not measured here",
    method=SlateConfig(
        image_size=128, vocab_size=4096, num_slots=12, num_iterations=7, decoder_blocks=8, decoder_heads=8
    ),
    data=CLEVRMirror(),
    steps=250_000,
)

shapestacks = clevr_mirror.but(
    "ShapeStacks, 96 pixels, 12 slots, 7 iterations.",
    Published(UNROLLED, {"FID": "34.76", "MSE": "312.14"}),
    method={"image_size": 96},
    data=ShapeStacks(),
)

bitmoji = clevr_mirror.but(
    "Bitmoji, 128 pixels, 8 slots, 3 iterations, 4 heads of Slot Attention.",
    COMPOSED,
    method={"num_slots": 8, "num_iterations": 3, "slot_heads": 4},
    data=Bitmoji(),
)

clevrtex = clevr_mirror.but(
    "CLEVRTex, 128 pixels, 11 slots; the discrete VAE is trained along, as in the paper.",
    Published(TABLE_1, CLEVRTEX, "its SLATE is clevrtex_stage2"),
    method={"num_slots": 11, "num_iterations": 3},
    data=CLEVRTex(variant="full"),
    protocol="slot-diffusion",
)

celeba = clevrtex.but(
    "CelebA, 128 pixels, 4 slots; the discrete VAE is trained along, as in the paper.",
    Published(TABLE_1, CELEBA, "its SLATE is celeba_stage2"),
    method={"num_slots": 4},
    data=CelebA(),
    protocol="slot-attention",
)

coco = clevr_mirror.but(
    "COCO 2017, 128 pixels, 11 slots, 7 iterations; the discrete VAE is trained along.",
    glass_table("tables 2 and 11", {"mBO_i": "29.1", "mBO_c": "33.6", "FG-ARI": "32.5"}, FROM_SPOT),
    notes="Settings of OCLF's `configs/experiment/slate/coco.yaml`: one rate for all, L2 norm of gradients at most 1.",
    method={"num_slots": 11, "dvae_signed": True, "loss_weights": {"recon": 4.0}},  # summed over values in [-1, 1]
    data=COCO(image_size=128, mask_size=320, crop="center", flip=True, interpolation="bilinear"),
    optimizer=OCLF_ADAM,
    batch_size=64,
    protocol="oclf",
)

voc = coco.but(
    "VOC 2012 (trainaug), 128 pixels, 7 slots, 7 iterations; the discrete VAE is trained along.",
    glass_table("tables 2 and 11", {"mBO_i": "35.9", "mBO_c": "41.5", "FG-ARI": "15.6"}, FROM_SPOT),
    notes="Settings of OCLF's `configs/experiment/slate/voc2012_trainaug.yaml`.",
    method={"num_slots": 7},
    data=VOC(image_size=128, mask_size=320, crop="random", flip=True, interpolation="bilinear"),
    steps=400_000,
)


@recipe(
    Published(TABLE_1, CLEVRTEX, "settings of img_based/configs/slate/slate_clevrtex_params-res128.py"),
    takes="not measured here; one A40 in the released configuration",
)
def clevrtex_stage2() -> Run:
    """CLEVRTex on the fixed tokens of `dvae.clevrtex`: the SLATE row of SlotDiffusion's table 1, as there.

    200 epochs; most probable tokens, cross-entropy as a mean over tokens, slots that look at a ResNet-18 and start
    learned, 9.89 million parameters beside the discrete VAE's.
    """
    return _stage2(CLEVRTex(variant="full"), "clevrtex", num_slots=11, epochs=200, images=40_000)


@recipe(
    Published(TABLE_1, CELEBA, "there are no masks; settings of img_based/configs/slate/slate_celeba_params-res128.py"),
    takes="not measured here; one A40 in the released configuration",
)
def celeba_stage2() -> Run:
    """CelebA on the fixed tokens of `dvae.celeba`, as `clevrtex_stage2`, 4 slots, 100 epochs."""
    return _stage2(CelebA(), "celeba", num_slots=4, epochs=100, images=162_770)


def _stage2(data: DataConfig, name: str, *, num_slots: int, epochs: int, images: int) -> Run:
    """Warm-up over a twentieth of the steps, then a cosine to 0 (`img_based/method.py: SLATEMethod`)."""
    method = SlateConfig(
        parts="slot_diffusion",
        image_size=128,
        vocab_size=4096,
        dvae_signed=True,
        dvae_run=f"runs/dvae.{name}",
        target_tokens="probable",
        num_slots=num_slots,
        mlp_dim=384,
        initializer="learned",
        decoder_blocks=8,
        loss_weights={"cross_entropy": 1 / 1024},  # of a picture's tokens
    )
    optimizer = {"lr": 1e-4, "lr_scales": {"decoder": 3.0}, "decay_after_warmup": True, "max_grad_norm": 1.0}
    return slot_diffusion_run(method, data, epochs=epochs, samples=images, **optimizer)


@recipe(
    takes="9 to 12 minutes on one busy core",
)
def scenes_mini() -> Run:
    """Drawn shapes of 32 pixels, at a reduced cost.

    Not a row of a table. A vocabulary of 64 words, two narrow blocks, learned first slots with the bi-level gradient,
    and half of the words hidden from the Transformer in training (`word_dropout`). The discrete VAE has STEVE's blocks:
    on these flat backgrounds it used 5 words after 1,000 steps with SLATE's normalisation over the whole image and 11
    without (one seed each). The temperature falls slowly, since a fast fall left it at 5 words, too.
    """
    return Run(
        method=SlateConfig(
            image_size=32,
            vocab_size=64,
            dvae_channels=32,
            dvae_block="bias",
            tau_steps=6_000,
            num_slots=4,
            slot_dim=64,
            mlp_dim=128,
            initializer="learned",
            gradient="bilevel",
            model_dim=64,
            decoder_blocks=2,
            dropout=0.0,
            word_dropout=0.5,
        ),
        data=SCENES,
        optimizer=Adam(
            lr=1e-3, warmup_steps=200, decay="linear", decay_start=0.5, lr_scales={"dvae": 3.0}, max_grad_norm=1.0
        ),
        steps=9_000,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        ema_decay=0.998,
        eval_every=1_000,
        save_every=1_000,
    )


painted_mini = scenes_mini.but(
    "Painted scenes of 64 pixels, at a reduced cost: two of three that draw from slots; after dvae.painted_mini.",
    notes="Not a row of a table. As in slot_diffusion.painted_mini, slots look at the small frozen ViT of this "
    "package.",
    takes="13 minutes of one core without bfloat16, beside other work; it draws the ground alone by then",
    method={
        "image_size": 64,
        "encoder": SCENES_ENCODER,
        "vocab_size": 256,
        "dvae_run": "runs/dvae.painted_mini",
        "target_tokens": "probable",
        "tau_steps": SlateConfig.tau_steps,
        "num_slots": 6,
    },
    data=PAINTED,
    optimizer={"lr_scales": {}, "final_lr_scale": 0.05},
    steps=3_500,
    eval_every=1_750,
    save_every=500,
    protocol="slot-diffusion",
)
