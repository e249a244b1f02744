"""Draws collages.png: the first eight test collages of cut-outs on drawn backgrounds, none of them chosen.

Run `python docs/images/collages.py RUN CUTOUTS` with a run of dinosaur.photos_mlp_round2 and the folder of the cut-outs
that it was not trained on (of the split `test`). Rows: pictures, true objects, k-means with smooth masks on the same
features, six slots, eight slots of which similar ones are joined.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slotworks.api import load
from slotworks.data import CollageScenes
from slotworks.editing.pictures import to_picture
from slotworks.evaluation.masks import merge_similar
from slotworks.evaluation.samples import PALETTE, contact_sheet
from slotworks.matching import best_pairs
from slotworks.methods import FeatureKMeansConfig
from slotworks.types import to_batch

HERE = Path(__file__).parent
COLORS = np.concatenate([[[64, 64, 64]], PALETTE]).astype(np.uint8)  # the background's first


def painted(masks: Tensor, true: np.ndarray) -> Image.Image:
    """The largest mask of each pixel in the colour of the object that it overlaps most; the rest in other colours."""
    large = torch.nn.functional.interpolate(masks[None], true.shape, mode="bilinear")[0].argmax(0).numpy()
    table = np.zeros((len(masks), int(true.max()) + 1))
    np.add.at(table, (large.ravel(), true.ravel()), 1)
    rows, columns = best_pairs(table / (table.sum(1, keepdims=True) + table.sum(0) - table).clip(1))
    names = np.arange(len(masks)) + table.shape[1]  # colours of no object
    names[rows] = columns
    return Image.fromarray(COLORS[names][large])


def collages(folder: str, cutouts: str, count: int = 8) -> None:
    _, method = load(folder, device="cpu")
    data = CollageScenes(cutouts=cutouts, num_test=count, min_objects=2, max_objects=5, seed=1)
    batch = to_batch(data.open("test").__getitems__(range(count)))
    means = FeatureKMeansConfig(encoder=method.config.encoder, num_slots=6, smooth=3).build()
    torch.manual_seed(0)
    with torch.no_grad():
        six, eight = method.encode(batch["image"]), method.encode(batch["image"], num_slots=8)
        found = [means.encode(batch["image"]).attn_maps, six.attn_maps]
        found.append(merge_similar(eight.attn_maps, eight.slots, 0.9))
    true = batch["mask"].numpy()
    rows = [[to_picture(image) for image in batch["image"]], [Image.fromarray(COLORS[mask]) for mask in true]]
    rows += [[painted(masks[i], true[i]) for i in range(count)] for masks in found]
    contact_sheet(rows, cell=112).save(HERE / "collages.png", optimize=True)


if __name__ == "__main__":
    collages(*sys.argv[1:])
