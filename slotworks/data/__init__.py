"""Data sets: `readers` of official files, `scenes` that are drawn, and `stores` on the disk that training reads."""

from slotworks.data.readers.celeba import CelebA
from slotworks.data.readers.clevr_v1 import CLEVRv1
from slotworks.data.readers.clevr_with_masks import CLEVR
from slotworks.data.readers.clevrtex import CLEVRTex
from slotworks.data.readers.coco import COCO
from slotworks.data.readers.folders import Bitmoji, CLEVRMirror
from slotworks.data.readers.image_text import ImageText
from slotworks.data.readers.movi import MOVi
from slotworks.data.readers.multi_dsprites import MultiDSprites
from slotworks.data.readers.objects365 import Objects365
from slotworks.data.readers.photos import Photos
from slotworks.data.readers.pictures import Pictures
from slotworks.data.readers.shapes3d import Shapes3D
from slotworks.data.readers.shapestacks import ShapeStacks
from slotworks.data.readers.tetrominoes import Tetrominoes
from slotworks.data.readers.voc import VOC
from slotworks.data.scenes.collages import CollageScenes
from slotworks.data.stores.features import CachedFeatures
from slotworks.data.stores.generated import Generated
from slotworks.data.stores.latents import CachedLatents
from slotworks.data.stores.prepared import PreparedData

__all__ = [
    "CLEVR",
    "COCO",
    "VOC",
    "Bitmoji",
    "CLEVRMirror",
    "CLEVRTex",
    "CLEVRv1",
    "CachedFeatures",
    "CachedLatents",
    "CelebA",
    "CollageScenes",
    "Generated",
    "ImageText",
    "MOVi",
    "MultiDSprites",
    "Objects365",
    "Photos",
    "Pictures",
    "PreparedData",
    "ShapeStacks",
    "Shapes3D",
    "Tetrominoes",
]
