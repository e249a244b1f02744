import json
import re
import shutil

import pytest
from wire import FIXTURES

from slotworks.cli.data import main
from slotworks.data import readers
from slotworks.data.catalog import check, find_row, list_rows, prepare
from slotworks.data.readers.tfrecord import read_payloads, write_records
from slotworks.data.stores.prepared import PreparedData
from slotworks.types import UserError

NAMES = [
    "tetrominoes",
    "multi_dsprites_binarized",
    "multi_dsprites_colored_on_grayscale",
    "multi_dsprites_colored_on_colored",
    "clevr6",
    "clevr10",
    "clevr_v1",
    "clevr_v1_6",
    "clevrtex",
    "clevrtex_pbg",
    "clevrtex_vbg",
    "clevrtex_grassbg",
    "clevrtex_camo",
    "clevrtex_outd",
    "shapes3d",
    "shapestacks",
    "clevr_mirror",
    "bitmoji",
    "voc2012",
    "coco2017",
    "objects365",
    "celeba",
    *[f"movi_{variant}" for variant in "abcde"],
]
SMALL = {"train_size": 2, "test_size": 1, "val_size": 1}


def test_rows_agree_with_their_configs():
    assert [row.name for row in list_rows()] == NAMES
    for row in list_rows():
        config = row.config()
        assert config.name == row.name
        assert config.root == f"data/{row.folder}"
        if isinstance(config, PreparedData):  # one store, one file or folder
            assert row.files == (config.official.name,)
        for text in (row.download, row.disk, row.licence, row.splits, row.background, row.overlaps):
            assert text
        assert re.match("(https?|gs)://", row.origin)


def test_a_reader_that_brings_rows_is_known(tmp_path, monkeypatch):
    """One that nobody listed comes last; a file without rows, as the shared ones, adds none."""
    (tmp_path / "another.py").write_text(
        "from slotworks.data.readers.tetrominoes import ROWS as KNOWN\nROWS = KNOWN[:1]\n"
    )
    (tmp_path / "helpers.py").touch()
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path)])
    assert [row.name for row in list_rows()] == [*NAMES, "tetrominoes"]


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
    paths = prepare("tetrominoes", official / "tetrominoes", **SMALL)
    assert paths == [official / "tetrominoes/prepared/tetrominoes-4"]
    assert prepare("tetrominoes", official / "tetrominoes", split="val", **SMALL) == paths
    assert prepare("clevrtex_outd", official / "clevrtex")[0].name == "clevrtex_outd-128"
    with pytest.raises(UserError, match="split is 'valid'; expected one of train, val, test"):
        prepare("tetrominoes", official / "tetrominoes", split="valid")


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
        UserError, match="empty holds no data set that is known here; expected are folders called 3dshapes"
    ):
        check(official / "empty")


def test_check_says_what_is_damaged(official):
    file = official / "tetrominoes/tetrominoes_train.tfrecords"
    (finding,) = check(official / "tetrominoes")
    assert finding.status == "damaged"  # four records of the 60,640 that the default settings prepare
    assert "holds 4 records" in finding.message

    (path,) = prepare("tetrominoes", official / "tetrominoes", **SMALL)
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


# ---- data sets with a store for every split --------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    for name in ("VOCdevkit", "coco"):
        shutil.copytree(FIXTURES / name, tmp_path / "data" / name)
    return tmp_path / "data"


def test_stores_of_photographs(photos):
    sizes = {"image_size": 16, "mask_size": 20}
    both = prepare("voc2012", photos / "VOCdevkit", **sizes)
    assert [path.name for path in both] == ["voc2012-trainaug-16", "voc2012-val-16-20"]
    only = prepare("coco", photos / "coco", split="val", **sizes)  # the only name that begins so
    assert [path.name for path in only] == ["coco2017-val2017-16-20"]


def test_stated_counts_and_sizes():
    rows = {row.name: row for row in list_rows()}
    for name, counts in {
        "voc2012": ("10,582", "1,449"),
        "coco2017": ("118,287", "5,000"),
        "celeba": ("162,770", "19,867", "19,962"),
    }.items():
        assert all(count in rows[name].splits for count in counts)
        stated = [part.official_images for part in rows[name].config().parts()]
        assert [f"{count:,}" for count in stated] == list(counts)
    image, masks = 224 * 224 * 3, 320 * 320
    train, val = 10_582 * image / 1e9, 1_449 * (image + 3 * masks) / 1e9
    assert rows["voc2012"].disk == f"{train:.1f} GB for training, {val:.1f} GB for validation"
    assert rows["coco2017"].disk.startswith(f"{118_287 * image / 1e9:.1f} GB for training, ")
    assert f"{5_000 * (image + 5 * masks) / 1e9:.1f} GB for validation" in rows["coco2017"].disk
    assert rows["celeba"].disk == f"{202_599 * 128 * 128 * 3 / 1e9:.1f} GB"


