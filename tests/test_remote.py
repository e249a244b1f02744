"""Places at a URL, in the memory of this process: written whole, read in pieces, copied into a bounded cache."""

import resource
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from slotworks.data.stores.store import RemoteArray, Store, send_store, write_store
from slotworks.errors import UserError
from slotworks.files import check_writable, replacing
from slotworks.remote import RemotePath, as_place, cache_folder

fsspec = pytest.importorskip("fsspec", reason="fsspec is missing; install it with `pip install 'slotworks[remote]'`")


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return f"memory://{tmp_path.name}"


def names(url):
    return sorted(path.rpartition("/")[2] for path in fsspec.filesystem("memory").find(url))


def test_a_file_takes_its_place_whole_or_not_at_all(url, monkeypatch):
    place = as_place(url) / "a.txt"
    with replacing(place) as beside:
        beside.write_text("old")
        assert not place.exists()
    assert (place.read_text(), place.stat().st_size, place.name) == ("old", 3, "a.txt")
    with suppress(KeyError), replacing(place) as beside:
        beside.write_text("half")
        raise KeyError
    assert place.read_text() == "old"

    def refuse(*args, **options):
        raise PermissionError("Access Denied.")

    with monkeypatch.context() as patched:
        patched.setattr(type(place.fs), "mv", refuse)
        with pytest.raises(UserError, match=r"a\.txt could not be written \(Access Denied\); check the address, your"):
            place.put(Path(__file__))
        assert names(url) == ["a.txt"]
        with pytest.raises(UserError, match="Access Denied"):
            check_writable(url)
    check_writable(url)
    assert names(url) == ["a.txt"]
    assert place.read_text() == "old"


def test_a_storage_that_is_not_installed_is_named():
    with pytest.raises(UserError, match="needs a library that is not installed"):
        RemotePath("gdrive://folder")
    with pytest.raises(UserError, match="could not be opened"):
        RemotePath("nonsense://folder")


def test_the_cache_stays_below_its_limit(url, monkeypatch):
    monkeypatch.setenv("SLOTWORKS_CACHE_BYTES", "2500")
    for k in range(4):
        with replacing(as_place(f"{url}/{k}")) as beside:
            beside.write_bytes(bytes([k]) * 1000)
    for k in (0, 1, 0, 2, 0, 3):
        assert (as_place(url) / str(k)).local().read_bytes() == bytes([k]) * 1000
        assert sum(path.stat().st_size for path in cache_folder().iterdir()) <= 2500
    assert sorted(path.name[-1] for path in cache_folder().iterdir()) == ["0", "3"]  # 0 was used again and again
    with replacing(as_place(f"{url}/0")) as beside:
        beside.write_bytes(b"new")
    assert (as_place(url) / "0").local().read_bytes() == b"new"


@contextmanager
def room(size):
    """No file may become larger: what the system then says is what it says of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_for_what_is_to_be_sent(url, tmp_path, monkeypatch):
    """It says which disk of this machine is full; what was there stays, and nothing lies about."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = as_place(url) / "a.npy"
    save_file({"x": np.zeros(1)}, tmp_path / "old")
    place.put(tmp_path / "old")
    (tmp_path / "old").unlink()
    said = rf"a\.npy could not be written: before it is sent it lies in {tmp_path} \(File too large\); make room there"
    for write in (lambda path: path.write_bytes(bytes(2000)), lambda path: save_file({"x": np.zeros(999)}, path)):
        with room(1000), pytest.raises(UserError, match=said), replacing(place) as beside:
            write(beside)
    assert len(place.read_bytes()) < 100
    assert names(url) == ["a.npy"]
    assert list(tmp_path.iterdir()) == []
    with replacing(place) as beside:
        beside.write_bytes(bytes(2000))
    assert place.stat().st_size == 2000


def test_no_room_for_a_copy(url, tmp_path, monkeypatch):
    with replacing(as_place(f"{url}/a.txt")) as beside:
        beside.write_bytes(bytes(2000))
    said = rf"a\.txt could not be copied to {cache_folder()} \(File too large\); make room there, let XDG_"
    with room(1000), pytest.raises(UserError, match=said):
        (as_place(url) / "a.txt").local()
    assert list(cache_folder().iterdir()) == []
    assert len((as_place(url) / "a.txt").local().read_bytes()) == 2000
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"could not be copied to .*/file/slotworks/remote \(Not a directory\);"):
        (as_place(url) / "a.txt").local()


def test_a_limit_that_is_no_number(url, monkeypatch):
    with replacing(as_place(f"{url}/0")) as beside:
        beside.write_bytes(b"some")
    monkeypatch.setenv("SLOTWORKS_CACHE_BYTES", "20 GB")
    with pytest.raises(UserError, match=r"SLOTWORKS_CACHE_BYTES is 20 GB; expected a number of bytes, such as 2147"):
        (as_place(url) / "0").local()


def test_a_store_at_a_url_is_the_same_store(url, tmp_path, monkeypatch):
    monkeypatch.setattr(RemoteArray, "BLOCK", 4 * 12)
    monkeypatch.setattr(RemoteArray, "KEPT", 3)
    values = np.arange(50 * 3, dtype=np.int32).reshape(50, 3)

    def rows(start):
        return ({"image": row, "x": row[:1].astype(np.float32)} for row in values[start:])

    write_store(tmp_path / "store", rows, source={"name": "numbers"})
    with pytest.raises(UserError, match="is not a folder with a prepared store"):
        Store(f"{url}/store")
    send_store(tmp_path / "store", as_place(url) / "store")
    here, there = Store(tmp_path / "store"), Store(f"{url}/store")
    order = np.random.default_rng(0).permutation(50).tolist()
    for wanted in (order, order[:4], [7], [-1, 0], []):
        for name, found in there.__getitems__(wanted).items():
            np.testing.assert_array_equal(found, here.__getitems__(wanted)[name])
            assert found.dtype == here.arrays[name].dtype
    assert there[49]["image"].tolist() == here[49]["image"].tolist()
    assert len(there.arrays["image"]._pieces) <= 3
    there.verify()
    assert (np.asarray(there.arrays["image"]) == values).all()
    assert len(there.select(np.arange(7))) == 7
    with pytest.raises(IndexError, match="row 50 or 50 of 50"):
        there.arrays["image"][np.array([50])]
    data = bytearray((as_place(url) / "store" / "image.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    (as_place(url) / "store" / "image.npy").put(tmp_path / "damaged")
    with pytest.raises(UserError, match=r"image\.npy is damaged: its checksum"):
        Store(f"{url}/store").verify()


def test_without_fsspec_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UserError, match=r"install it with `pip install 'slotworks\[remote\]'`"):
        as_place("s3://bucket/folder")
    assert as_place("data").name == "data"
