"""DiffCut without PAMR. Nothing is trained; `--task semantic` scores it as its authors do, matching in every image."""

from dataclasses import replace

from slotworks.data import COCO, VOC
from slotworks.methods import DiffCutConfig
from slotworks.training import Run

__all__ = ["coco", "voc", "voc_sd14"]


def voc() -> Run:
    """VOC 2012, SSD-1B. Pictures are stored at 512 pixels, which is about their size, and enlarged to 1024.

    Command:   slotworks evaluate diff_cut.voc --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 65.2 in GLASS's table 9, from the paper; whether with PAMR is not said.
    """
    return Run(
        method=DiffCutConfig(),
        data=VOC(image_size=512, mask_size=320, crop="whole"),
        steps=0,
        batch_size=1,
        protocol="oclf",
        expected="not measured; 65.2 in GLASS's table 9",
    )


def voc_sd14() -> Run:
    """VOC 2012, Stable Diffusion 1.4, the smaller choice of the released code.

    Command:   slotworks evaluate diff_cut.voc_sd14 --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here.
    """
    run = voc()
    method = replace(run.method, model="CompVis/stable-diffusion-v1-4")
    return replace(run, method=method, expected="not measured")


def coco() -> Run:
    """COCO 2017, 80 classes and the background.

    Command:   slotworks evaluate diff_cut.coco --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 34.1 in GLASS's table 9.
    """
    data = COCO(image_size=512, mask_size=320, crop="whole")
    return replace(voc(), data=data, expected="not measured; 34.1 in GLASS's table 9")
