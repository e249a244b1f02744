"""Pictures of any kind from files: found in folders, decoded upright, and never a surprise from a damaged one."""

import os
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slotworks.errors import UserError, needs_extra
from slotworks.files import PARTIAL
from slotworks.limits import check_decoded
from slotworks.outputs import without_own

if TYPE_CHECKING:
    from PIL import Image

HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # read by the optional library pillow-heif, the extra `heif`
FORMATS = {  # the only decoders that a file reaches, whatever it is called; their names in Pillow
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "HEIF": HEIF_SUFFIXES,
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),  # has no mark to be known by, so it is tried for files called so alone
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError)
DAMAGE += (AssertionError, RuntimeError, ZeroDivisionError, MemoryError, struct.error, zlib.error)
"""What Pillow raises for a damaged file; not `Exception`, of which errors of this package derive."""

_ORIENTATION = 0x0112
_SIDEWAYS = ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_opening = threading.Lock()  # Pillow's own limit belongs to the whole process
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # bytes of a pixel; of others 4
_WORKSPACE = {"AVIF": 8, "HEIF": 8, "WEBP": 8, "JPEG2000": 16}  # bytes of a pixel beside the decoded one
_STRIP = 1 << 22  # pixels that are scaled at once

_RESULTS = {"run.yaml": ("samples", "eval", "pictures"), "synthesis.yaml": ("sheet.png",)}
"""What belongs to the program in a folder with this file: pictures of a run, and of generated images."""


def find_images(
    paths: Sequence[Path], *, used: Collection[Path] = (), results: bool = False
) -> tuple[list[Path], list[str]]:
    """Files as given, and every picture below the folders given, in order of name; and what was left out there.

    Folders behind symbolic links are searched as well, each once. Left out are files of other endings, HEIF pictures
    where `pillow-heif` is not installed, the `._` files that macOS leaves beside pictures, and this program's results,
    also the pictures in run folders. Files below the folders that are `used` for something else, such as masks, are
    neither found nor counted. With `results` this program's are pictures like others, such as cut-outs.

    Returns:
        The files, and for each folder in which something was left out a sentence that counts and names it.

    Raises:
        UserError: if a path does not exist or nothing was found.
    """
    found: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            inside, left_out = _look_through(path, used)
            found += inside if results else without_own(inside)
            if left_out:
                named = ", ".join(f"{count:,} {what}" for what, count in left_out.most_common(6))
                rest = sum(left_out.values()) - sum(count for _, count in left_out.most_common(6))
                notes.append(f"Left out below {path}: {named}{f', {rest:,} others' if rest else ''}.")
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist; give picture files or folders of pictures.")
    if not found:
        raise UserError(
            f"No picture found below {', '.join(map(str, paths))}; known endings: {' '.join(IMAGE_SUFFIXES)}. "
            + " ".join(notes)
        )
    return found, notes


