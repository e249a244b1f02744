"""GLASS: both phases on COCO and VOC, its ablations, and small `_mini` recipes (Singh et al. 2025).

Training images are generated first: `slotworks synthesize glass.coco` makes those of `glass.coco` in
`data/generated/glass.coco`, and so on. Evaluation is on real images. Phase 2 needs the run folder of phase 1: by
default the one that `slotworks train` makes. Masks are the attention of the slots, scored by `glass-release` (the
released script, which counts the background); `oclf[attention]` is comparable with DINOSAUR and SPOT.

Settings are those of the paper's table 10 and supplement; docs/methods/glass.md lists what it leaves open.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from slotworks.configs import stable_lsd
from slotworks.configs.recipe import Published, Recipe, changed, recipe
from slotworks.configs.shared import SCENES_ENCODER, glass_table, images_from_slots, properties, so_po_go, zero_shot
from slotworks.configs.stable_lsd import PAINTED_DIFFUSION, SCENES_ADAM, TINY_DIFFUSION
from slotworks.configs.tiny_diffusion import REPEATED_SCENES, TINY_SCENES
from slotworks.data import COCO, VOC
from slotworks.data.scenes import PaintedScenes
from slotworks.data.stores.generated import Generated
from slotworks.data.stores.latents import CachedLatents
from slotworks.encoders.vit import DINO_B16, MAE_B16, ViTConfig
from slotworks.methods import GlassConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig

REAL_COCO = COCO(image_size=448, mask_size=256, crop="center", flip=False, interpolation="bilinear")
REAL_VOC = VOC(image_size=448, mask_size=256, crop="center", flip=False, interpolation="bilinear")


def _cached(method: GlassConfig, name: str, real: DataConfig, mask: int = 512) -> CachedLatents:
    """Generated images as features and latents, real ones to evaluate on.

    Masks keep the size they are generated at: slots are compared with them there (section 4, "Slot matching").
    """
    side = method.image_size
    return CachedLatents(
        images=Generated(root=f"data/generated/{name}", image_size=side, mask_size=mask, real=real),
        encoder=method.encoder,
        diffusion=method.diffusion.model,
        latent_size=method.diffusion.image_size,
    )


@recipe(
    glass_table("tables 2 and 11", {"mIoU_i": "38.9", "mBO_i": "40.6", "mBO_c": "48.5", "FG-ARI": "34.1"}),
    so_po_go("25.2", "45.9", "0.00"),
    zero_shot("CLEVRTex", "46.1", "50.1"),
    zero_shot("Objects365", "18.6", "21.4"),
    properties("20.8", "0.059", "COCO"),
    takes="not measured here; both phases four days on one RTX 6000 Ada in the paper",
)
def coco() -> Run:
    """COCO, phase 1: slot module and MLP decoder, on the images of `slotworks synthesize glass.coco`."""
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
    )


voc = coco.but(
    "VOC 2012, phase 1, on the images of `slotworks synthesize glass.voc`; seven slots as on COCO.",
    glass_table("tables 2 and 11", {"mIoU_i": "58.1", "mBO_i": "58.9", "mBO_c": "62.2", "FG-ARI": "22.5"}),
    so_po_go("26.7", "42.3", "0.01"),
    properties("58.1", "0.037", "VOC"),
    takes="not measured here; both phases two days on one RTX 6000 Ada in the paper",
    data=_cached(GlassConfig(), "glass.voc", REAL_VOC),
    steps=150_000,
)


def _on(first: Recipe, name: str) -> dict[str, Any]:
    """Change: other generated images."""
    images = getattr(first().data, "images")  # noqa: B009  (of CachedLatents)
    return {"images": replace(images, root=f"data/generated/{name}")}


def _weights(semantic: float, instance: float) -> dict[str, Any]:
    """Change: other weights of the losses."""
    return {"loss_weights": {"semantic": semantic, "instance": instance}}


def _with_encoder(first: Recipe, encoder: ViTConfig, about: str, *published: Published) -> Recipe:
    """The same run on features of another network, also at 448 pixels and after its last LayerNorm."""
    encoder = replace(encoder, image_size=448, features="normed")
    return first.but(about, *published, method={"encoder": encoder}, data={"encoder": encoder})


def _phase2(first: Callable[[], Run], name: str) -> dict[str, Any]:
    """Changes: the last 100,000 steps of `glass.NAME`, lr 4e-5 for the U-Net, 1e-8 for what phase 1 trained."""
    method = first().method
    assert isinstance(method, GlassConfig)
    diffusion = replace(method.diffusion, trained=True, checkpointing=method.image_size > 64)
    slow = 1e-8 / 4e-5
    return {
        "method": {"diffusion": diffusion, "phase_1": f"runs/glass.{name}"},
        "optimizer": Adam(lr=4e-5, max_grad_norm=1.0, lr_scales={"slots": slow, "feature_decoder": slow}),
        "steps": 100_000,
        "ema_decay": None,
    }


def _small_phase2(first: Callable[[], Run], name: str, *, steps: int, time_power: float = 1.0) -> Run:
    """Phase 2 of a miniature: the slots stay exactly as they were, which spares their gradients."""
    run = changed(first(), **_phase2(first, name))
    assert isinstance(run.method, GlassConfig)
    diffusion = replace(run.method.diffusion, time_power=time_power)
    method = replace(run.method, freeze_slots=True, diffusion=diffusion)
    return changed(run, method=method, optimizer=replace(SCENES_ADAM, lr=5e-4), steps=steps, eval_every=steps)


coco_dagger = coco.but(
    "COCO with the images' true classes in the place of captions, phase 1 (GLASS with a dagger).",
    glass_table("tables 2 and 11", {"mIoU_i": "39.0", "mBO_i": "40.8", "mBO_c": "48.7", "FG-ARI": "32.5"}),
    so_po_go("27.3", "49.6", "0.01"),
    zero_shot("CLEVRTex", "47.2", "52.3"),
    zero_shot("Objects365", "19.6", "22.4"),
    data=_on(coco, "glass.coco_labels"),
)

voc_dagger = voc.but(
    "VOC 2012 with the images' true classes in the place of captions, phase 1 (GLASS with a dagger).",
    glass_table("tables 2 and 11", {"mIoU_i": "57.8", "mBO_i": "58.5", "mBO_c": "61.5", "FG-ARI": "21.3"}),
    so_po_go("30.4", "26.2", "0.67"),
    data=_on(voc, "glass.voc_labels"),
)

READING = glass_table("table 2", {}, "whose captions may be read so: section 4 does not say if a man is a person")

coco_names = coco.but(
    "COCO, captions read by COCO's class names alone, where a man is no person, phase 1; not a row of a table.",
    READING,
    data=_on(coco, "glass.coco_names"),
)

voc_names = voc.but(
    "VOC 2012, captions read by COCO's class names alone, where a man is no person, phase 1; not a row of a table.",
    READING,
    data=_on(voc, "glass.voc_names"),
)

coco_phase2 = coco.but(
    "COCO, phase 2: the U-Net of Stable Diffusion as well, from the weights of glass.coco.",
    images_from_slots("10.93", "0.21", "0.59", "71.30"),
    **_phase2(coco, "coco"),
)

coco_dagger_phase2 = coco_dagger.but(
    "COCO with the images' true classes, phase 2: from the weights of glass.coco_dagger.",
    images_from_slots("10.88", "0.20", "0.59", "79.61"),
    **_phase2(coco_dagger, "coco_dagger"),
)

voc_phase2 = voc.but(
    "VOC 2012, phase 2: from the weights of glass.voc.",
    glass_table("table 2", {}, "the paper prints phase 1"),
    **_phase2(voc, "voc"),
)

voc_dagger_phase2 = voc_dagger.but(
    "VOC 2012 with the images' true classes, phase 2: from the weights of glass.voc_dagger.",
    glass_table("table 2", {}, "the paper prints phase 1"),
    **_phase2(voc_dagger, "voc_dagger"),
)

coco_recon = coco.but(
    "COCO, reconstruction loss only.", glass_table("table 6a", {"mIoU_i": "30.0"}), method=_weights(0.0, 0.0)
)
coco_recon_semantic = coco.but(
    "COCO, without the feature loss.", glass_table("table 6a", {"mIoU_i": "30.9"}), method=_weights(0.7, 0.0)
)
coco_recon_instance = coco.but(
    "COCO, without the class masks.", glass_table("table 6a", {"mIoU_i": "29.3"}), method=_weights(0.0, 0.9)
)
voc_recon = voc.but(
    "VOC 2012, reconstruction loss only.", glass_table("table 6a", {"mIoU_i": "34.4"}), method=_weights(0.0, 0.0)
)
voc_recon_semantic = voc.but(
    "VOC 2012, without the feature loss.", glass_table("table 6a", {"mIoU_i": "55.1"}), method=_weights(0.7, 0.0)
)
voc_recon_instance = voc.but(
    "VOC 2012, without the class masks.", glass_table("table 6a", {"mIoU_i": "38.9"}), method=_weights(0.0, 0.9)
)

coco_mae = _with_encoder(coco, MAE_B16, "COCO on MAE's ViT-B/16.", glass_table("table 6b", {"mIoU_i": "30.0"}))
coco_dino = _with_encoder(coco, DINO_B16, "COCO on DINO's ViT-B/16.", glass_table("table 6b", {"mIoU_i": "31.4"}))
voc_mae = _with_encoder(voc, MAE_B16, "VOC 2012 on MAE's ViT-B/16.", glass_table("table 6b", {"mIoU_i": "41.1"}))
voc_dino = _with_encoder(voc, DINO_B16, "VOC 2012 on DINO's ViT-B/16.", glass_table("table 6b", {"mIoU_i": "54.2"}))

coco_sam2 = coco.but(
    "COCO guided by SAM 2's automatic masks, without the feature loss.",
    glass_table("table 6c", {}, "below glass.coco; its values are not in our sources"),
    notes="The images: `slotworks synthesize glass.coco --masks sam2 --out data/generated/glass.coco_sam2`.",
    method=_weights(1.0, 0.0),
    data=_on(coco, "glass.coco_sam2"),
)

coco_pseudo = coco.but(
    "COCO guided by its own class masks with the weights of coco_sam2.",
    glass_table("table 6c", {}, "above coco_sam2; its values are not in our sources"),
    method=_weights(1.0, 0.0),
)

coco_sem = coco.but(
    "COCO, GLASS-Sem: little feature loss, for masks of classes.",
    glass_table("table 9", {"mIoU_c": "46.7"}),
    method=_weights(0.7, 0.1),
)
voc_sem = voc.but(
    "VOC 2012, GLASS-Sem: little feature loss, for masks of classes.",
    glass_table("table 9", {"mIoU_c": "68.9"}),
    method=_weights(0.7, 0.1),
)

coco_14 = coco.but(
    "COCO with 14 slots.", glass_table("table 12", {"mIoU_i": "27.0", "mBO_i": "28.0"}), method={"num_slots": 14}
)
coco_21 = coco.but(
    "COCO with 21 slots.", glass_table("table 12", {"mIoU_i": "24.2", "mBO_i": "25.3"}), method={"num_slots": 21}
)

coco_templates = coco.but(
    "COCO with template prompts, phase 1.",
    glass_table("table 13", {"mIoU_i": "40.0", "mBO_i": "41.2"}),
    data=_on(coco, "glass.coco_templates"),
)

coco_sharegpt = coco.but(
    "COCO with captions by ShareGPT-4V, phase 1.",
    glass_table("table 13", {"mIoU_i": "38.3", "mBO_i": "40.7"}),
    data=_on(coco, "glass.coco_sharegpt"),
)


@recipe(
    takes="6 to 9 minutes on one core of a recent CPU",
)
def scenes_mini() -> Run:
    """Drawn shapes, the small networks of this package, phase 1, at a reduced cost.

    Not a row of a table. Trained on the images of `slotworks synthesize glass.scenes`, scored on drawn scenes.
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
    data = replace(_cached(method, "glass.scenes", TINY_SCENES, mask=64), flips=True)
    return changed(stable_lsd.scenes_mini(), method=method, data=data)


