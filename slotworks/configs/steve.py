"""STEVE on MOVi-D and MOVi-E as in the released code, on fixed tokens, and a `_mini` on drawn videos."""

from dataclasses import replace
from typing import Literal

from slotworks.data import MOVi
from slotworks.data.scenes import VideoScenes
from slotworks.methods import SteveConfig
from slotworks.training import Adam, Run

__all__ = ["movi_d", "movi_d_stage2", "movi_e", "movi_e_stage2", "scenes_mini"]

# Released code: encoder 1e-4, decoder 3e-4, both with warm-up and half-life; the discrete VAE 3e-4 throughout; the
# largest entry of the gradient is limited to 0.05.
RELEASED_ADAM = Adam(
    lr=1e-4,
    warmup_steps=30_000,
    half_life_steps=250_000,
    lr_scales={"decoder": 3.0, "dvae": 3.0},
    constant_groups=("dvae",),
    max_grad_norm=0.05,
    grad_norm_type="inf",
)

VIDEO_SCENES = VideoScenes(
    image_size=32,
    num_frames=6,
    min_objects=2,
    max_objects=3,
    sizes=(0.3, 0.36),
    shapes=("circle", "square", "triangle"),
    clip_length=3,
)


def movi_d() -> Run:
    """MOVi-D, clips of three frames, 15 slots: the settings of the released code.

    Command:   slotworks train steve.movi_d
    Takes:     not measured here.
    Expected:  FG-ARI 48.18, mIoU 20.41, squared error 655.4, LPIPS 0.549 in SlotDiffusion's table 2, whose STEVE is
               movi_d_stage2.
    """
    return Run(
        method=SteveConfig(),
        data=MOVi(variant="d", frames="video", clip_length=3),
        optimizer=RELEASED_ADAM,
        steps=200_000,
        batch_size=24,
        precision="32",  # the released code computes in float32
        eval_every=10_000,
        save_every=5_000,
        eval_images=250,
        protocol="slot-diffusion",
        expected="FG-ARI 48.18, mIoU 20.41 in SlotDiffusion's table 2, whose STEVE differs",
    )


def movi_e() -> Run:
    """MOVi-E, as `movi_d`.

    Command:   slotworks train steve.movi_e
    Takes:     not measured here.
    Expected:  FG-ARI 53.69, mIoU 18.69, squared error 588.1, LPIPS 0.494 in SlotDiffusion's table 2, whose STEVE is
               movi_e_stage2.
    """
    return replace(
        movi_d(),
        data=MOVi(variant="e", frames="video", clip_length=3),
        expected="FG-ARI 53.69, mIoU 18.69 in SlotDiffusion's table 2, whose STEVE differs",
    )


def movi_d_stage2() -> Run:
    """MOVi-D on the fixed tokens of `dvae.movi_d`: the STEVE row of SlotDiffusion's table 2, as there.

    `video_based/configs/steve/steve_movid_params-res128.py`: 30 epochs of the 22 windows of every video; most probable
    tokens, cross-entropy as a mean over tokens, slots that look at a ResNet-18 and start learned, 10.78 million
    parameters beside the discrete VAE's.

    Command:   slotworks train dvae.movi_d && slotworks train steve.movi_d_stage2
    Takes:     not measured here; a batch took 0.87 s and 51 GB on A40s in SlotDiffusion's table 4.
    Expected:  MSE 655.4, LPIPS 0.549, FG-ARI 48.18, mIoU 20.41 in SlotDiffusion's table 2.
    """
    return _stage2("d", "MSE 655.4, LPIPS 0.549, FG-ARI 48.18, mIoU 20.41 in SlotDiffusion's table 2")


def movi_e_stage2() -> Run:
    """MOVi-E on the fixed tokens of `dvae.movi_e`, as `movi_d_stage2`.

    Command:   slotworks train dvae.movi_e && slotworks train steve.movi_e_stage2
    Takes:     not measured here; as movi_d_stage2.
    Expected:  MSE 588.1, LPIPS 0.494, FG-ARI 53.69, mIoU 18.69 in SlotDiffusion's table 2.
    """
    return _stage2("e", "MSE 588.1, LPIPS 0.494, FG-ARI 53.69, mIoU 18.69 in SlotDiffusion's table 2")


def _stage2(variant: Literal["d", "e"], expected: str) -> Run:
    """Warm-up over a twentieth of the steps, then a cosine to 0 (`video_based/method.py: STEVEMethod`)."""
    steps = 30 * (22 * 9_750 // 32)
    method = SteveConfig(
        parts="slot_diffusion",
        dvae_block="norm",
        dvae_signed=True,
        dvae_run=f"runs/dvae.movi_{variant}",
        target_tokens="probable",
        mlp_dim=384,
        initializer="learned",
        predictor_blocks=2,
        predictor_dropout=0.1,
        loss_weights={"cross_entropy": 1 / 1024},  # of a frame's tokens
    )
    return Run(
        method=method,
        data=MOVi(variant=variant, clip_length=3, clip_stride=1),
        optimizer=Adam(
            lr=1e-4,
            lr_scales={"decoder": 3.0},
            warmup_steps=steps // 20,
            decay="cosine",
            decay_after_warmup=True,
            max_grad_norm=0.05,
        ),
        steps=steps,
        batch_size=32,
        precision="bf16",  # float16 with a loss scale in the released commands; bfloat16 has the range without one
        num_workers=4,
        eval_every=10_000,
        save_every=5_000,
        eval_images=250,
        protocol="slot-diffusion",
        expected=expected,
    )


def scenes_mini() -> Run:
    """Drawn videos of moving shapes of 32 pixels, at a reduced cost; after dvae.videos_mini.

    Not a row of a table. As `slate.scenes_mini`: few words, two narrow blocks, half of the words hidden from the
    Transformer in training, learned first slots with the bi-level gradient. The words are fixed beforehand, and the
    first steps see single frames, then clips of three: trained along and on clips from the start, one slot took all.

    Command:   slotworks train dvae.videos_mini && slotworks train steve.scenes_mini
    Takes:     9 to 15 minutes on one busy core, and one for the words.
    Expected:  FG-ARI 61.3 +- 8.2, ARI 32.6 +- 16.1, mBO_i 30.7 +- 1.5 over 3 seeds, docs/results.md.
    """
    return Run(
        method=SteveConfig(
            image_size=32,
            vocab_size=64,
            dvae_channels=32,
            dvae_run="runs/dvae.videos_mini",
            target_tokens="probable",
            cnn_channels=32,
            cnn_stride=2,
            num_slots=4,
            slot_dim=64,
            mlp_dim=128,
            first_iterations=3,
            short_clips=((3_000, 1),),
            mlp_in_last_iteration=True,
            initializer="learned",
            gradient="bilevel",
            model_dim=64,
            decoder_blocks=2,
            dropout=0.0,
            word_dropout=0.5,
        ),
        data=VIDEO_SCENES,
        optimizer=Adam(
            lr=1e-3, warmup_steps=200, decay="linear", decay_start=0.5, lr_scales={"dvae": 3.0}, max_grad_norm=1.0
        ),
        steps=5_000,
        batch_size=8,
        precision="auto",
        channels_last="auto",
        ema_decay=0.998,
        eval_every=2_500,
        save_every=1_000,
        eval_images=100,
        expected="FG-ARI 61.3 +- 8.2, ARI 32.6 +- 16.1, mBO_i 30.7 +- 1.5 over 3 seeds",
    )