def files_below(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files of some endings, in the folders where `find_images` looks, by name; without hidden ones."""
    found = [folder / name for folder, names in _walk(root) for name in names if name.lower().endswith(suffixes)]
    return sorted(file for file in found if not file.name.startswith(".") and file.is_file())


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders that may hold a user's files, each once, and the names of the files in them."""
    seen = set()
    for folder, inside, names in os.walk(root, followlinks=True):
        if (place := os.path.realpath(folder)) in seen:  # a link to a folder above
            inside.clear()
            continue
        seen.add(place)
        if Path(folder) == root and "prepared" in inside:  # stores that were made of these pictures
            inside.remove("prepared")
        for marker, results in _RESULTS.items():
            if marker in names:
                inside[:] = [name for name in inside if name not in results]
                names = [name for name in names if name not in results]
        inside[:] = [name for name in inside if not name.startswith(PARTIAL)]  # what a kill left half written
        yield Path(folder), [name for name in names if not name.startswith(PARTIAL)]


def _look_through(root: Path, used: Collection[Path]) -> tuple[list[Path], Counter[str]]:
    """Pictures below a folder in order of name, and how many files of which kind are none."""
    found, left_out = [], Counter()
    for folder, names in _walk(root):
        for name in names:
            file = folder / name
            suffix = file.suffix.lower()
            if file in used:
                continue
            if name.startswith("._"):
                left_out["._ files of macOS"] += 1
            elif suffix in HEIF_SUFFIXES and not _reads_heif():
                left_out[f"{suffix} (they need `pip install 'slotworks[heif]'`)"] += 1
            elif suffix in IMAGE_SUFFIXES and file.is_file():
                found.append(file)
            elif not name.startswith("."):
                left_out[suffix or "without an ending"] += 1
    return sorted(found), left_out


def read_image(
    path: Path, *, needed: int | None = None, stated_size: tuple[int, int] | None = None, upright: bool = True
) -> "Image.Image":
    """A picture of any size and mode as upright RGB; what is transparent becomes white.

    Of an animation it is the first frame; 16 and 32 bits are scaled to 8; an orientation noted by a camera is applied.

    Args:
        path: the file. What it is follows from its content, not its name; the formats are those of `FORMATS`.
        needed: pixels of the short side that will be used. A JPEG file at least four times as large is then decoded at
            a half, quarter or eighth of its size, never below twice what is needed: faster and in little memory, with
            pixels that differ slightly from those of the whole picture made small. Others are decoded whole.
        stated_size: width and height that an annotation states. The noted orientation is then applied only if the
            picture as stored has another size than stated and the upright one has it: annotations are of the stored
            pixels unless they show that they are not.
        upright: False for the pixels as stored, whatever orientation is noted.

    Raises:
        UserError: if the file is no picture, is damaged, holds NaN or infinite values, has neither way round the stated
            size, or would take more memory than `slotworks.limits` allows. Checksums, which only PNG has, are verified;
            damage inside other files can go unnoticed.
    """
    with reading(path), open_picture(path) as image:
        size = image.size
        of_tiff = image.format == "TIFF"  # Pillow turns these upright while it decodes them
        noted = _turn(image.tag_v2.get(_ORIENTATION, 1)) if of_tiff else None  # type: ignore[attr-defined]
        if needed and image.format == "JPEG":
            image.draft(None, (2 * needed, 2 * needed))  # type: ignore[arg-type]
        image.load()
        noted = noted if of_tiff else _noted(image)
        sideways = noted is not None and noted.name in _SIDEWAYS
        whole = image.size if of_tiff else size[::-1] if sideways else size
        stored = whole[::-1] if sideways else whole
        if stated_size is not None:
            if stated_size not in (stored, whole):
                raise UserError(
                    f"{path} has {whole[0]} x {whole[1]} pixels, its annotation states {stated_size[0]} x "
                    f"{stated_size[1]}; they do not belong together."
                )
            upright = stated_size != stored
        rgb = _to_rgb(image)
        if noted is None or upright == of_tiff:
            return rgb
        return rgb.transpose(noted if upright else _undoing(noted))


@contextmanager
def reading(name: object, *, otherwise: str = "leave it out or save it anew") -> Iterator[None]:
    """Around all that Pillow does with a file: what it raises for a damaged one becomes one sentence.

    Args:
        name: the file, or the place in it.
        otherwise: what to do: the end of the sentence.

    Raises:
        UserError: in place of what Pillow raised.
    """
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split()).replace(f" {str(name)!r}", "")[:200] or type(error).__name__
        raise UserError(f"{name} cannot be read as a picture ({reason}); {otherwise}.") from None


def open_picture(
    source: Path | bytes, *, name: object = None, formats: Sequence[str] = (), verify: bool = True
) -> "Image.Image":
    """A picture whose header is read: of a known format, not too large to be decoded, and of PNG with right checksums.

    Errors of Pillow go through: use it within `reading`.

    Args:
        source: a file, or the content of one.
        name: of a content, for messages.
        formats: the only ones it may have, as Pillow calls them; those of `FORMATS` by default.
        verify: False where the checksums of PNG are known to be right.

    Raises:
        UserError: if decoding would take more memory than `slotworks.limits` allows.
    """
    chosen, name = tuple(formats) or _formats_for(source), name or source
    if not isinstance(source, bytes) and _is_jpeg2000(source):
        source = source.read_bytes()  # of a file Pillow would ask for as many bytes as a damaged one states
    image = _opened(source, chosen)
    try:
        width, height = image.size
        if min(width, height) < 1:
            raise ValueError(f"it states {width} x {height} pixels")
        needed = width * height * _bytes_per_pixel(image)
        check_decoded(needed, name, f"{width:,} x {height:,} pixels of the kind {image.mode}")
        if image.format == "JPEG2000" and isinstance(source, bytes):
            _check_codestream(source, image.size)
        if image.format == "PNG" and verify:
            image.verify()  # reads all checksums, which decoding passes over, and closes the file
            return _opened(source, chosen)
    except BaseException:
        image.close()
        raise
    return image