@recipe(
    takes="4 minutes on two CPU cores",
)
def scenes_phase2_mini() -> Run:
    """Drawn shapes, phase 2: the small U-Net as well, from the weights of glass.scenes_mini."""
    return _small_phase2(scenes_mini, "scenes_mini", steps=1_000)


scenes_recon_mini = scenes_mini.but(
    "Drawn shapes, reconstruction loss only: the first row of table 6a in miniature.",
    method=_weights(0.0, 0.0),
)

scenes_recon_semantic_mini = scenes_mini.but(
    "Drawn shapes, without the feature loss: table 6a in miniature.",
    method=_weights(0.7, 0.0),
)

scenes_recon_instance_mini = scenes_mini.but(
    "Drawn shapes, without the class masks: table 6a in miniature.",
    method=_weights(0.0, 0.9),
)


@recipe(takes="4 minutes and 35 seconds of one core without bfloat16 instructions, beside other work")
def scenes_repeated_mini() -> Run:
    """Drawn shapes of two colours, several of one class in most scenes, both guiding losses, 400 steps.

    Not a row of a table. Class masks say nothing about two objects of one class: only the feature loss can part them.
    Trained on the images of `slotworks synthesize glass.scenes_repeated`.
    """
    first = scenes_mini()
    assert isinstance(first.method, GlassConfig)
    data = replace(_cached(first.method, "glass.scenes_repeated", REPEATED_SCENES, mask=64), flips=True)
    return changed(first, data=data, steps=400)


