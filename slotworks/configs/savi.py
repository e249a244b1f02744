"""SAVi: its table of MOVi-A to E in three sizes, SAVi++ with depth, SlotDiffusion's rows without boxes, a small one."""

from dataclasses import replace
from typing import Literal

from slotworks.configs.recipe import Published, Recipe, changed, recipe
from slotworks.configs.shared import MOVI_WINDOWS, PAINTED_VIDEOS, slot_diffusion_run
from slotworks.data import MOVi
from slotworks.data.scenes import VideoScenes
from slotworks.methods import SAViConfig
from slotworks.training import Adam, Run

# savi/configs/movi of the released code: one setting for all data sets and sizes. The cosine begins where the warmup
# ends (`savi/lib/trainer.py`: optax.warmup_cosine_decay_schedule).
PAPER_ADAM = Adam(lr=2e-4, warmup_steps=2_500, decay="cosine", decay_after_warmup=True, max_grad_norm=0.05)

Variant = Literal["a", "b", "c", "d", "e"]


def _small(variant: Variant) -> Run:
    """SAVi-S: 64 pixels, four convolutions, boxes of the first frame, flow as the target.

    Scored on the validation split, as the table in the released code's README says of itself.
    """
    return Run(
        method=SAViConfig(),
        data=MOVi(
            variant=variant,
            image_size=64,
            interpolation="bilinear_no_antialias",
            clip_length=6,
            extras=("backward_flow",),
        ),
        optimizer=PAPER_ADAM,
        steps=100_000,
        batch_size=64,
        precision="32",  # the released code computes in float32
        eval_every=10_000,
        save_every=5_000,
        eval_split="val",
        protocol="savi",
    )


def _medium(variant: Variant) -> Run:
    """SAVi-M: 128 pixels, wider convolutions of which the first halves the size."""
    wider = {
        "image_size": (128, 128),
        "encoder_channels": 64,
        "encoder_strides": (2, 1, 1, 1),
        "decoder_strides": (2, 2, 2, 2),
    }
    return changed(_small(variant), method=wider, data={"image_size": 128})


def _large(variant: Variant) -> Run:
    """SAVi-L: 128 pixels, a ResNet-34 with an eighth of the resolution, five times as many steps."""
    resnet = {"encoder": "resnet34", "encoder_channels": 64, "encoder_strides": (1, 2, 2, 2)}
    return changed(_medium(variant), method=resnet, steps=500_000, eval_every=50_000)


def _depth(variant: Variant) -> Run:
    """SAVi++ as in `savi++_conditional.py` of the released code, but for its random crops.

    SAVi-L with a Transformer over the features, a wider corrector and predictor, and log(1 + depth) beside the flow.
    """
    wider = {"encoder_blocks": 4, "qkv_dim": 256, "predictor_qkv_dim": 256, "predictor_mlp_dim": 1024}
    method = {**wider, "targets": ("flow", "depth")}
    return changed(_large(variant), method=method, data={"extras": ("backward_flow", "depth")})


def _unconditional(variant: Variant) -> Run:
    """SAVi in SlotDiffusion's repository, `video_based/configs/savi`: 30 epochs of the 22 windows of every video."""
    method = SAViConfig(
        parts="slot_diffusion",
        image_size=(128, 128),
        num_slots=15,
        slot_dim=192,
        num_iterations=2,
        mlp_dim=384,
        initializer="learned",
        predictor_blocks=2,
        predictor_dropout=0.1,
        predictor_mlp_dim=768,
        decoder_channels=64,
        decoder_strides=(2, 2, 2, 2),
        targets=("rgb",),
    )
    run = slot_diffusion_run(
        method,
        MOVi(variant=variant, clip_length=3, clip_stride=1),
        epochs=30,
        samples=MOVI_WINDOWS,
        batch_size=32,
        lr=1e-4,
        warmup=40,
        warmup_scale=0.01,
        decay_after_warmup=True,
        final_lr_scale=0.01,
        max_grad_norm=0.05,
    )
    return changed(run, eval_images=250, protocol="slot-diffusion[decoder]")


