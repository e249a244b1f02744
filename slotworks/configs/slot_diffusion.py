"""SlotDiffusion: every row of its tables 1 and 2, VOC and COCO of the later code, ablations, and `_mini` recipes.

Where paper and released code differ, epochs are the paper's (100 on CLEVRTex, 50 on CelebA, 30 on MOVi; the code has
400 and 200 on images) and the rest is the code's: 2e-4 for the U-Net (the paper's largest rate on images) and half of
it for encoder and slots, gradients clipped to 1 also on CelebA, warm-up over a twentieth, a cosine to 0.

Each needs the run folder of its first stage: `slotworks train vqvae.NAME`.
"""

from dataclasses import fields, replace

from slotworks.configs import slot_attention
from slotworks.configs.recipe import Published, changed, recipe
from slotworks.configs.shared import (
    FROM_SPOT,
    MOVI_WINDOWS,
    PAINTED,
    PAINTED_VIDEOS,
    SCENES,
    SCENES_ENCODER,
    SCENES_VIT,
    VIDEO_SCENES,
    glass_table,
    slot_diffusion_run,
)
from slotworks.configs.vqvae import MINI, PAINTED_CODES
from slotworks.data import COCO, VOC, CelebA, CLEVRTex, MOVi
from slotworks.data.stores.features import CachedFeatures
from slotworks.decoders import DenoiserConfig
from slotworks.encoders.vit import DINO_S8
from slotworks.methods import SlotDiffusionConfig, VideoSlotDiffusionConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig, MethodConfig

# As the code has it: normalised by 0.5, no offset of positions, and `last_hidden_state`, which is behind the last norm.
DINO = replace(DINO_S8, features="normed", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), position_offset=0.0)
SMALL = DenoiserConfig(
    dims=(32, 64),
    layers=1,
    attention_from=0,
    norm_groups=8,
    dropout=0.0,
    prediction="v_prediction",
    latent_scale=3.5,
)
STRIPES = Published("SlotDiffusion, appendix E.4", note="stripes with several seeds")


def _run(
    method: MethodConfig, data: DataConfig, *, epochs: int, samples: int, clip: float, batch_size: int = 64
) -> Run:
    adam = {"lr": 2e-4, "lr_scales": {"slots": 0.5}, "decay_start": 1 / 20, "max_grad_norm": clip}
    return slot_diffusion_run(method, data, epochs=epochs, samples=samples, batch_size=batch_size, **adam)


@recipe(
    Published("SlotDiffusion, table 1", {"MSE": "237.5", "LPIPS": "0.126", "FG-ARI": "68.39", "mIoU": "41.66"}),
    takes="not measured here; one GPU in the released configuration",
)
def clevrtex() -> Run:
    """CLEVRTex, 11 slots."""
    return _run(SlotDiffusionConfig(), CLEVRTex(variant="full"), epochs=100, samples=40_000, clip=1.0)


clevrtex_velocity = clevrtex.but(
    "CLEVRTex with the velocity as target: a failed attempt of the authors.",
    STRIPES,
    method={"denoiser": replace(SlotDiffusionConfig().denoiser, prediction="v_prediction")},
)

clevrtex_sample = clevrtex.but(
    "CLEVRTex with the clean latents as target: a failed attempt of the authors.",
    STRIPES,
    method={"denoiser": replace(SlotDiffusionConfig().denoiser, prediction="sample")},
)

clevrtex_pixels = clevrtex.but(
    "CLEVRTex, diffusion of the image itself at 64 pixels, without a VQ-VAE.",
    Published("SlotDiffusion, appendix E.4", note="works at 64 pixels, colours shift at 128"),
    takes="not measured here",
    notes="The authors' U-Net for it is not stated; this one is half as wide as that for latents.",
    method=SlotDiffusionConfig(
        image_size=64, autoencoder=None, autoencoder_run="", denoiser=DenoiserConfig(dims=(64, 128, 192, 256))
    ),
    data=CLEVRTex(variant="full", image_size=64),
)


