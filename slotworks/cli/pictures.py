"""A folder of own pictures in place of a data set: `--pictures`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from slotworks.data import CachedFeatures, Pictures
from slotworks.types import DataConfig, UserError


def own_pictures(data: DataConfig, folder: Path | str, *, score: bool = False) -> DataConfig:
    """A folder of own pictures in place of a data set, at the size of its images, with features cached as before.

    Args:
        data: of a run or recipe.
        folder: with pictures, and what is known about them.
        score: everything for the split `test`, unless the folder has splits or is the one that the run was trained on.

    Raises:
        UserError: the data are videos, or it is no folder.
    """
    cached = isinstance(data, CachedFeatures)
    images = data.images if cached else data
    if score and isinstance(images, Pictures) and Path(images.root).resolve() == Path(folder).resolve():
        return replace(images, root=str(folder))
    frames = getattr(images, "frames", "video" if hasattr(images, "num_frames") else "single")
    if frames == "video" and not score:
        raise UserError(f"{images.name} are videos; --pictures gives a folder of pictures to recipes of images.")
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder; give one with pictures.")
    whole: dict[str, Any] = {"val_fraction": 0.0, "test_fraction": 1.0} if score else {}
    own = Pictures(root=str(folder), image_size=images.size[0], flip=not (cached or score), **whole)
    return replace(data, images=own) if cached and not score else own  # type: ignore[call-arg]