README = "README of the released code, table of MOVi-A to E"
CROPS = """\
The released code crops at random, 75 to 100 percent of a clip's area with an aspect ratio of 3/4 to 4/3; nothing here
does."""


SIZES = {"SAVi-S": _small, "SAVi-M": _medium, "SAVi-L": _large, "SAVi++": _depth}


def _row(size: str, variant: Variant, fg_ari: str) -> Recipe:
    """A cell of the README's table: a size on a data set."""
    plus, days = size == "SAVi++", size in ("SAVi-L", "SAVi++")
    about = f"{size} on MOVi-{variant.upper()}, told the boxes of the first frame"
    how = "validation, 24 frames, 5 seeds"
    return Recipe(
        lambda: SIZES[size](variant),
        f"{about}: flow and depth as targets, without its random crops." if plus else f"{about}.",
        (Published(README, {"FG-ARI": fg_ari}, f"{how}, with crops" if plus else how),),
        takes=f"not measured here; {'days' if days else 'about a day'} on several GPUs",
        notes=CROPS if plus else "",
    )


movi_a_small = _row("SAVi-S", "a", "92.1 +- 0.1")
movi_b_small = _row("SAVi-S", "b", "72.2 +- 0.5")
movi_c_small = _row("SAVi-S", "c", "64.7 +- 0.3")
movi_d_small = _row("SAVi-S", "d", "33.8 +- 7.7")
movi_e_small = _row("SAVi-S", "e", "8.3 +- 0.9")
movi_a_medium = _row("SAVi-M", "a", "93.4 +- 1.0")
movi_b_medium = _row("SAVi-M", "b", "75.1 +- 0.5")
movi_c_medium = _row("SAVi-M", "c", "67.4 +- 0.5")
movi_d_medium = _row("SAVi-M", "d", "20.8 +- 2.2")
movi_e_medium = _row("SAVi-M", "e", "12.2 +- 1.1")
movi_a_large = _row("SAVi-L", "a", "95.1 +- 0.6")
movi_b_large = _row("SAVi-L", "b", "64.8 +- 8.9")
movi_c_large = _row("SAVi-L", "c", "71.3 +- 1.6")
movi_d_large = _row("SAVi-L", "d", "59.7 +- 6.0")
movi_e_large = _row("SAVi-L", "e", "34.1 +- 1.2")
movi_a_depth = _row("SAVi++", "a", "85.3 +- 9.8")
movi_b_depth = _row("SAVi++", "b", "72.5 +- 11.2")
movi_c_depth = _row("SAVi++", "c", "79.1 +- 2.1")
movi_d_depth = _row("SAVi++", "d", "84.8 +- 1.4")
movi_e_depth = _row("SAVi++", "e", "85.1 +- 0.9")


def _without_boxes(variant: Variant, numbers: dict[str, str]) -> Recipe:
    """The SAVi row of SlotDiffusion's table 2."""
    return Recipe(
        lambda: _unconditional(variant),
        f"SAVi without boxes on MOVi-{variant.upper()}: the row of SlotDiffusion's table 2, as trained there.",
        (Published("SlotDiffusion, table 2", numbers, "background counted; settings of video_based/configs/savi"),),
        takes="not measured here; a batch took 0.57 s and 32 GB on an A40 in SlotDiffusion's table 4",
        notes="Not SAVi's own network: 4.85 million parameters, a ResNet-18, see `SAViConfig.parts`.",
    )


movi_d_unconditional = _without_boxes("d", {"MSE": "430.1", "LPIPS": "0.519", "FG-ARI": "34.59", "mIoU": "10.57"})
movi_e_unconditional = _without_boxes("e", {"MSE": "447.1", "LPIPS": "0.533", "FG-ARI": "41.36", "mIoU": "13.53"})


