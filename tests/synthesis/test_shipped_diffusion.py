"""The diffusion model that comes with the package: it draws what the caption says, and knows where."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from slotworks.configs.synthesis import RECIPES
from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.data.generated import find_shards
from slotworks.data.scenes.shapes import BACKGROUNDS, COLORS
from slotworks.encoders.vit import ASSETS
from slotworks.synthesis import SceneCaptions, synthesize

PALETTE = np.array([*COLORS.values(), *BACKGROUNDS.values()], float)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Captions that nothing was trained on."""
    folder = tmp_path_factory.mktemp("generated")
    source = SceneCaptions(replace(TINY_SCENES, seed=1, num_train=16))
    synthesize(replace(RECIPES["glass.scenes"](), source=source, num_images=16, steps=10, batch_size=16), folder)
    return pq.read_table(find_shards(folder)[0]).to_pylist()


def picture(value):
    return np.array(Image.open(BytesIO(value["bytes"] if isinstance(value, dict) else value)))


def test_it_is_small():
    size = sum(file.stat().st_size for file in (ASSETS / "tiny_diffusion").rglob("*") if file.is_file())
    assert size < 12e6


def test_images_have_the_colours_of_their_captions(rows):
    """At random one colour of eight would be right in one image of eight, a background in one of five."""
    shown, backgrounds, wrong = [], [], []
    for row in rows:
        nearest = ((picture(row["image"])[..., :3][:, :, None].astype(float) - PALETTE) ** 2).sum(-1).argmin(-1)
        words = row["caption"].replace(",", "").split()
        named = {list(COLORS).index(word) for word in words if word in COLORS}
        shown += [(nearest == color).sum() > 60 for color in named]
        background = len(COLORS) + list(BACKGROUNDS).index(words[-1])
        backgrounds.append(np.bincount(nearest.ravel()).argmax() == background)
        objects = nearest[nearest < len(COLORS)]
        wrong.append(np.mean(~np.isin(objects, list(named))) if objects.size else 0.0)
    assert np.mean(shown) > 0.7
    assert np.mean(backgrounds) > 0.9
    assert np.mean(wrong) < 0.15


def test_masks_lie_on_the_objects(rows):
    """The pixels of a mask have the colour of its class."""
    hits, background = [], []
    for row in rows:
        nearest = ((picture(row["image"])[..., :3][:, :, None].astype(float) - PALETTE) ** 2).sum(-1).argmin(-1)
        mask = picture(row["mask"])
        for k in row["class_ids"]:
            if (mask == k).any():
                hits.append(np.mean(nearest[mask == k] == k - 1))
        background.append(np.mean(nearest[mask == 0] >= len(COLORS)))
    assert np.mean(hits) > 0.6
    assert np.mean(background) > 0.9
