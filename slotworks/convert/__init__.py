"""Published checkpoints as run folders, and back.

source.py          a file as named tensors: torch, safetensors, flax, TensorFlow
pickles.py         files of torch.save, read without calling what they name
names.py           tables of names
family.py          what a family is; how a run folder is written
networks.py        the vision transformer inside a checkpoint
dinosaur.py ...    one file for each family: its table of names, and the settings that its tensors tell
glass.py           StableLSD and GLASS, which are folders
published.py       which family a checkpoint is of
"""

from slotworks.convert.family import Converted, Options
from slotworks.convert.glass import convert_glass, export_unet, feature_decoder_weights, slot_weights
from slotworks.convert.published import FAMILIES, convert, recognise, write_back

__all__ = [
    "FAMILIES",
    "Converted",
    "Options",
    "convert",
    "convert_glass",
    "export_unet",
    "feature_decoder_weights",
    "recognise",
    "slot_weights",
    "write_back",
]
