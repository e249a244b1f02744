"""GLASS: both phases on COCO and VOC, its ablations, and small `_mini` recipes (Singh et al. 2025).

Training images are generated first: `slotworks synthesize glass.coco` makes those of `glass.coco` in
`data/generated/glass.coco`, and so on. Evaluation is on real images. Phase 2 needs the run folder of phase 1: by
default the one that `slotworks train` makes. Masks are the attention of the slots, scored by `glass-release` (the
released script, which counts the background); `oclf[attention]` is comparable with DINOSAUR and SPOT.

Settings are those of the paper's table 10 and supplement; docs/methods/glass.md lists what it leaves open.
"""

from dataclasses import replace

from slotworks.configs.stable_lsd import SCENES_ADAM, SCENES_ENCODER, TINY_DIFFUSION
from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.data import COCO, VOC
from slotworks.data.stores.generated import Generated
from slotworks.data.stores.latents import CachedLatents
from slotworks.encoders.vit import DINO_B16, MAE_B16, ViTConfig
from slotworks.methods import GlassConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig

__all__ = [
    "coco",
    "coco_14",
    "coco_21",
    "coco_dagger",
    "coco_dagger_phase2",
    "coco_dino",
    "coco_mae",
    "coco_phase2",
    "coco_recon",
    "coco_recon_instance",
    "coco_recon_semantic",
    "coco_sam2",
    "coco_sem",
    "coco_templates",
    "scenes_mini",
    "scenes_phase2_mini",
    "scenes_recon_instance_mini",
    "scenes_recon_mini",
    "scenes_recon_semantic_mini",
    "voc",
    "voc_dagger",
    "voc_dagger_phase2",
    "voc_dino",
    "voc_mae",
    "voc_phase2",
    "voc_recon",
    "voc_recon_instance",
    "voc_recon_semantic",
    "voc_sem",
]

REAL_COCO = COCO(image_size=448, mask_size=256, crop="center", flip=False, interpolation="bilinear")
REAL_VOC = VOC(image_size=448, mask_size=256, crop="center", flip=False, interpolation="bilinear")


def coco() -> Run:
    """COCO, phase 1: slot module and MLP decoder, on the images of `slotworks synthesize glass.coco`.

    Command:   slotworks train glass.coco
    Takes:     not measured here; both phases four days on one RTX 6000 Ada in the paper.
    Expected:  mIoU_i 38.9, mBO_i 40.6, mBO_c 48.5, FG-ARI 34.1 in the paper.
    """
    method = GlassConfig()
    return Run(
        method=method,
        data=_cached(method, "glass.coco", REAL_COCO),
        optimizer=Adam(lr=2e-5, max_grad_norm=1.0),
        steps=400_000,
        batch_size=32,
        precision="bf16",  # float16 with a loss scale in the released code; bfloat16 has the range without one
        num_workers=4,
        eval_every=25_000,
        save_every=5_000,
        protocol="glass-release",
        expected="mIoU_i 38.9, mBO_i 40.6, mBO_c 48.5, FG-ARI 34.1 in the paper",
    )


def coco_phase2() -> Run:
    """COCO, phase 2: the U-Net of Stable Diffusion as well, from the weights of glass.coco.

    Command:   slotworks train glass.coco_phase2
    Takes:     as glass.coco.
    Expected:  PSNR 10.93, SSIM 0.21, LPIPS 0.59, FID 71.3 of images from slots in the paper.
    """
    expected = "PSNR 10.93, SSIM 0.21, LPIPS 0.59, FID 71.3 of images from slots in the paper"
    return _phase2(coco(), "runs/glass.coco", expected)


def coco_dagger() -> Run:
    """COCO with the images' true classes in the place of captions, phase 1 (GLASS with a dagger).

    Command:   slotworks train glass.coco_dagger
    Takes:     as glass.coco.
    Expected:  mIoU_i 39.0, mBO_i 40.8, mBO_c 48.7, FG-ARI 32.5 in the paper.
    """
    return _on(coco(), "glass.coco_labels", "mIoU_i 39.0, mBO_i 40.8, mBO_c 48.7, FG-ARI 32.5 in the paper")


def coco_dagger_phase2() -> Run:
    """COCO with the images' true classes, phase 2: from the weights of glass.coco_dagger.

    Command:   slotworks train glass.coco_dagger_phase2
    Takes:     as glass.coco.
    Expected:  PSNR 10.88, SSIM 0.20, LPIPS 0.59, FID 79.61 of images from slots in the paper.
    """
    expected = "PSNR 10.88, SSIM 0.20, LPIPS 0.59, FID 79.61 of images from slots in the paper"
    return _phase2(coco_dagger(), "runs/glass.coco_dagger", expected)


