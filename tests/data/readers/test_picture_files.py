"""Picture files as people have them: damaged, large, turned, wrongly named; and what is found below a folder."""

import io
import os
import random
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from mutations import attempts, mutate
from PIL import Image

from slotworks.data.readers.voc import VOC
from slotworks.errors import UserError
from slotworks.images import IMAGE_SUFFIXES, find_images, read_image
from slotworks.limits import VARIABLE, max_decoded_bytes

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def saved(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.fromarray(NOISE)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def stated_png(width, height, depth, kind):
    """A PNG file with right checksums that states a size and holds next to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16", "RGBA"])
def test_a_flipped_bit_in_a_png_is_refused(tmp_path, mode):
    """Checksums cover all that a picture is made of."""
    image = Image.fromarray(np.full((9, 7), 999, np.uint16)) if mode == "I;16" else Image.fromarray(NOISE).convert(mode)
    data, file = saved("PNG", image), tmp_path / "a.png"
    generator = random.Random(0)
    for _ in range(40):
        at, bit = generator.randrange(len(data) - 12), generator.randrange(8)  # the empty chunk at the end says nothing
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        with pytest.raises(UserError, match=r"a\.png cannot be read as a picture \(.+\); leave it out or save it anew"):
            read_image(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "TGA"])
def test_mutations_of_every_format(tmp_path, kind):
    """A picture or one sentence; of PNG, whose checksums say more, the same picture or one sentence."""
    whole, file = saved(kind), tmp_path / ("a.tga" if kind == "TGA" else "a")
    file.write_bytes(whole)
    expected = np.asarray(read_image(file))

    def read(generator):
        file.write_bytes(mutate(whole, generator))
        picture = read_image(file)
        assert picture.mode == "RGB"
        if kind == "PNG":
            np.testing.assert_array_equal(np.asarray(picture), expected)

    _, refused = attempts(read, 25)
    assert refused > 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_picture_with_a_value_that_is_no_number(tmp_path, value):
    values = np.full((5, 4), 0.5, np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").getpixel((0, 0)) == (127, 127, 127)
    values[2, 2] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif cannot be read as a picture \(it holds NaN or infinite values\)"):
        read_image(tmp_path / "a.tif")


def test_large_16_bit_pictures_are_scaled_in_strips(tmp_path, monkeypatch):
    values = np.random.default_rng(1).integers(0, 65536, (50, 30), np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    monkeypatch.setattr("slotworks.images._STRIP", 70)
    expected = (255 * values.astype(np.float64) / 65535).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), np.repeat(expected[..., None], 3, 2))


# ---- what is decoded at all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\nshowpage\n", b"P9 nothing", b"8BPS"]
)
def test_the_content_decides_and_only_known_formats_are_opened(tmp_path, content, monkeypatch):
    """An EPS file would be handed to Ghostscript, a program that runs what is in it."""
    Image.init()
    monkeypatch.setitem(Image.OPEN, "EPS", (lambda *_: pytest.fail("EPS was opened"), lambda prefix: True))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(
        UserError, match=r"a\.png cannot be read as a picture \(it is none of PNG, JPEG, .*whatever its"
    ):
        read_image(tmp_path / "a.png")


def test_a_wrong_ending_does_not_matter(tmp_path):
    (tmp_path / "a.png").write_bytes(saved("BMP"))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), NOISE)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".jfif", "JPEG"), (".avif", "AVIF"), (".jp2", "JPEG2000"), (".tga", "TGA"), (".pgm", "PPM")],
)
def test_more_kinds_are_found_and_read(tmp_path, suffix, kind):
    image = Image.fromarray(NOISE).convert("L") if suffix == ".pgm" else Image.fromarray(NOISE)
    (tmp_path / f"a{suffix}").write_bytes(saved(kind, image, **({"irreversible": False} if kind == "JPEG2000" else {})))
    found, notes = find_images([tmp_path])
    assert (len(found), notes) == (1, [])
    picture = np.asarray(read_image(found[0]))
    if kind not in ("JPEG", "AVIF"):
        np.testing.assert_array_equal(picture, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (stated_png(60_000, 60_000, 16, 0), "60,000 x 60,000 pixels"),
        (stated_png(20_000, 20_000, 8, 6), "20,000 x 20,000 pixels of the kind RGBA"),
        (b"P6 90000 90000 255\n", "90,000 x 90,000 pixels"),
        (
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 70, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
            "50,000 x 50,000",
        ),
    ],
)
def test_the_stated_size_is_asked_before_anything_is_decoded(tmp_path, content, what, monkeypatch):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=rf"a states {what}.* GB to decode; at most 2 GB are allowed.*{VARIABLE}"):
        read_image(tmp_path / "a")
    monkeypatch.setenv(VARIABLE, "900")
    with pytest.raises(UserError, match="cannot be read as a picture"):  # there is nothing behind the header
        read_image(tmp_path / "a")


def test_the_limit_can_be_moved(tmp_path, monkeypatch):
    assert max_decoded_bytes() == 2_000_000_000
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setenv(VARIABLE, "0.00001")
    with pytest.raises(UserError, match="states 100 x 100 pixels of the kind RGB"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv(VARIABLE, "two")
    with pytest.raises(UserError, match=f"{VARIABLE} is 'two'; expected a positive number of GB"):
        read_image(tmp_path / "a.png")


# ---- which way up --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "WEBP", "PNG"])
def test_every_format_is_turned_once(tmp_path, kind, orientation):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255  # the corner at the top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").write_bytes(saved(kind, Image.fromarray(stored), exif=exif))
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    upright = np.asarray(read_image(tmp_path / "a")).mean(2)
    assert upright.shape == ((32, 48) if orientation < 5 else (48, 32))
    bright = upright[corner[0] * -8 + 4 * (1 - corner[0]), corner[1] * -8 + 4 * (1 - corner[1])]
    assert bright > 200
    assert upright.mean() < 60
    for options in ({"upright": False}, {"stated_size": (48, 32)}):
        kept = np.asarray(read_image(tmp_path / "a", **options)).mean(2)
        assert kept.shape == (32, 48)
        assert kept[8, 8] > 200


def test_voc_pictures_stay_as_their_masks_are(tmp_path):
    """Turned by 180 degrees the size is the same, and nothing else would tell that the masks lie elsewhere."""
    year = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (year / folder).mkdir(parents=True)
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(stored).save(year / "JPEGImages/a.jpg", exif=exif, quality=95)
    mask = Image.fromarray((stored[..., 0] > 0).astype(np.uint8))
    for folder in ("SegmentationClass", "SegmentationObject"):
        mask.save(year / folder / "a.png")
    (year / "ImageSets/Segmentation/val.txt").write_text("a\n")
    row = VOC(root=str(tmp_path), image_size=32, mask_size=32).open("val")[0]
    np.testing.assert_array_equal(row["image"].mean(-1) > 128, row["mask"] == 1)


# ---- what is found -------------------------------------------------------------------------------------------------


def test_what_lies_below_a_folder(tmp_path):
    (tmp_path / "mine/sub").mkdir(parents=True)
    (tmp_path / "far").mkdir()
    for name in ("mine/a.png", "mine/sub/b.JFIF", "far/c.avif"):
        (tmp_path / name).write_bytes(b"")
    for name in ("._a.png", "sub/._b.jpg", ".DS_Store", "film.mp4", "drawing.svg", "more.svg", "README"):
        (tmp_path / "mine" / name).write_bytes(b"")
    (tmp_path / "mine/elsewhere").symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "mine/round").symlink_to(tmp_path / "mine", target_is_directory=True)
    (tmp_path / "mine/prepared").mkdir()
    (tmp_path / "mine/prepared/index.json").write_text("{}")
    found, notes = find_images([tmp_path / "mine"])
    assert [os.path.relpath(file, tmp_path / "mine") for file in found] == ["a.png", "elsewhere/c.avif", "sub/b.JFIF"]
    said = notes[0].removeprefix(f"Left out below {tmp_path / 'mine'}: ").removesuffix(".").split(", ")
    assert sorted(said) == ["1 .mp4", "1 without an ending", "2 ._ files of macOS", "2 .svg"]


def test_heif_pictures_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr("slotworks.images._reads_heif", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "b.png").write_bytes(saved("PNG"))
    found, notes = find_images([tmp_path])
    assert [file.name for file in found] == ["b.png"]
    assert notes == [f"Left out below {tmp_path}: 1 .heic (they need `pip install 'slotworks[heif]'`)."]
    with pytest.raises(UserError, match=r"pip install 'slotworks\[heif\]'"):
        read_image(tmp_path / "a.heic")


def test_known_endings_are_lower_case_and_unique():
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert all(suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)


def jpeg2000(**header):
    """A picture of 60 x 40 pixels with other numbers in the header of its codestream."""
    data = bytearray(saved("jpeg2000"))
    at = data.index(b"\xff\x4f\xff\x51")
    for name, value in header.items():
        kind, offset = {"right": (">I", 8), "left": (">I", 16), "components": (">H", 40)}[name]
        struct.pack_into(kind, data, at + offset, value)
    return bytes(data)


@pytest.mark.parametrize("header", [{"right": 2**31}, {"left": 59}, {"components": 16_384}, {"components": 0}])
def test_jpeg_2000_of_two_sizes_is_refused_before_memory_is_taken(tmp_path, header):
    """The decoder makes room for every component of every tile of the second size."""
    (tmp_path / "whole.jp2").write_bytes(jpeg2000())
    assert read_image(tmp_path / "whole.jp2").size == (60, 40)
    (tmp_path / "a.jp2").write_bytes(jpeg2000(**header))
    with pytest.raises(UserError, match=r"a\.jp2 cannot be read as a picture \(it states 60 x 40 pixels, then "):
        read_image(tmp_path / "a.jp2")


def test_jpeg_2000_that_states_a_box_of_gigabytes_takes_no_memory_for_it(tmp_path):
    """Pillow asks for as many bytes of a file as the box states."""
    data = bytearray(jpeg2000())
    at = data.index(b"jp2h")
    data[at - 4 : at] = b"\xff\xff\xff\x7f"
    (tmp_path / "a.jp2").write_bytes(data)
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    try:
        with pytest.raises(UserError, match=r"a\.jp2 cannot be read as a picture \((?!MemoryError)"):
            read_image(tmp_path / "a.jp2")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