def test_check_of_photographs_names_every_file(photos):
    (photos / "VOCdevkit/VOC2012/JPEGImages/2099_000002.jpg").unlink()
    (photos / "VOCdevkit/VOC2012/JPEGImages/2099_000004.jpg").write_bytes(b"")
    (photos / "VOCdevkit/VOC2012/SegmentationObject/2099_000003.png").unlink()
    (photos / "coco/val2017/000000139003.jpg").unlink()
    found = check(photos)
    assert [(f.name, f.path.name, f.status) for f in found] == [
        ("voc2012", "2099_000002.jpg", "missing"),
        ("voc2012", "JPEGImages", "note"),
        ("voc2012", "JPEGImages", "ok"),
        ("voc2012", "2099_000003.jpg", "damaged"),
        ("voc2012", "2099_000004.jpg", "damaged"),
        ("voc2012", "JPEGImages", "note"),
        ("coco2017", "train2017", "note"),
        ("coco2017", "train2017", "ok"),
        ("coco2017", "000000139003.jpg", "missing"),
        ("coco2017", "val2017", "note"),
        ("coco2017", "val2017", "ok"),
    ]
    said = [f.message for f in found]
    assert "2099_000002.jpg is missing; get VOCtrainval_11-May-2012.tar (1.9 GB) from http://host.robots" in said[0]
    assert "trainaug has 3 images here instead of 10,582" in said[1]
    assert said[2].endswith("JPEGImages: 2 of 10,582 images can be read.")
    assert "SegmentationObject/2099_000003.png is missing" in said[3]
    assert "val2017.zip (1 GB) from https://cocodataset.org/#download" in said[8]
    assert said[10].endswith("val2017: 3 of 5,000 images can be read.")
    assert main(["check", str(photos)]) == 1


def test_check_of_photographs_that_are_prepared(photos, capsys):
    root = photos / "VOCdevkit"
    (root / "VOC2012/JPEGImages/2099_000004.jpg").write_bytes(b"")
    sizes = ["--root", str(root), "--image-size", "16", "--mask-size", "20"]
    with pytest.raises(UserError, match=r"2099_000004\.jpg cannot be read as a picture .* --skip-damaged"):
        main(["prepare", "voc", *sizes])
    capsys.readouterr()
    assert main(["prepare", "voc", *sizes, "--skip-damaged", "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)["prepared"]
    assert [path.rsplit("/", 1)[1] for path in paths] == ["voc2012-trainaug-16", "voc2012-val-16-20"]
    found = check(root)
    assert [f.status for f in found] == ["ok", "ok"]
    assert found[1].message.endswith(f"1 images, without 1 that could not be read ({paths[1]}.damaged.txt).")
    assert main(["check", str(root)]) == 0


def test_prepare_takes_options_of_the_data_set(photos, capsys):
    assert main(["prepare", "--help"]) == 0
    assert "--split SPLIT" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "coco2017", "--mask-sise", "3"])
    assert stop.value.code == 2
    assert "--mask-size" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "coco2017", "--image-size", "0"])
    assert stop.value.code == 2
    assert "image_size is 0; it must be from 1 to" in capsys.readouterr().err
    with pytest.raises(UserError, match="The first word after `prepare` is --root"):
        main(["prepare", "--root", "data"])
    words = "prepare coco2017 --split train --image-size 8 --crop random --interpolation bilinear --root".split()
    assert main([*words, str(photos / "coco")]) == 0
    assert (photos / "coco/prepared/coco2017-train2017-8-random-bilinear/image.npy").is_file()


def test_prepare_looks_at_everything_before_it_works(photos, tmp_path, monkeypatch):
    """Hours of training pictures are not prepared to find then that the validation pictures are missing."""
    root = photos / "coco"
    monkeypatch.setattr(PreparedData, "prepare", lambda self: pytest.fail("the work began"))
    (root / "val2017").rename(tmp_path / "away")
    with pytest.raises(UserError, match="val2017"):
        prepare("coco2017", root)
    (tmp_path / "away").rename(root / "val2017")
    (root / "prepared").write_text("in the way")
    with pytest.raises(UserError, match=r"prepared cannot be written to \(Not a directory\)"):
        prepare("coco2017", root)


def test_a_wrong_size_leaves_nothing_half_made(official):
    with pytest.raises(UserError, match="holds 4 records, but train_size"):
        prepare("tetrominoes", official / "tetrominoes")
    assert [path.name for path in (official / "tetrominoes/prepared").iterdir()] == [".tetrominoes-60640.lock"]