def coco_templates() -> Run:
    """COCO with template prompts, phase 1 (table 13).

    Command:   slotworks train glass.coco_templates
    Takes:     as glass.coco.
    Expected:  mIoU_i 40.0, mBO_i 41.2 in the paper.
    """
    return _on(coco(), "glass.coco_templates", "mIoU_i 40.0, mBO_i 41.2 in the paper")


def coco_sam2() -> Run:
    """COCO guided by SAM 2's automatic masks, without the feature loss (table 6c).

    The images: `slotworks synthesize glass.coco --masks sam2 --out data/generated/glass.coco_sam2`.

    Command:   slotworks train glass.coco_sam2
    Takes:     as glass.coco.
    Expected:  below glass.coco in the paper; its values are not in our sources.
    """
    run = _on(coco(), "glass.coco_sam2", "below glass.coco in the paper")
    return replace(run, method=replace(run.method, loss_weights={"semantic": 1.0, "instance": 0.0}))


def coco_recon() -> Run:
    """COCO, reconstruction loss only (table 6a).

    Command:   slotworks train glass.coco_recon
    Takes:     as glass.coco.
    Expected:  mIoU_i 30.0 in the paper.
    """
    return _weighted(coco(), 0.0, 0.0, "mIoU_i 30.0 in the paper")


def coco_recon_semantic() -> Run:
    """COCO, without the feature loss (table 6a).

    Command:   slotworks train glass.coco_recon_semantic
    Takes:     as glass.coco.
    Expected:  mIoU_i 30.9 in the paper.
    """
    return _weighted(coco(), 0.7, 0.0, "mIoU_i 30.9 in the paper")


def coco_recon_instance() -> Run:
    """COCO, without the class masks (table 6a).

    Command:   slotworks train glass.coco_recon_instance
    Takes:     as glass.coco.
    Expected:  mIoU_i 29.3 in the paper.
    """
    return _weighted(coco(), 0.0, 0.9, "mIoU_i 29.3 in the paper")


def coco_mae() -> Run:
    """COCO on MAE's ViT-B/16 (table 6b).

    Command:   slotworks train glass.coco_mae
    Takes:     as glass.coco.
    Expected:  mIoU_i 30.0 in the paper.
    """
    return _with_encoder(coco(), MAE_B16, "mIoU_i 30.0 in the paper")


def coco_dino() -> Run:
    """COCO on DINO's ViT-B/16 (table 6b).

    Command:   slotworks train glass.coco_dino
    Takes:     as glass.coco.
    Expected:  mIoU_i 31.4 in the paper.
    """
    return _with_encoder(coco(), DINO_B16, "mIoU_i 31.4 in the paper")


def coco_14() -> Run:
    """COCO with 14 slots (table 12).

    Command:   slotworks train glass.coco_14
    Takes:     as glass.coco.
    Expected:  mIoU_i 27.0, mBO_i 28.0 in the paper.
    """
    run = coco()
    return replace(run, method=replace(run.method, num_slots=14), expected="mIoU_i 27.0, mBO_i 28.0 in the paper")


def coco_21() -> Run:
    """COCO with 21 slots (table 12).

    Command:   slotworks train glass.coco_21
    Takes:     as glass.coco.
    Expected:  mIoU_i 24.2, mBO_i 25.3 in the paper.
    """
    run = coco()
    return replace(run, method=replace(run.method, num_slots=21), expected="mIoU_i 24.2, mBO_i 25.3 in the paper")


def coco_sem() -> Run:
    """COCO, GLASS-Sem: little feature loss, for masks of classes (table 9).

    Command:   slotworks train glass.coco_sem
    Takes:     as glass.coco.
    Expected:  mIoU_c 46.7 in the paper.
    """
    return _weighted(coco(), 0.7, 0.1, "mIoU_c 46.7 in the paper")


def voc() -> Run:
    """VOC 2012, phase 1, on the images of `slotworks synthesize glass.voc`; seven slots as on COCO.

    Command:   slotworks train glass.voc
    Takes:     not measured here; both phases two days on one RTX 6000 Ada in the paper.
    Expected:  mIoU_i 58.1, mBO_i 58.9, mBO_c 62.2, FG-ARI 22.5 in the paper.
    """
    run = coco()
    assert isinstance(run.method, GlassConfig)
    return replace(
        run,
        data=_cached(run.method, "glass.voc", REAL_VOC),
        steps=150_000,
        expected="mIoU_i 58.1, mBO_i 58.9, mBO_c 62.2, FG-ARI 22.5 in the paper",
    )


