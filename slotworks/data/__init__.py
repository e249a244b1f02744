"""Data sets: official files prepared once into memory-mapped stores."""

from slotworks.data.celeba import CelebA
from slotworks.data.clevr_v1 import CLEVRv1
from slotworks.data.clevr_with_masks import CLEVR
from slotworks.data.clevrtex import CLEVRTex
from slotworks.data.coco import COCO
from slotworks.data.features import CachedFeatures
from slotworks.data.folders import Bitmoji, CLEVRMirror
from slotworks.data.movi import MOVi
from slotworks.data.multi_dsprites import MultiDSprites
from slotworks.data.objects365 import Objects365
from slotworks.data.pictures import Pictures
from slotworks.data.shapes3d import Shapes3D
from slotworks.data.shapestacks import ShapeStacks
from slotworks.data.tetrominoes import Tetrominoes
from slotworks.data.voc import VOC

__all__ = [
    "CLEVR",
    "COCO",
    "VOC",
    "Bitmoji",
    "CLEVRMirror",
    "CLEVRTex",
    "CLEVRv1",
    "CachedFeatures",
    "CelebA",
    "MOVi",
    "MultiDSprites",
    "Objects365",
    "Pictures",
    "ShapeStacks",
    "Shapes3D",
    "Tetrominoes",
]
