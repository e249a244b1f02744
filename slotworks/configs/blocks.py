"""Blocks, beside the recipes whose scores they put in place: same images, as many regions. No training."""

from slotworks.configs import savi
from slotworks.configs.steve import VIDEO_SCENES
from slotworks.configs.vqvae import SCENES
from slotworks.data import COCO, VOC
from slotworks.methods import BlocksConfig
from slotworks.training import Run
from slotworks.types import DataConfig

__all__ = ["coco", "savi_mini", "scenes_mini", "videos_mini", "voc"]


def scenes_mini() -> Run:
    """Quadrants on the drawn scenes of slate.scenes_mini and slot_diffusion.scenes_mini.

    Command:   slotworks evaluate blocks.scenes_mini
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  FG-ARI 52.8, ARI 5.8, mBO_i 25.2, mIoU_i 23.9 (oclf).
    """
    return _run(BlocksConfig(), SCENES, "FG-ARI 52.8, ARI 5.8, mBO_i 25.2, mIoU_i 23.9 (oclf)")


def videos_mini() -> Run:
    """Quadrants on the drawn videos of steve.scenes_mini and slot_diffusion.video_scenes_mini.

    Command:   slotworks evaluate blocks.videos_mini
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  FG-ARI 44.5, ARI 3.8, mBO_i 18.6, mIoU_i 17.8 (oclf).
    """
    return _run(BlocksConfig(), VIDEO_SCENES, "FG-ARI 44.5, ARI 3.8, mBO_i 18.6, mIoU_i 17.8 (oclf)")


def savi_mini() -> Run:
    """Quadrants on the drawn videos of savi.scenes_mini.

    Command:   slotworks evaluate blocks.savi_mini
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  FG-ARI 39.3, ARI 2.4, mBO_i 15.0, mIoU_i 13.8 (savi).
    """
    run = savi.scenes_mini()
    return _run(BlocksConfig(), run.data, "FG-ARI 39.3, ARI 2.4, mBO_i 15.0, mIoU_i 13.8 (savi)", run.protocol)


def voc() -> Run:
    """VOC 2012, two rows of three: as many regions as slots in the recipes of DINOSAUR.

    Command:   slotworks evaluate blocks.voc
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured; no published number.
    """
    data = VOC(image_size=224, mask_size=320)
    return _run(BlocksConfig(rows=2, columns=3, image_size=224), data, "not measured; no published number")


def coco() -> Run:
    """COCO 2017, two rows of four: one region more than slots in the recipes of DINOSAUR.

    Command:   slotworks evaluate blocks.coco
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured; no published number.
    """
    data = COCO(image_size=224, mask_size=320)
    return _run(BlocksConfig(rows=2, columns=4, image_size=224), data, "not measured; no published number")


def _run(method: BlocksConfig, data: DataConfig, expected: str, protocol: str = "oclf") -> Run:
    return Run(method=method, data=data, steps=0, batch_size=1, protocol=protocol, expected=expected)
