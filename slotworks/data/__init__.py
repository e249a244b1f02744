"""Data sets: official files prepared once into memory-mapped stores."""

from slotworks.data.clevr_with_masks import CLEVR
from slotworks.data.clevrtex import CLEVRTex
from slotworks.data.multi_dsprites import MultiDSprites
from slotworks.data.tetrominoes import Tetrominoes

__all__ = ["CLEVR", "CLEVRTex", "MultiDSprites", "Tetrominoes"]
