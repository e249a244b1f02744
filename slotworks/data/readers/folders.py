"""Data sets that are published as folders of pictures, without lists or masks: Bitmoji and CLEVR-Mirror."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from slotworks.data.readers.photos import Photos
from slotworks.data.readers.pictures import Pictures
from slotworks.data.stores.prepared import CatalogRow
from slotworks.data.stores.shrink import Crop, Interpolation
from slotworks.types import UserError

BITMOJI_PAGE = "https://www.kaggle.com/datasets/romaingraux/bitmojis"
CLEVR_MIRROR_PAGE = "https://sites.google.com/view/slate-autoencoder"


@dataclass(frozen=True)
class _Folder(Pictures):
    """Every picture below the folder, squeezed to a square; splits as for own pictures, by a hash of the name."""

    image_size: int = 128  # pixels, square
    crop: Crop = "whole"  # which part of a picture is seen
    flip: bool = False  # mirror training images left to right at random
    interpolation: Interpolation = "bilinear"  # of the images when they are resized

    reads_marks: ClassVar[bool] = False
    part, parts = Photos.part, Photos.parts

    @property
    def page(self) -> str:
        """Where the pictures come from."""
        raise NotImplementedError

    def store_name(self, split: str) -> str:
        """Unlike that of own pictures it does not depend on them: a published data set stays as it is."""
        return Photos.store_name(self, split)

    def origin(self, file: Path) -> str:
        """The page of the data set."""
        return f"get the pictures from {self.page} and unpack them in {self.root}"

    def entries(self, split: str):
        """The pictures of a split, by name."""
        if not Path(self.root).is_dir():
            raise UserError(f"{self.root} is not there; {self.origin(Path(self.root))}.")
        return super().entries(split)


@dataclass(frozen=True)
class Bitmoji(_Folder):
    """Bitmoji (Graux 2021): about 130,000 drawn faces, one of SLATE's data sets. There are no official splits."""

    root: str = "data/bitmoji"  # folder of the official files, and of what is prepared from them

    @property
    def name(self) -> str:
        """`bitmoji`."""
        return "bitmoji"

    @property
    def page(self) -> str:
        """Kaggle."""
        return BITMOJI_PAGE


@dataclass(frozen=True)
class CLEVRMirror(_Folder):
    """CLEVR-Mirror (Singh et al. 2022): CLEVR's objects before a mirror, for SLATE. No masks or official splits."""

    root: str = "data/clevr_mirror"  # folder of the official files, and of what is prepared from them

    @property
    def name(self) -> str:
        """`clevr_mirror`."""
        return "clevr_mirror"

    @property
    def page(self) -> str:
        """SLATE's page."""
        return CLEVR_MIRROR_PAGE


ROWS = tuple(
    CatalogRow(
        config,
        disk="0.05 MB for each image",
        splits="val a tenth, test a tenth, train the rest, by a hash of the name; there are no official ones",
        files=(),
        origin=config().page,
    )
    for config in (CLEVRMirror, Bitmoji)
)
