"""Deep Spectral Methods without CRF and self-training. Nothing is trained; `--task semantic` for classes."""

from dataclasses import replace

from slotworks.data import COCO, VOC
from slotworks.methods import DeepSpectralConfig
from slotworks.training import Run

__all__ = ["coco", "voc"]


def voc() -> Run:
    """VOC 2012: segments from DINO ViT-S/16, clustered over the validation images into 20 classes and the background.

    Command:   slotworks evaluate deep_spectral.voc --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 37.2 in the paper and GLASS's table 9 is after self-training, not included.
    """
    return Run(
        method=DeepSpectralConfig(),
        data=VOC(image_size=480, mask_size=320, crop="whole"),
        steps=0,
        batch_size=1,
        protocol="oclf",
        expected="not measured; 37.2 after self-training in the paper, which is not included",
    )


def coco() -> Run:
    """COCO 2017; not a row of a table.

    Command:   slotworks evaluate deep_spectral.coco --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; no published number.
    """
    return replace(voc(), data=COCO(image_size=480, mask_size=320, crop="whole"), expected="not measured")
