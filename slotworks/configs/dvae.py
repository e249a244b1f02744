"""Discrete VAEs alone: first stages of SLATE and STEVE as SlotDiffusion's repository trains them, and two `_mini`s.

`img_based/configs/slate/dvae_*` and `video_based/configs/steve/dvae_*` there; both have the same network, with a
GroupNorm and no bias in each block (`img_based/models/slate/slate_utils.py: Conv2dBlock`).
"""

from dataclasses import replace

from slotworks.configs import slate, steve
from slotworks.data import CelebA, CLEVRTex, MOVi
from slotworks.methods import DVAEConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig

__all__ = ["celeba", "clevrtex", "movi_d", "movi_e", "scenes_mini", "videos_mini"]


def clevrtex() -> Run:
    """CLEVRTex, 128 pixels, 4,096 words; 100 epochs, the temperature falls during the first 15 percent.

    Command:   slotworks train dvae.clevrtex
    Takes:     not measured here.
    Expected:  not in our sources.
    """
    return _run(CLEVRTex(variant="full"), epochs=100, images=40_000)


def celeba() -> Run:
    """CelebA, as `clevrtex`.

    Command:   slotworks train dvae.celeba
    Takes:     not measured here.
    Expected:  not in our sources.
    """
    return _run(CelebA(), epochs=100, images=162_770)


def movi_d() -> Run:
    """MOVi-D, every frame an image; 50 epochs. Its blocks are SLATE's, as those of images, and not STEVE's.

    Command:   slotworks train dvae.movi_d
    Takes:     not measured here.
    Expected:  not in our sources.
    """
    return _run(MOVi(variant="d", frames="single"), epochs=50, images=24 * 9_750)


def movi_e() -> Run:
    """MOVi-E, as `movi_d`.

    Command:   slotworks train dvae.movi_e
    Takes:     not measured here.
    Expected:  not in our sources.
    """
    return replace(movi_d(), data=MOVi(variant="e", frames="single"))


def scenes_mini() -> Run:
    """Drawn shapes, the discrete VAE of `slate.scenes_mini` alone.

    Command:   slotworks train dvae.scenes_mini
    Takes:     not measured; in a trial 1,200 steps took 29 seconds of one core.
    Expected:  not measured; in that trial, with a constant learning rate and a temperature that falls over 6,000 steps,
               the error per value was 0.009 and 24 words were in use.
    """
    run = slate.scenes_mini()
    return Run(
        method=_of(run),
        data=run.data,
        optimizer=Adam(lr=3e-3, warmup_steps=200, decay="linear", decay_start=0.5, max_grad_norm=1.0),
        steps=1_500,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        eval_every=1_500,
        save_every=500,
        expected="not measured yet",
    )


def videos_mini() -> Run:
    """Drawn videos, the discrete VAE of `steve.scenes_mini` alone: its first stage.

    Without a limit to the gradient and with a temperature that falls over the whole training, one seed of two ended
    with 2 words in use.

    Command:   slotworks train dvae.videos_mini
    Takes:     70 seconds of one core.
    Expected:  error per value 0.006 to 0.007 with 23 to 26 words in use.
    """
    run = steve.scenes_mini()
    return replace(scenes_mini(), method=_of(run), data=run.data, batch_size=8)


def _of(run: Run) -> DVAEConfig:
    names = ("image_size", "vocab_size", "dvae_channels", "dvae_block", "dvae_signed")
    return DVAEConfig(**{name: getattr(run.method, name) for name in names}, tau_steps=6_000)


def _run(data: DataConfig, *, epochs: int, images: int) -> Run:
    """Batches of 64; from a hundredth of the rate up over a twentieth of the steps, by a cosine down to it.

    The error counts as a mean over values in [-1, 1], which are four times those in [0, 1].
    """
    steps = epochs * (images // 64)
    return Run(
        method=DVAEConfig(
            image_size=128,
            vocab_size=4096,
            dvae_signed=True,
            tau_steps=steps * 3 // 20,
            loss_weights={"recon": 4 / (3 * 128 * 128)},
        ),
        data=data,
        optimizer=Adam(
            lr=1e-3,
            warmup_steps=steps // 20,
            warmup_scale=0.01,
            decay="cosine",
            decay_after_warmup=True,
            final_lr_scale=0.01,
        ),
        steps=steps,
        batch_size=64,
        precision="bf16",  # float16 with a loss scale in the released commands; bfloat16 has the range without one
        num_workers=4,
        eval_every=steps,
        save_every=2_500,
        expected="not in our sources",
    )
