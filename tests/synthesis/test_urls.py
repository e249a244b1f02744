"""Shards at a URL are those of a folder, and are read as such."""

from dataclasses import replace

import numpy as np
import pytest

from slotworks.data.stores.generated import Generated, find_shards
from slotworks.remote import as_place
from slotworks.synthesis import remask, synthesize

fsspec = pytest.importorskip("fsspec", reason="fsspec is missing; install it with `pip install 'slotworks[remote]'`")


def test_shards_at_a_url_are_those_of_a_folder(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    fsspec.filesystem("memory").store.clear()
    url = "memory://bucket/generated"
    synthesize(config, tmp_path / "here")
    assert synthesize(replace(config, num_images=4), url)["images"] == 4
    answer = synthesize(config, url)  # goes on: the short shard is made again
    assert (answer["made"], answer["images"], answer["shards"], answer["sheet"]) == (5, 8, 3, f"{url}/sheet.png")
    here = {file.name: file.read_bytes() for file in find_shards(tmp_path / "here")}
    assert {file.name: file.read_bytes() for file in find_shards(as_place(url))} == here
    assert sorted(path.rpartition("/")[2] for path in fsspec.filesystem("memory").find("bucket")) == [
        *here,
        "sheet.png",
        "synthesis.yaml",
    ]
    sizes = {"image_size": 32, "mask_size": 32, "held_out": 2}
    local, remote = (Generated(root=str(root), **sizes).open("train") for root in (tmp_path / "here", url))
    for name, values in local.__getitems__(range(6)).items():
        np.testing.assert_array_equal(remote.__getitems__(range(6))[name], values)
    changed = replace(config, low=0.2)
    remask(changed, url, "memory://bucket/low")
    remask(changed, tmp_path / "here", tmp_path / "low")
    low = {file.name: file.read_bytes() for file in find_shards(tmp_path / "low")}
    assert {file.name: file.read_bytes() for file in find_shards(as_place("memory://bucket/low"))} == low
