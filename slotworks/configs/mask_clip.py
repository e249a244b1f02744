"""MaskCLIP with CLIP ViT-B/16. Nothing is trained; `--task semantic` scores it, slot `k` being class `k`."""

from dataclasses import replace

from slotworks.data import COCO, VOC
from slotworks.methods import MaskCLIPConfig
from slotworks.methods.mask_clip import as_words
from slotworks.training import Run
from slotworks.vocabulary import COCO_CLASSES

__all__ = ["coco", "voc", "voc_foreground"]


def voc() -> Run:
    """VOC 2012 with the background as a class, won by names of surroundings.

    Command:   slotworks evaluate mask_clip.voc --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 38.8 in GLASS's table 9, whose way to find the background is not stated.
    """
    return Run(
        method=MaskCLIPConfig(),
        data=VOC(image_size=512, mask_size=320, crop="whole"),
        steps=0,
        batch_size=1,
        protocol="oclf",
        expected="not measured; 38.8 in GLASS's table 9, with a background rule that is not stated",
    )


def voc_foreground() -> Run:
    """VOC 2012 with 20 classes and no background: score it without true background, `count_background=False`.

    Command:   slotworks evaluate mask_clip.voc_foreground --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 49.5 in the released code, over 20 classes and foreground pixels only.
    """
    run = voc()
    return replace(run, method=replace(run.method, background="none"), expected="not measured")


def coco() -> Run:
    """COCO 2017 with 80 classes and the background.

    Command:   slotworks evaluate mask_clip.coco --task semantic
    Takes:     nothing is trained; how long scoring takes is not measured.
    Expected:  not measured here; 20.6 in GLASS's table 9.
    """
    return replace(
        voc(),
        method=MaskCLIPConfig(class_names=as_words(COCO_CLASSES)),
        data=COCO(image_size=512, mask_size=320, crop="whole"),
        expected="not measured; 20.6 in GLASS's table 9",
    )
