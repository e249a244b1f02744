"""Pictures of any kind from files: found in folders, decoded upright, and never a surprise from a damaged one."""

import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slotworks.errors import UserError
from slotworks.outputs import without_own

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")

_SIDEWAYS = ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_opening = threading.Lock()  # filters of warnings belong to the whole process


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as given, and every picture below the folders given, in order of name, but no results of this program.

    Raises:
        UserError: if a path does not exist or nothing was found.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            found += without_own(inside)
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist; give picture files or folders of pictures.")
    if not found:
        raise UserError(
            f"No picture found below {', '.join(map(str, paths))}; known endings: {' '.join(IMAGE_SUFFIXES)}."
        )
    return found


def read_image(path: Path, *, needed: int | None = None, stated_size: tuple[int, int] | None = None) -> "Image.Image":
    """A picture of any size and mode as upright RGB; what is transparent becomes white.

    Of an animation it is the first frame; 16 and 32 bits are scaled to 8; an orientation noted by a camera is applied.

    Args:
        path: the file.
        needed: pixels of the short side that will be used. A JPEG file at least four times as large is then decoded at
            a half, quarter or eighth of its size, never below twice what is needed: faster and in little memory, with
            pixels that differ slightly from those of the whole picture made small. Others are decoded whole.
        stated_size: width and height that an annotation states. If only the picture as stored has this size, the
            noted orientation is not applied: the annotation was made without it.

    Raises:
        UserError: if the file is no picture, is damaged, has neither way round the stated size, or has more than 178
            million pixels. Damage inside a JPEG file, which has no checksums, can go unnoticed.
    """
    from PIL import Image

    try:
        with _opening, warnings.catch_warnings():  # at half the size that Pillow refuses it warns
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as image:
            size, turn = image.size, None
            with suppress(Exception):  # a damaged note about the orientation leaves a sound picture
                turn = _turn(image.getexif().get(0x0112, 1))
            upright = size[::-1] if turn is not None and turn.name in _SIDEWAYS else size
            if stated_size is not None and upright != stated_size:
                turn = None
                if size != stated_size:
                    raise UserError(
                        f"{path} has {upright[0]} x {upright[1]} pixels, its annotation states {stated_size[0]} x "
                        f"{stated_size[1]}; they do not belong together."
                    )
            if needed and image.format == "JPEG":
                image.draft(None, (2 * needed, 2 * needed))  # type: ignore[arg-type]
            rgb = _to_rgb(image)
            return rgb if turn is None else rgb.transpose(turn)
    except UserError:
        raise
    except Exception as error:  # Pillow answers a damaged file with a dozen kinds of exceptions
        reason = " ".join(str(error).split()).replace(f" {str(path)!r}", "") or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture ({reason}); leave it out or save it anew.") from None


def _turn(orientation: int) -> "Image.Transpose | None":
    """What makes a picture with this EXIF orientation upright."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):  # convert("RGB") would clip these instead of scaling
        values = np.asarray(image, dtype=np.float64)
        high = values.max() if image.mode in ("I", "F") else 65535
        image = Image.fromarray((255 * values / max(high, 1)).clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