scenes_repeated_semantic_mini = scenes_repeated_mini.but(
    "Drawn shapes of two colours, several of one class in most scenes, without the feature loss.",
    method=_weights(0.7, 0.0),
)


@recipe(
    takes="11 to 13 minutes on one core of a CPU without bfloat16, beside other work",
)
def painted_mini() -> Run:
    """Painted scenes, phase 1: objects are drawn where they are, and shapes are classes, at a reduced cost.

    Not a row of a table. Trained on the images of `slotworks synthesize glass.painted`, scored on painted scenes, most
    of which hold several objects of one class.
    """
    first = scenes_mini()
    assert isinstance(first.method, GlassConfig)
    method = replace(first.method, diffusion=PAINTED_DIFFUSION, num_slots=6, num_iterations=3)
    data = replace(_cached(method, "glass.painted", PaintedScenes(), mask=64), flips=True)
    return changed(stable_lsd.painted_mini(), method=method, data=data)


@recipe(
    takes="13 minutes on one core of a CPU without bfloat16, beside other work",
)
def painted_phase2_mini() -> Run:
    """Painted scenes, phase 2: the small U-Net as well, from the weights of glass.painted_mini."""
    return _small_phase2(painted_mini, "painted_mini", steps=800, time_power=1.5)  # as the U-Net was trained


painted_recon_mini = painted_mini.but(
    "Painted scenes, reconstruction loss only: the first row of table 6a in miniature.",
    method=_weights(0.0, 0.0),
)

painted_recon_semantic_mini = painted_mini.but(
    "Painted scenes, without the feature loss: table 6a in miniature.",
    method=_weights(0.7, 0.0),
)

painted_recon_instance_mini = painted_mini.but(
    "Painted scenes, without the class masks: table 6a in miniature.",
    method=_weights(0.0, 0.9),
)