def voc_phase2() -> Run:
    """VOC 2012, phase 2: from the weights of glass.voc.

    Command:   slotworks train glass.voc_phase2
    Takes:     as glass.voc.
    Expected:  the paper prints phase 1.
    """
    return _phase2(voc(), "runs/glass.voc", "the paper prints phase 1")


def voc_dagger() -> Run:
    """VOC 2012 with the images' true classes in the place of captions, phase 1 (GLASS with a dagger).

    Command:   slotworks train glass.voc_dagger
    Takes:     as glass.voc.
    Expected:  mIoU_i 57.8, mBO_i 58.5, mBO_c 61.5, FG-ARI 21.3 in the paper.
    """
    return _on(voc(), "glass.voc_labels", "mIoU_i 57.8, mBO_i 58.5, mBO_c 61.5, FG-ARI 21.3 in the paper")


def voc_dagger_phase2() -> Run:
    """VOC 2012 with the images' true classes, phase 2: from the weights of glass.voc_dagger.

    Command:   slotworks train glass.voc_dagger_phase2
    Takes:     as glass.voc.
    Expected:  the paper prints phase 1.
    """
    return _phase2(voc_dagger(), "runs/glass.voc_dagger", "the paper prints phase 1")


def voc_recon() -> Run:
    """VOC 2012, reconstruction loss only (table 6a).

    Command:   slotworks train glass.voc_recon
    Takes:     as glass.voc.
    Expected:  mIoU_i 34.4 in the paper.
    """
    return _weighted(voc(), 0.0, 0.0, "mIoU_i 34.4 in the paper")


def voc_recon_semantic() -> Run:
    """VOC 2012, without the feature loss (table 6a).

    Command:   slotworks train glass.voc_recon_semantic
    Takes:     as glass.voc.
    Expected:  mIoU_i 55.1 in the paper.
    """
    return _weighted(voc(), 0.7, 0.0, "mIoU_i 55.1 in the paper")


def voc_recon_instance() -> Run:
    """VOC 2012, without the class masks (table 6a).

    Command:   slotworks train glass.voc_recon_instance
    Takes:     as glass.voc.
    Expected:  mIoU_i 38.9 in the paper.
    """
    return _weighted(voc(), 0.0, 0.9, "mIoU_i 38.9 in the paper")


def voc_mae() -> Run:
    """VOC 2012 on MAE's ViT-B/16 (table 6b).

    Command:   slotworks train glass.voc_mae
    Takes:     as glass.voc.
    Expected:  mIoU_i 41.1 in the paper.
    """
    return _with_encoder(voc(), MAE_B16, "mIoU_i 41.1 in the paper")


def voc_dino() -> Run:
    """VOC 2012 on DINO's ViT-B/16 (table 6b).

    Command:   slotworks train glass.voc_dino
    Takes:     as glass.voc.
    Expected:  mIoU_i 54.2 in the paper.
    """
    return _with_encoder(voc(), DINO_B16, "mIoU_i 54.2 in the paper")


def voc_sem() -> Run:
    """VOC 2012, GLASS-Sem: little feature loss, for masks of classes (table 9).

    Command:   slotworks train glass.voc_sem
    Takes:     as glass.voc.
    Expected:  mIoU_c 68.9 in the paper.
    """
    return _weighted(voc(), 0.7, 0.1, "mIoU_c 68.9 in the paper")


def scenes_mini() -> Run:
    """Drawn shapes, the small networks of this package, phase 1, at a reduced cost.

    Not a row of a table. Trained on the images of `slotworks synthesize glass.scenes`, scored on drawn scenes.

    Command:   slotworks train glass.scenes_mini
    Takes:     6 to 9 minutes on one core of a recent CPU.
    Expected:  mIoU_i 66.5 +- 0.3, mBO_i 68.5 +- 0.2 over 3 seeds, docs/results.md.
    """
    method = GlassConfig(
        encoder=SCENES_ENCODER,
        diffusion=TINY_DIFFUSION,
        num_slots=5,
        slot_dim=64,
        mlp_dim=128,
        initializer="learned",
        decoder_dims=(128, 128, 128),
        decoder_positions="sine",
    )
    return Run(
        method=method,
        data=replace(_cached(method, "glass.scenes", TINY_SCENES), flips=True),
        optimizer=SCENES_ADAM,
        steps=1_000,
        batch_size=16,
        precision="auto",
        channels_last="auto",
        ema_decay=0.995,
        eval_every=500,
        save_every=250,
        protocol="oclf[attention]",
        expected="mIoU_i 66.5 +- 0.3, mBO_i 68.5 +- 0.2 over 3 seeds",
    )


