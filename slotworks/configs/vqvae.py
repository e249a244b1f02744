"""SlotDiffusion's first stage on every data set of the paper and of its later code, and `_mini` recipes.

Settings are those of the released code, which trains 100 epochs on images, 50 on MOVi and 800 on VOC; the paper says
100 for all. All stage 2 recipes read the folder that `slotworks train` makes: runs/vqvae.NAME.
"""

from dataclasses import replace

from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import MOVI_FRAMES, SCENES, slot_diffusion_run
from slotworks.data import COCO, VOC, CelebA, CLEVRTex, MOVi
from slotworks.data.scenes import PaintedScenes
from slotworks.decoders import VQConfig
from slotworks.methods import VQVAEConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig

MINI = VQConfig(dims=(16, 32, 64), layers=1, num_codes=256, norm_groups=8, attention=False, code_range=0.5)
PAINTED_CODES = replace(MINI, num_codes=512)  # shading and shadows
IMAGES = Published("SlotDiffusion's img_based/configs/sa_ldm/vqvae_*", note="the paper reports the second stage")
VIDEOS = Published("SlotDiffusion's video_based/configs/savi_ldm/vqvae_*", note="the paper reports the second stage")


def _run(data: DataConfig, *, epochs: int, images: int, image_size: int = 128) -> Run:
    """Batches of 64; from a hundredth of the rate up over a twentieth of the steps, by a cosine down to it."""
    ends = {"warmup_scale": 0.01, "decay_after_warmup": True, "final_lr_scale": 0.01}
    method = VQVAEConfig(image_size=image_size)
    run = slot_diffusion_run(method, data, epochs=epochs, samples=images, lr=1e-3, **ends)
    return changed(run, eval_every=run.steps, protocol="slot-attention")


@recipe(IMAGES, takes="not measured here; two GPUs in the released configuration")
def clevrtex() -> Run:
    """CLEVRTex, 128 pixels, 100 epochs."""
    return _run(CLEVRTex(variant="full"), epochs=100, images=40_000)


@recipe(IMAGES)
def celeba() -> Run:
    """CelebA, 128 pixels, 100 epochs."""
    return _run(CelebA(), epochs=100, images=162_770)


@recipe(VIDEOS)
def movi_d() -> Run:
    """Single frames of MOVi-D, 50 epochs."""
    return _run(MOVi(variant="d", frames="single"), epochs=50, images=MOVI_FRAMES)


movi_e = movi_d.but("Single frames of MOVi-E, 50 epochs.", VIDEOS, data={"variant": "e"})


@recipe(IMAGES)
def voc() -> Run:
    """VOC 2012 (trainaug), 224 pixels, 800 epochs."""
    data = VOC(image_size=224, mask_size=224, crop="random", flip=True, interpolation="bilinear")
    return _run(data, epochs=800, images=10_582, image_size=224)


@recipe(IMAGES)
def coco() -> Run:
    """COCO 2017, 224 pixels, 100 epochs."""
    data = COCO(image_size=224, mask_size=224, crop="center", flip=True, interpolation="bilinear")
    return _run(data, epochs=100, images=118_287, image_size=224)


@recipe(
    takes="two and a half to three and a half minutes of one busy core",
    no_record="squared error 0.0046 per value, 140 of 256 codes in use",
)
def scenes_mini() -> Run:
    """Drawn shapes of 32 pixels, those of slate.scenes_mini, at a reduced cost.

    Not a row of a table: narrow levels, 256 codes that start spread out, the squared error without LPIPS.
    """
    return Run(
        method=VQVAEConfig(image_size=32, autoencoder=MINI, perceptual=False),
        data=replace(SCENES, num_train=100_000),
        optimizer=Adam(lr=2e-3, warmup_steps=50, decay="cosine", final_lr_scale=0.02, max_grad_norm=1.0),
        steps=1_500,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        eval_every=1_500,
        save_every=250,
    )


painted_mini = scenes_mini.but(
    "Painted scenes of 64 pixels, at a reduced cost: the first stage of slot_diffusion.painted_mini.",
    takes="21 minutes of one core without bfloat16, beside much other work",
    method={"image_size": 64, "autoencoder": PAINTED_CODES},
    data=PaintedScenes(num_train=100_000),
    steps=2_000,
    batch_size=8,
    eval_every=2_000,
)