@recipe(takes="3 minutes on one busy core")
def frames_mini() -> Run:
    """Slot Attention on single frames of drawn videos, told the boxes of each: where `scenes_mini` starts from.

    Not the paper's configuration: 32 pixels, narrow networks at half the resolution, two iterations, colours as the
    target, weights averaged. A start: it knows nothing of time.
    """
    return Run(
        method=SAViConfig(
            image_size=(32, 32),
            num_slots=4,
            slot_dim=64,
            qkv_dim=64,
            num_iterations=2,
            predictor_qkv_dim=64,
            predictor_mlp_dim=128,
            carry=False,
            encoder_channels=32,
            encoder_strides=(2, 1, 1, 1),
            encoder_hidden_dim=32,
            decoder_channels=32,
            decoder_strides=(1, 1, 1),
            decoder_shuffle=2,
            targets=("rgb",),
        ),
        data=VideoScenes(
            image_size=32,
            min_objects=3,
            max_objects=3,
            sizes=(0.25, 0.32),
            shapes=("circle", "square", "triangle"),
            appearing=0.0,  # an object that comes in later has no box
            clip_length=1,
        ),
        optimizer=Adam(
            lr=1e-3, warmup_steps=300, decay="linear", decay_start=0.6, final_lr_scale=0.2, max_grad_norm=1.0
        ),
        steps=1_800,
        batch_size=32,
        precision="auto",
        channels_last="auto",
        ema_decay=0.998,
        eval_every=900,
        save_every=600,
        eval_images=100,
        protocol="savi",
    )


scenes_mini = frames_mini.but(
    "Videos drawn on the fly, told the boxes of the first frame, at a reduced cost; after savi.frames_mini.",
    takes="5 to 7 minutes on one busy core, after 3 for the frames",
    notes="Not the paper's configuration, see `frames_mini`. Slots are carried through pairs of frames at first, then "
    "through\nfour and through eight. Scored are videos of 24.",
    method={"carry": True, "start_from": "runs/savi.frames_mini", "short_clips": ((700, 2), (1_400, 4))},
    data={"clip_length": 8},
    optimizer={"warmup_steps": 100, "final_lr_scale": 0.02},
    steps=2_400,
    batch_size=5,
    eval_every=800,
)

scenes_mini_frames = scenes_mini.but(
    "The baseline of `scenes_mini`: Slot Attention frame by frame, without carried slots and without a predictor.",
    notes="The same start, clips and steps; every frame starts from the boxes of the first one.",
    method={"carry": False, "short_clips": ()},
)

PAINTED_SIZES = {"image_size": (64, 64), "encoder_strides": (2, 2, 1, 1), "decoder_shuffle": 4}

painted_frames_mini = frames_mini.but(
    "Slot Attention on single frames of painted videos, told the boxes of each: where `painted_mini` starts from.",
    takes="not measured yet",
    notes="Not the paper's configuration, see `frames_mini`; 64 pixels, networks at a quarter of the resolution.",
    method=PAINTED_SIZES,
    data=replace(PAINTED_VIDEOS, clip_length=1),
)

painted_mini = scenes_mini.but(
    "Painted videos, told the boxes of the first frame, at a reduced cost; after savi.painted_frames_mini.",
    takes="not measured yet",
    notes="Not the paper's configuration, see `painted_frames_mini` and `scenes_mini`. Scored are videos of 24 frames.",
    method={**PAINTED_SIZES, "start_from": "runs/savi.painted_frames_mini"},
    data=replace(PAINTED_VIDEOS, clip_length=8),
)

painted_mini_frames = painted_mini.but(
    "The baseline of `painted_mini`: Slot Attention frame by frame, without carried slots and without a predictor.",
    notes="The same start, clips and steps; every frame starts from the boxes of the first one.",
    method={"carry": False, "short_clips": ()},
)