@recipe(Published("SlotDiffusion, table 1", {"MSE": "439.0", "LPIPS": "0.212"}, "there are no masks"))
def celeba() -> Run:
    """CelebA, 4 slots."""
    method = SlotDiffusionConfig(num_slots=4, autoencoder_run="runs/vqvae.celeba")
    return _run(method, CelebA(), epochs=50, samples=162_770, clip=1.0)


@recipe(
    Published("SlotDiffusion, table 2", {"MSE": "616.8", "LPIPS": "0.384", "FG-ARI": "51.80", "mIoU": "21.55"}),
    takes="not measured here; one GPU in the released configuration, 24 GB and 0.77 s a step on an A40 in table 4",
)
def movi_d() -> Run:
    """MOVi-D, clips of three frames, 15 slots; every window of a video is a sample."""
    method = VideoSlotDiffusionConfig(autoencoder_run="runs/vqvae.movi_d", predictor_hidden_dropout=True)
    data = MOVi(variant="d", frames="video", clip_length=3, clip_stride=1)
    return changed(_run(method, data, epochs=30, samples=MOVI_WINDOWS, clip=0.05, batch_size=32), eval_images=250)


movi_d_t100 = movi_d.but(
    "MOVi-D with 100 diffusion steps instead of 1000.",
    Published("SlotDiffusion, figure 9", note="better masks and a worse reconstruction than movi_d"),
    method={"denoiser": replace(VideoSlotDiffusionConfig().denoiser, num_timesteps=100)},
)

movi_e = movi_d.but(
    "MOVi-E, clips of three frames, 15 slots.",
    Published("SlotDiffusion, table 2", {"MSE": "577.4", "LPIPS": "0.370", "FG-ARI": "59.63", "mIoU": "20.38"}),
    method={"autoencoder_run": "runs/vqvae.movi_e"},
    data={"variant": "e"},
)

movi_e_t100 = movi_e.but(
    "MOVi-E with 100 diffusion steps instead of 1000.",
    Published("SlotDiffusion, figure 9", note="better masks and a worse reconstruction than movi_e"),
    method={"denoiser": replace(VideoSlotDiffusionConfig().denoiser, num_timesteps=100)},
)


@recipe(glass_table("tables 2 and 11", {"mBO_i": "50.4", "mBO_c": "55.3", "FG-ARI": "17.8"}, FROM_SPOT))
def voc() -> Run:
    """VOC 2012 (trainaug), features of DINO ViT-S/8, six slots: the later code, 500 epochs."""
    method = SlotDiffusionConfig(image_size=224, encoder=DINO, num_slots=6, autoencoder_run="runs/vqvae.voc")
    data = VOC(image_size=224, mask_size=320, crop="random", flip=True, interpolation="bilinear")
    return _run(method, data, epochs=500, samples=10_582, clip=0.05)


@recipe(glass_table("tables 2 and 11", {"mBO_i": "31.0", "mBO_c": "35.0", "FG-ARI": "37.2"}, FROM_SPOT))
def coco() -> Run:
    """COCO 2017, features of DINO ViT-S/8, seven slots of 256: the later code, 100 epochs."""
    method = SlotDiffusionConfig(
        image_size=224, encoder=DINO, num_slots=7, slot_dim=256, mlp_dim=512, autoencoder_run="runs/vqvae.coco"
    )
    data = COCO(image_size=224, mask_size=320, crop="center", flip=True, interpolation="bilinear")
    return _run(method, data, epochs=100, samples=118_287, clip=0.05)


