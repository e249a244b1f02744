"""Objects365 v2 (Shao et al. 2019): photographs with boxes of 365 classes; masks were made from the boxes before."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from slotworks.data.readers.coco import AnnotatedPhotos
from slotworks.data.readers.objects365_masks import PAGE, boxes_file, image_file, make_masks, masks_file
from slotworks.data.readers.photos import Entry
from slotworks.data.stores.prepared import CatalogRow
from slotworks.encoders.sam2 import Sam2Config
from slotworks.types import UserError

OFFICIAL_IMAGES = 80_000


@dataclass(frozen=True)
class Objects365(AnnotatedPhotos):
    """The validation images of Objects365, for testing a model that was trained on something else (GLASS, table 4).

    Officially there are only boxes. The masks are those of a file in COCO's format beside them,
    `annotations/zhiyuan_objv2_val_sam2.json`; the images it lists are the data set. Where it is missing, preparation
    first makes it by prompting SAM 2 with the boxes (`objects365_masks.make_masks`), which takes hours on a GPU. No
    list of the images or the checkpoint behind published numbers is known.

    Boxes marked `isfake` or `iscrowd` do not count. Annotations are painted in the order of the file, which puts small
    objects on top; pixels of several objects are in `overlap`. For fields see `AnnotatedPhotos`.
    """

    root: str = "data/objects365"
    sam2: Sam2Config = field(default_factory=Sam2Config)  # makes the masks
    num_images: int | None = None  # make masks of the first so many images only, by id; None: of all

    official_splits: ClassVar[dict[str, str]] = {"val": "val", "test": "val"}

    @property
    def name(self) -> str:
        """`objects365`."""
        return "objects365"

    def annotation_file(self, split: str) -> Path:
        """The masks, not the boxes."""
        return masks_file(self.root, split)

    def folder(self, split: str) -> Path:
        """`val`, `images/val` or `images`, with folders `patch0` and so on, or `v1/patch0`."""
        places = [Path(self.root) / place for place in ("val", "images/val", "images")]
        return next((place for place in places if place.is_dir()), places[0])

    def picture_file(self, split: str, name: str) -> Path:
        """The file in its patch; the official names begin with `images/v1/patch0/`."""
        return image_file(self.root, split, name)

    def before_preparing(self, split: str) -> None:
        """Make the masks if they are not there. Can be killed and repeated."""
        if boxes_file(self.root, split).is_file() and not self.annotation_file(split).exists():
            make_masks(self.root, split, self.sam2, num_images=self.num_images, skip_damaged=self.skip_damaged)

    def count_officially(self, split: str) -> int | None:
        """Unknown: the file of masks may be about any part of the 80,000."""
        return None

    def keeps(self, annotation: dict[str, Any]) -> bool:
        """Neither drawn nor a group."""
        return not (annotation.get("isfake") or annotation.get("iscrowd"))

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """Images with masks; if there are none yet, the sentence says which step is missing."""
        masks, boxes = self.annotation_file(split), boxes_file(self.root, split)
        if boxes.is_file() and not masks.is_file():
            raise UserError(
                f"{masks} is missing: {boxes.name} holds boxes only; `slotworks data prepare objects365` makes "
                "masks of them."
            )
        entries, notes = super().entries(split)
        if len(entries) < OFFICIAL_IMAGES:
            notes.append(f"{masks} has {len(entries):,} of the about {OFFICIAL_IMAGES:,} validation images.")
        return entries, notes

    def origin(self, file: Path) -> str:
        """The page of Objects365."""
        boxes = boxes_file(self.root, "val").name
        return f"get the validation images and {boxes} from {PAGE} and unpack them into {self.root}"


ROWS = (
    CatalogRow(
        Objects365,
        download="see source; only the validation images are used",
        disk="up to 70 GB, by the number of images with masks",
        licence="CC BY 4.0 for the annotations; see source for the photographs",
        splits="val and test: the validation images that the file of masks lists",
        background="everything outside of the boxes' masks; made by SAM 2, docs/data.md",
        overlaps="pixels of several objects are marked; the smaller one owns them",
        files=("annotations/zhiyuan_objv2_val.json", "annotations/zhiyuan_objv2_val_sam2.json"),
        origin=PAGE,
    ),
)