def _opened(source: Path | bytes, formats: Sequence[str]) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    with _opening:  # Pillow's own limit, of pixels whatever their kind, gives way to that of bytes
        pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=list(formats))
        except UnidentifiedImageError:
            raise ValueError(f"it is none of {', '.join(formats)}, whatever its name") from None
        finally:
            Image.MAX_IMAGE_PIXELS = pixels


def _is_jpeg2000(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith((b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51"))


def _check_codestream(content: bytes, size: tuple[int, int]) -> None:
    """JPEG 2000 states its size twice, and memory is taken by the second one (ISO/IEC 15444-1, A.5.1).

    Raises:
        ValueError: if they differ, or there are more components than a picture has.
    """
    at = content.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(content) < at + 42:
        raise ValueError("its codestream has no header")
    right, bottom, left, top, *_ = struct.unpack_from(">8I", content, at + 8)
    (components,) = struct.unpack_from(">H", content, at + 40)
    if (right - left, bottom - top) != size or not 1 <= components <= 4:
        raise ValueError(
            f"it states {size[0]:,} x {size[1]:,} pixels, then {right - left:,} x {bottom - top:,} of {components:,} "
            "components"
        )


def _formats_for(source: Path | bytes) -> tuple[str, ...]:
    """The formats of `FORMATS` that Pillow reads here and that this file can have."""
    from PIL import Image

    if isinstance(source, bytes):
        start, suffix = source[:12], ""
    else:
        suffix = source.suffix.lower()
        with source.open("rb") as file:
            start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        with needs_extra("heif"):
            import pillow_heif  # type: ignore[import-not-found]
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    Image.init()
    unmarked = ("TGA",) if suffix in FORMATS["TGA"] else ()
    return tuple(name for name in FORMATS if name in Image.OPEN and name not in ("HEIF", "TGA")) + unmarked


def _reads_heif() -> bool:
    return find_spec("pillow_heif") is not None


def _bytes_per_pixel(image: "Image.Image") -> int:
    """Memory that a picture takes at most while it becomes upright RGB: Pillow keeps colours in four bytes."""
    decoded = _STORED.get(image.mode, 4) + _WORKSPACE.get(str(image.format), 0)
    progressive = 6 if image.info.get("progressive") else 0  # coefficients of JPEG
    transparent = 12 if _is_transparent(image) else 0
    other = 0 if image.mode == "RGB" else 5  # grey of 8 bits on the way
    turned = 4
    return decoded + progressive + transparent + other + turned


def _is_transparent(image: "Image.Image") -> bool:
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def _noted(image: "Image.Image") -> "Image.Transpose | None":
    """What turns a decoded picture upright. A damaged note leaves a sound picture: its pixels were decoded before."""
    try:
        return _turn(image.getexif().get(_ORIENTATION, 1))
    except DAMAGE:
        return None


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


def _undoing(turn: "Image.Transpose") -> "Image.Transpose":
    """What takes a turn back: for all but two it is itself."""
    from PIL.Image import Transpose

    return {Transpose.ROTATE_90: Transpose.ROTATE_270, Transpose.ROTATE_270: Transpose.ROTATE_90}.get(turn, turn)


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):  # convert("RGB") clips these instead of scaling
        image = _scaled(image)
    if _is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled(image: "Image.Image") -> "Image.Image":
    """16 or 32 bits as 8, a strip at a time. 16 bits span their range; of 32 the largest value, at least 1, is white.

    Some versions of Pillow keep the 16 bits of PNG and PPM in 32.
    """
    from PIL import Image

    width, height = image.size
    rows = max(1, _STRIP // width)
    strips = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    high = 65535.0
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        high = 1.0
        for strip in strips:
            values = np.asarray(image.crop(strip))
            if not np.isfinite(values).all():
                raise ValueError("it holds NaN or infinite values")
            high = max(high, float(values.max()))
    grey = Image.new("L", image.size)
    for strip in strips:
        values = 255 * np.asarray(image.crop(strip), dtype=np.float64) / high
        grey.paste(Image.fromarray(values.clip(0, 255).astype(np.uint8)), strip)
    return grey