def scenes_phase2_mini() -> Run:
    """Drawn shapes, phase 2: the small U-Net as well, from the weights of glass.scenes_mini.

    Command:   slotworks train glass.scenes_phase2_mini
    Takes:     4 minutes on two CPU cores.
    Expected:  the masks of phase 1; 61 % of removals take out their object and nothing else (seed 0).
    """
    run = _phase2(scenes_mini(), "runs/glass.scenes_mini", "the masks of phase 1")
    return replace(
        run,
        method=replace(run.method, freeze_slots=True),
        optimizer=replace(SCENES_ADAM, lr=5e-4),
        steps=1_000,
        eval_every=1_000,
    )


def scenes_recon_mini() -> Run:
    """Drawn shapes, reconstruction loss only: the first row of table 6a in miniature.

    Command:   slotworks train glass.scenes_recon_mini
    Takes:     as glass.scenes_mini.
    Expected:  mIoU_i 49.1 +- 4.2, mBO_i 51.4 +- 4.1 over 3 seeds.
    """
    return _weighted(scenes_mini(), 0.0, 0.0, "mIoU_i 49.1 +- 4.2, mBO_i 51.4 +- 4.1 over 3 seeds")


def scenes_recon_semantic_mini() -> Run:
    """Drawn shapes, without the feature loss: table 6a in miniature.

    Command:   slotworks train glass.scenes_recon_semantic_mini
    Takes:     as glass.scenes_mini.
    Expected:  mIoU_i 67.1 +- 0.4, mBO_i 68.9 +- 0.4 over 3 seeds.
    """
    return _weighted(scenes_mini(), 0.7, 0.0, "mIoU_i 67.1 +- 0.4, mBO_i 68.9 +- 0.4 over 3 seeds")


def scenes_recon_instance_mini() -> Run:
    """Drawn shapes, without the class masks: table 6a in miniature.

    Command:   slotworks train glass.scenes_recon_instance_mini
    Takes:     as glass.scenes_mini.
    Expected:  mIoU_i 42.7 +- 6.2, mBO_i 44.8 +- 6.4 over 3 seeds.
    """
    return _weighted(scenes_mini(), 0.0, 0.9, "mIoU_i 42.7 +- 6.2, mBO_i 44.8 +- 6.4 over 3 seeds")


def _cached(method: GlassConfig, name: str, real: DataConfig) -> CachedLatents:
    """Generated images as features and latents, real ones to evaluate on."""
    side, mask = method.image_size, getattr(real, "mask_size", None) or method.image_size
    return CachedLatents(
        images=Generated(root=f"data/generated/{name}", image_size=side, mask_size=mask, real=real),
        encoder=method.encoder,
        diffusion=method.diffusion.model,
        latent_size=method.diffusion.image_size,
    )


def _phase2(first: Run, folder: str, expected: str) -> Run:
    """The last 100,000 steps: lr 4e-5 for the U-Net, 1e-8 for what phase 1 trained."""
    assert isinstance(first.method, GlassConfig)
    diffusion = replace(first.method.diffusion, trained=True, checkpointing=first.method.image_size > 64)
    slow = 1e-8 / 4e-5
    return replace(
        first,
        method=replace(first.method, diffusion=diffusion, phase_1=folder),
        optimizer=Adam(lr=4e-5, max_grad_norm=1.0, lr_scales={"slots": slow, "feature_decoder": slow}),
        steps=100_000,
        ema_decay=None,
        expected=expected,
    )


def _on(run: Run, name: str, expected: str) -> Run:
    """The same run on other generated images."""
    assert isinstance(run.data, CachedLatents)
    images = replace(run.data.images, root=f"data/generated/{name}")  # type: ignore[call-arg]
    return replace(run, data=replace(run.data, images=images), expected=expected)


def _weighted(run: Run, semantic: float, instance: float, expected: str) -> Run:
    """The same run with other loss weights."""
    method = replace(run.method, loss_weights={"semantic": semantic, "instance": instance})
    return replace(run, method=method, expected=expected)


def _with_encoder(run: Run, encoder: ViTConfig, expected: str) -> Run:
    """The same run on features of another network, also at 448 pixels and after its last LayerNorm."""
    assert isinstance(run.data, CachedLatents)
    encoder = replace(encoder, image_size=448, features="normed")
    method = replace(run.method, encoder=encoder)
    return replace(run, method=method, data=replace(run.data, encoder=encoder), expected=expected)
