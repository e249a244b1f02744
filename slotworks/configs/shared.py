"""What recipes of several methods share: drawn data, training as in SlotDiffusion's repository, methods that need none.

SlotDiffusion's tables compare it with Slot Attention, SLATE, SAVi and STEVE as its own repository trains them.
"""

from collections.abc import Mapping
from dataclasses import replace

from slotworks.configs.recipe import Published
from slotworks.data.scenes import PaintedScenes, PaintedVideos, ShapeScenes, VideoScenes
from slotworks.data.stores.features import CachedFeatures
from slotworks.encoders.vit import ViTConfig
from slotworks.training import Adam, Run
from slotworks.types import DataConfig, MethodConfig

# Two or three large shapes of 32 pixels: the pictures, and the videos, of all miniatures that are compared.
SCENES = ShapeScenes(
    image_size=32, min_objects=2, max_objects=3, sizes=(0.3, 0.36), shapes=("circle", "square", "triangle")
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

SCENES_VIT = ViTConfig("package:scenes_vit", image_size=64, patch_size=4, feature_dim=128)  # of mae.scenes_mini
SCENES_ENCODER = replace(SCENES_VIT, features="normed")

# What Slot Attention, SLATE and SlotDiffusion are compared on: features once, the images beside them to draw.
PAINTED = CachedFeatures(PaintedScenes(num_train=6_000), SCENES_ENCODER, resize=True, keep_images=True)
# Three objects that SAVi is told in the first frame; some leave, and what comes in later would have no box there.
PAINTED_VIDEOS = PaintedVideos(min_objects=3, max_objects=3, appearing=0.0, clip_length=3)

FROM_SPOT = "quoted from SPOT"

MOVI_FRAMES = 24 * 9_750  # of the training videos
MOVI_WINDOWS = 22 * 9_750  # of three frames


def slot_diffusion_run(
    method: MethodConfig,
    data: DataConfig,
    *,
    epochs: int,
    samples: int,  # of an epoch
    lr: float,
    warmup: int = 20,  # a part of the steps: 20 is a twentieth
    batch_size: int = 64,
    **adam,
) -> Run:
    """Whole epochs with a warm-up and a cosine, as in `img_based/method.py` and `video_based/method.py`."""
    steps = epochs * (samples // batch_size)
    return Run(
        method=method,
        data=data,
        optimizer=Adam(lr=lr, warmup_steps=steps // warmup, decay="cosine", **adam),
        steps=steps,
        batch_size=batch_size,
        precision="bf16",  # float16 with a loss scale in the released commands; bfloat16 has the range without one
        num_workers=4,
        eval_every=10_000,
        save_every=5_000,
        protocol="slot-diffusion",
    )


def untrained(method: MethodConfig, data: DataConfig, protocol: str = "oclf") -> Run:
    """A method that is evaluated as it is."""
    return Run(method=method, data=data, steps=0, batch_size=1, protocol=protocol)


def glass_table(table: str, numbers: Mapping[str, str] | None = None, note: str = "") -> Published:
    """What GLASS prints of its own method, or of another that it trained anew."""
    return Published(f"GLASS, {table}", numbers or {}, note)


def so_po_go(so: str, po: str, go: str) -> Published:
    """A row of GLASS's table 3."""
    return glass_table("table 3", {"SO": so, "PO": po, "GO": go}, "its limits are not stated")


def zero_shot(data: str, miou_i: str, mbo_i: str) -> Published:
    """A row of GLASS's table 4: trained on COCO, scored on other data."""
    return glass_table("table 4", {"mIoU_i": miou_i, "mBO_i": mbo_i}, f"on {data}, trained on COCO")


def properties(top_1: str, position_mse: str, data: str) -> Published:
    """A row of GLASS's table 8: linear probes on the slots, as its supplement, B.1, trains them on VOC and on COCO.

    On VOC the IoU with masks of classes is said of training alone, and the supplement's A evaluates on the 1,449 images
    of the validation split, which have instances: the table is one of instances.
    """
    how = {"VOC": "--train-target class", "COCO": "--epochs 10"}[data]  # 50 epochs, as on VOC, are the default
    return glass_table(
        "table 8", {"top-1": top_1, "position MSE": position_mse}, f"by --task properties {how}, supplement B.1"
    )


def images_from_slots(psnr: str, ssim: str, lpips: str, fid: str) -> Published:
    """A row of GLASS's table 7, as the released `eval_generation.py` measures: 512 images, seed 42."""
    numbers = {"PSNR": psnr, "SSIM": ssim, "LPIPS": lpips, "FID": fid}
    return glass_table("table 7", numbers, "by --task reconstruction --perceptual --images 512 --seed 42")
