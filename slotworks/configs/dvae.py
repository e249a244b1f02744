"""Discrete VAEs alone: first stages of SLATE and STEVE as SlotDiffusion's repository trains them, and two `_mini`s.

`img_based/configs/slate/dvae_*` and `video_based/configs/steve/dvae_*` there; both have the same network, with a
GroupNorm and no bias in each block (`img_based/models/slate/slate_utils.py: Conv2dBlock`).
"""

from slotworks.configs import slate, steve
from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import MOVI_FRAMES, slot_diffusion_run
from slotworks.data import CelebA, CLEVRTex, MOVi
from slotworks.data.scenes import PaintedScenes
from slotworks.methods import DVAEConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig

IMAGES = Published("SlotDiffusion's img_based/configs/slate/dvae_*", note="the paper prints the second stage")
VIDEOS = Published("SlotDiffusion's video_based/configs/steve/dvae_*", note="the paper prints the second stage")


@recipe(IMAGES)
def clevrtex() -> Run:
    """CLEVRTex, 128 pixels, 4,096 words; 100 epochs, the temperature falls during the first 15 percent."""
    return _run(CLEVRTex(variant="full"), epochs=100, images=40_000)


@recipe(IMAGES)
def celeba() -> Run:
    """CelebA, as `clevrtex`."""
    return _run(CelebA(), epochs=100, images=162_770)


@recipe(VIDEOS)
def movi_d() -> Run:
    """MOVi-D, every frame an image; 50 epochs. Its blocks are SLATE's, as those of images, and not STEVE's."""
    return _run(MOVi(variant="d", frames="single"), epochs=50, images=MOVI_FRAMES)


movi_e = movi_d.but("MOVi-E, as `movi_d`.", VIDEOS, data={"variant": "e"})


@recipe(takes="not measured; in a trial 1,200 steps took 29 seconds of one core")
def scenes_mini() -> Run:
    """Drawn shapes, the discrete VAE of `slate.scenes_mini` alone.

    In a trial of 1,200 steps with a constant learning rate and a temperature that falls over 6,000 steps the error per
    value was 0.009 and 24 words were in use.
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
    )


@recipe(takes="70 seconds of one core", no_record="error per value 0.006 to 0.007 with 23 to 26 words in use")
def videos_mini() -> Run:
    """Drawn videos, the discrete VAE of `steve.scenes_mini` alone: its first stage.

    Without a limit to the gradient and with a temperature that falls over the whole training, one seed of two ended
    with 2 words in use.
    """
    run = steve.scenes_mini()
    return changed(scenes_mini(), method=_of(run), data=run.data, batch_size=8)


@recipe(takes="8 minutes of one core without bfloat16, beside other work")
def painted_mini() -> Run:
    """Painted scenes of 64 pixels, the discrete VAE of `slate.painted_mini` alone: its first stage.

    In a trial 1,500 steps left 47 of 256 words in use and an error of 0.006 per value, with outlines of one word.
    """
    return changed(
        scenes_mini(),
        method=_of(slate.painted_mini()),
        data=PaintedScenes(num_train=100_000),
        steps=5_000,
        batch_size=8,
        eval_every=5_000,
    )


def _of(run: Run) -> DVAEConfig:
    names = ("image_size", "vocab_size", "dvae_channels", "dvae_block", "dvae_signed")
    return DVAEConfig(**{name: getattr(run.method, name) for name in names}, tau_steps=6_000)


def _run(data: DataConfig, *, epochs: int, images: int) -> Run:
    """Batches of 64; from a hundredth of the rate up over a twentieth of the steps, by a cosine down to it.

    The error counts as a mean over values in [-1, 1], which are four times those in [0, 1].
    """
    method = DVAEConfig(image_size=128, vocab_size=4096, dvae_signed=True, loss_weights={"recon": 4 / (3 * 128 * 128)})
    ends = {"warmup_scale": 0.01, "decay_after_warmup": True, "final_lr_scale": 0.01}
    run = slot_diffusion_run(method, data, epochs=epochs, samples=images, lr=1e-3, **ends)
    falls = {"tau_steps": run.steps * 3 // 20}
    return changed(run, method=falls, eval_every=run.steps, save_every=2_500, protocol="slot-attention")
