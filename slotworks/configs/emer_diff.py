"""EmerDiff from summaries of the paper (see the method). Nothing is trained; forty denoisings per image."""

from dataclasses import replace

from slotworks.data import COCO, VOC
from slotworks.methods import EmerDiffConfig
from slotworks.training import Run

__all__ = ["coco", "voc"]


def voc() -> Run:
    """VOC 2012, Stable Diffusion 1.4.

    Command:   slotworks evaluate emer_diff.voc --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 40.3 in GLASS's table 9, which no source confirms.
    """
    return Run(
        method=EmerDiffConfig(),
        data=VOC(image_size=512, mask_size=320, crop="whole"),
        steps=0,
        batch_size=1,
        protocol="oclf",
        expected="not measured; 40.3 in GLASS's table 9, which no source confirms",
    )


def coco() -> Run:
    """COCO 2017, Stable Diffusion 1.4.

    Command:   slotworks evaluate emer_diff.coco --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 33.1 in GLASS's table 9 is also the paper's number on ADE20K: not to be relied on.
    """
    data = COCO(image_size=512, mask_size=320, crop="whole")
    return replace(
        voc(), data=data, expected="not measured; 33.1 in GLASS's table 9, also the paper's number on ADE20K"
    )