@recipe(
    takes="13.4 to 14.5 minutes of one busy core, features included; 0.4 GB of disk for these",
)
def scenes_mini() -> Run:
    """Drawn shapes of 32 pixels, those of slate.scenes_mini, at a reduced cost; after vqvae.scenes_mini.

    Not a row of a table. As in the later code for VOC and COCO the slots look at a frozen ViT, here the small one of
    this package, whose features are computed once. Everything is smaller, slots are learned with the bi-level gradient
    of BO-QSA, weights are averaged, and latents are scaled to a standard deviation of about 1 (the small VQ-VAE's have
    0.28). The U-Net says the velocity and not, as in the paper, the noise: asked for the noise it did not learn within
    minutes to read the slots where noise covers the image (docs/notes/slot_diffusion.md). Float32 is faster than
    bfloat16 at these sizes.
    """
    return Run(
        method=SlotDiffusionConfig(
            image_size=32,
            encoder=SCENES_VIT,
            num_slots=4,
            slot_dim=64,
            mlp_dim=128,
            num_iterations=3,
            gradient="bilevel",
            denoiser=SMALL,
            autoencoder=MINI,
            autoencoder_run="runs/vqvae.scenes_mini",
        ),
        data=CachedFeatures(replace(SCENES, num_train=6_000), SCENES_VIT, resize=True, keep_images=True),
        optimizer=Adam(
            lr=1e-3,
            lr_scales={"slots": 0.5},
            warmup_steps=200,
            decay="linear",
            decay_start=0.5,
            final_lr_scale=0.05,
            max_grad_norm=1.0,
        ),
        steps=8_000,
        batch_size=16,
        precision="32",  # measured faster than bfloat16 at these sizes, also with avx512_bf16
        channels_last="auto",
        ema_decay=0.998,
        eval_every=1_000,
        save_every=500,
        protocol="slot-diffusion",
    )


slot_attention_mini = slot_attention.tetrominoes_long_mini.but(
    "Slot Attention on the images of `scenes_mini` and slate.scenes_mini: the first row of a table of the three.",
    takes="8 to 11 minutes of one busy core",
    method={"image_size": (32, 32), "num_slots": 4},
    data=replace(SCENES, num_train=100_000),
    protocol="slot-diffusion",
)


@recipe(
    takes="10 to 14 minutes of one busy core, after the images",
)
def video_scenes_mini() -> Run:
    """Drawn videos of 32 pixels in clips of three frames, at a reduced cost; after scenes_mini, whose weights it takes.

    Not a row of a table. Only the predictor is new; the paper trains all on clips from the start. The VQ-VAE is that of
    the images, which look alike.
    """
    run = _of_videos(scenes_mini(), "scenes_mini", VIDEO_SCENES)
    return changed(run, steps=1_500, eval_every=500, eval_images=100)


def _of_videos(images: Run, name: str, data: DataConfig) -> Run:
    """From the weights of `slot_diffusion.NAME`: a small predictor, a lower rate, smaller batches."""
    same = {field.name: getattr(images.method, field.name) for field in fields(images.method)}
    start = f"runs/slot_diffusion.{name}"
    method = VideoSlotDiffusionConfig(**same, predictor_dim=128, predictor_blocks=1, start_from=start)
    return changed(images, method=method, data=data, optimizer={"lr": 5e-4, "warmup_steps": 100}, batch_size=8)


painted_mini = scenes_mini.but(
    "Painted scenes of 64 pixels, at a reduced cost: three of three that draw from slots; after vqvae.painted_mini.",
    takes="34 minutes of one core without bfloat16, beside much other work, of which the step takes 22",
    method={
        "image_size": 64,
        "encoder": SCENES_ENCODER,
        "num_slots": 6,
        "position_gain": 0.2,
        "denoiser": replace(SMALL, dims=(32, 64, 96), time_power=4.0, coordinates=True),
        "autoencoder": PAINTED_CODES,
        "autoencoder_run": "runs/vqvae.painted_mini",
    },
    data=PAINTED,
    optimizer={"lr": 3e-3, "lr_scales": {"slots": 0.33}},
    precision="auto",
    steps=3_000,
    eval_every=1_000,
)


@recipe(takes="not measured yet")
def video_painted_mini() -> Run:
    """Painted videos in clips of three frames, at a reduced cost; after painted_mini, whose weights it takes.

    Not a row of a table. Only the predictor is new, see `video_scenes_mini`.
    """
    run = _of_videos(painted_mini(), "painted_mini", PAINTED_VIDEOS)
    return changed(run, steps=800, eval_every=400, eval_images=50)
