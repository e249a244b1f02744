import shutil

import pytest

from slotworks.data.catalog import check, find_row, list_rows, prepare
from slotworks.data.tfrecord import read_payloads, write_records
from slotworks.types import UserError

NAMES = [
    "tetrominoes",
    "multi_dsprites_binarized",
    "multi_dsprites_colored_on_grayscale",
    "multi_dsprites_colored_on_colored",
    "clevr6",
    "clevr10",
    "clevrtex",
    "clevrtex_pbg",
    "clevrtex_vbg",
    "clevrtex_grassbg",
    "clevrtex_camo",
    "clevrtex_outd",
]
SMALL = {"train_size": 2, "test_size": 1, "val_size": 1}


def test_rows_agree_with_their_configs():
    assert [row.name for row in list_rows()] == NAMES
    for row in list_rows():
        config = row.config()
        assert config.name == row.name
        assert config.root == f"data/{row.folder}"
        file = getattr(config, "official_file", None) or config.official_folder
        assert row.files == (file.name,)
        for text in (row.download, row.disk, row.licence, row.splits, row.background, row.overlaps):
            assert text
        assert row.origin.startswith("https://")


def test_stated_sizes_of_stores():
    """Bytes of image and mask: 4 per pixel."""
    stated = {row.name: row.disk.partition(" GB")[0] for row in list_rows()}
    images = {"tetrominoes": (60_640, 35), "multi_dsprites_binarized": (60_640, 64), "clevr6": (100_000, 128)}
    for name, (count, side) in (images | {"clevrtex": (50_000, 128), "clevrtex_outd": (10_000, 128)}).items():
        assert stated[name] == f"{count * side**2 * 4 / 1e9:.1f}"


def test_unknown_names_and_options():
    with pytest.raises(
        UserError, match=r"There is no data set 'clevr'; the known ones are tetrominoes, .*clevr6, clevr10"
    ):
        find_row("clevr")
    with pytest.raises(UserError, match="tetrominoes has no option 'variant'; it has train_size, test_size, val_size"):
        prepare("tetrominoes", variant="full")


def test_prepare_by_name(official):
    path = prepare("tetrominoes", official / "tetrominoes", **SMALL)
    assert path == official / "tetrominoes/prepared/tetrominoes-4"
    assert prepare("tetrominoes", official / "tetrominoes", **SMALL) == path
    assert prepare("clevrtex_outd", official / "clevrtex").name == "clevrtex_outd-128"


def test_check_of_sound_files(official):
    """Below a common folder: official files are decoded to the end, stores compared with their checksums."""
    prepare("multi_dsprites_colored_on_colored", official / "multi_dsprites", **SMALL)
    shutil.rmtree(official / "tetrominoes")
    found = [(finding.name, finding.path.name, finding.status) for finding in check(official)]
    assert found == [
        ("multi_dsprites_colored_on_colored", "multi_dsprites_colored_on_colored-4", "ok"),
        ("clevr6", "clevr_with_masks_train.tfrecords", "ok"),
        ("clevrtex", "clevrtex_full", "ok"),
        ("clevrtex_outd", "clevrtex_outd", "ok"),
    ]
    messages = [finding.message for finding in check(official / "clevrtex")]
    assert messages[0].endswith("clevrtex_full is readable to the end: 10 of 50,000 images.")
    assert [finding.name for finding in check(official, "clevr10")] == ["clevr10"]


def test_check_says_what_is_missing(official):
    shutil.rmtree(official / "clevrtex")
    (finding,) = check(official, "clevrtex_camo")
    assert (finding.name, finding.status) == ("clevrtex_camo", "missing")
    assert finding.path == official / "clevrtex/clevrtex_camo"
    assert "Get it from https://www.robots.ox.ac.uk/~vgg/data/clevrtex/" in finding.message
    with pytest.raises(UserError, match="is not a folder; give the one with the data sets"):
        check(official / "nowhere")
    (official / "empty").mkdir()
    with pytest.raises(
        UserError, match="empty holds no data set that is known here; expected are folders called clevr_"
    ):
        check(official / "empty")


def test_check_says_what_is_damaged(official):
    file = official / "tetrominoes/tetrominoes_train.tfrecords"
    (finding,) = check(official / "tetrominoes")
    assert finding.status == "damaged"  # four records of the 60,640 that the default settings prepare
    assert "holds 4 records" in finding.message

    path = prepare("tetrominoes", official / "tetrominoes", **SMALL)
    assert [finding.status for finding in check(official / "tetrominoes")] == ["ok"]

    data = bytearray((path / "image.npy").read_bytes())
    data[5000] ^= 1
    (path / "image.npy").write_bytes(data)
    finding = check(official / "tetrominoes")[0]
    assert finding.status == "damaged"
    assert "image.npy is damaged: its checksum is" in finding.message

    file.write_bytes(file.read_bytes()[:-100])
    assert "cut off or damaged" in check(official / "tetrominoes")[1].message
    file.unlink()
    assert [finding.status for finding in check(official / "tetrominoes")] == ["damaged", "missing"]


def test_check_finds_a_store_of_another_file(official):
    file = official / "tetrominoes/tetrominoes_train.tfrecords"
    prepare("tetrominoes", official / "tetrominoes", **SMALL)
    write_records(file, list(read_payloads(file))[::-1])
    messages = [finding.message for finding in check(official / "tetrominoes") if finding.status == "damaged"]
    assert "tetrominoes-4 was made from other files than those that lie there now" in messages[0]
    file.unlink()
    assert [finding.status for finding in check(official / "tetrominoes")] == ["ok"]
