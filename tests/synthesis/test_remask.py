"""Other masks for pictures that are there are those that the settings would have given."""

from dataclasses import replace

import pyarrow.parquet as parquet
import pytest
from tiny_sam2 import save_tiny_sam2

from slotworks.data.stores.generated import find_shards
from slotworks.encoders.sam2 import Sam2Config
from slotworks.synthesis import engine, remask, synthesize
from slotworks.types import UserError


def shards(folder):
    return {file.name: file.read_bytes() for file in find_shards(folder)}


@pytest.fixture
def pictures(config, tmp_path):
    synthesize(config, tmp_path / "pictures")
    return tmp_path / "pictures"


def test_the_same_bytes_as_generated_with_the_settings(config, pictures, tmp_path, monkeypatch):
    changes = [
        {"low": 0.2, "high": 0.3},
        {"power": 1},
        {"power": 0, "high": 0.5},
        {"masks": "sam2", "sam2": Sam2Config(str(save_tiny_sam2(tmp_path / "sam2"))), "points_per_side": 2},
    ]
    for number, change in enumerate(changes):
        changed = replace(config, **change)
        synthesize(changed, tmp_path / f"generated{number}")
        with monkeypatch.context() as patched:
            patched.setattr(engine, "load_stable_diffusion", None)  # generates nothing
            answer = remask(changed, pictures, tmp_path / f"masked{number}")
        assert (answer["images"], answer["shards"], answer["made"]) == (8, 3, 8)
        assert shards(tmp_path / f"masked{number}") == shards(tmp_path / f"generated{number}")
        assert remask(changed, pictures, tmp_path / f"masked{number}")["made"] == 0
    (tmp_path / "masked0" / "shard-00001.parquet").unlink()
    assert remask(replace(config, **changes[0]), pictures, tmp_path / "masked0")["made"] == 3  # goes on
    assert shards(tmp_path / "masked0") == shards(tmp_path / "generated0")
    assert synthesize(replace(config, **changes[0]), tmp_path / "masked0")["made"] == 0  # more could be generated there


def test_what_cannot_be_had_from_the_pictures_is_refused(config, pictures, tmp_path):
    out = tmp_path / "out"
    for change, message in (
        ({"power": 5}, "power is 5, but .* holds maps up to 4"),
        ({"seed": 1, "low": 0.1}, r"was made with other settings: seed was 0 and is now 1\. Masks alone"),
        ({"masks": "adaptive"}, "masks is adaptive; of pictures with masks attention"),
    ):
        with pytest.raises(UserError, match=message):
            remask(replace(config, **change), pictures, out)
    with pytest.raises(UserError, match="choose another folder for the new masks"):
        remask(config, pictures, pictures)
    with pytest.raises(UserError, match=r"synthesis\.yaml cannot be read"):
        remask(config, tmp_path, out)
    for file in find_shards(pictures):  # as an earlier version wrote them
        table = parquet.read_table(file).drop_columns(["maps"])
        parquet.write_table(table, file)
    with pytest.raises(UserError, match="holds no maps, as those of older versions"):
        remask(replace(config, low=0.1), pictures, out)
