"""The saliency network that COMUS takes, `basnet_unsupervised.pth`, as a run folder of COMUS.

The file is published with wvangansbeke/Unsupervised-Semantic-Segmentation: `{"net": state dict}` of a BASNet that was
trained on masks which needed no labels (DeepUSPS). Names are those of xuebinqin/BASNet.
"""

import re

import torch
from torch import Tensor

from slotworks.convert.family import Family, Made, Options, checked, completed, settings
from slotworks.convert.names import Names, carried, shape
from slotworks.convert.source import Source
from slotworks.encoders.basnet import BASNet
from slotworks.methods import ComusConfig

PIECES = (
    (r"stem\.0\.", "inconv."),
    (r"stem\.1\.", "inbn."),
    (r"stages\.([0-3])\.(\d)\.", lambda m: f"encoder{int(m[1]) + 1}.{m[2]}."),
    (r"stages\.([45])\.(\d)\.", lambda m: f"resb{int(m[1]) + 1}_{int(m[2]) + 1}."),
    (r"bridge\.(\d)\.(\d)\.", lambda m: f"{_KIND[m[2]]}bg_{_TURN[m[1]]}."),
    (r"decoders\.(\d)\.(\d)\.(\d)\.", lambda m: f"{_KIND[m[3]]}{6 - int(m[1])}d_{_TURN[m[2]]}."),
    (r"score\.", "outconv1."),
    (r"refinement\.first\.", "refunet.conv0."),
    (r"refinement\.down\.(\d)\.(\d)\.", lambda m: f"refunet.{_KIND[m[2]]}{int(m[1]) + 1}."),
    (r"refinement\.up\.(\d)\.(\d)\.", lambda m: f"refunet.{_KIND[m[2]]}_d{4 - int(m[1])}."),
    (r"refinement\.last\.", "refunet.conv_d0."),
)
"""Beginnings of our names, and what they are called there."""

_KIND, _TURN = {"0": "conv", "1": "bn"}, {"0": "1", "1": "m", "2": "2"}
UNREAD = (r"outconv[b2-6]\.",)  # side outputs, which only the training has
COUNTER = "num_batches_tracked"  # of a BatchNorm; older files lack it


def names_of(ours: list[str]) -> Names:
    """Their name of each tensor of `BASNet`."""
    found: Names = {}
    for name in ours:
        for pattern, their in PIECES:
            if re.match(pattern, name):
                found[name] = re.sub(pattern, their, name, count=1)
        found[name] = found[name].replace("norm", "bn").replace("shortcut", "downsample")
    return found


def convert(source: Source, options: Options) -> Made:
    """As the method whose masks it makes; the recipe is `comus.voc` where none is given."""
    said = str(source.path)
    run = options.run("comus.voc", ComusConfig)
    width = shape(source.tensors, "inconv.weight", 4, source=said)[0]
    method = settings(
        run.method, source=source.path, saliency="basnet", basnet_width=width, **options.given(encoder="")
    )
    names = names_of(list(BASNet(width).state_dict()))
    theirs: dict[str, Tensor] = dict(source.tensors)
    for name in names.values():
        if name.endswith(COUNTER):
            theirs.setdefault(name, torch.ones((), dtype=torch.int64))
    weights = carried(theirs, names, {}, source=said, family="BASNet", unread=UNREAD)
    weights = {f"basnet.{name}": value for name, value in weights.items()}
    return checked(Made(completed(run, method, source.path), weights, ("saliency",)), source=said)


FAMILY = Family(
    "comus", "COMUS's saliency network, a BASNet", ("inconv.weight", "refunet.conv0.weight", "convbg_1.weight"), convert
)
