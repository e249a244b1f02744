"""The store against kills, full disks and damage. Processes are forked: each starts in milliseconds."""

import json
import multiprocessing
import os
import pickle
import resource
import signal
import time

import numpy as np
import pytest
import torch

from slotworks.data.stores.store import Store, read_index, write_store
from slotworks.types import UserError, to_batch

fork = multiprocessing.get_context("fork")
COUNT = 10
THREE_ROWS = 3 * (5 * 4 * 3 + 5 * 4 + 4)  # bytes


def rows(start=0):
    for i in range(start, COUNT):
        generator = np.random.default_rng(i)
        yield {
            "image": generator.integers(0, 256, (5, 4, 3), np.uint8),
            "mask": generator.integers(0, 3, (5, 4), np.uint8),
            "x": np.asarray(i, np.float32),
        }


def write(path, rows=rows, **options):
    options = {"source": {"name": "some file"}, "settings": {"sizes": (1, 2)}, "chunk_bytes": THREE_ROWS} | options
    write_store(path, rows, **options)


def noting(starts):
    """The same rows; where their reading started goes into a list."""

    def read(start):
        starts.append(start)
        return rows(start)

    return read


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole")
    return tmp_path / "whole"


def in_child(function):
    """Run in a forked process; its exit code, negative if a signal ended it."""
    process = fork.Process(target=function)
    process.start()
    process.join(30)
    return process.exitcode


def test_rows_come_back(whole):
    store, expected = Store(whole), list(rows())
    assert len(store) == COUNT
    batch = store.__getitems__([7, 0, 7, -1])
    for k, i in enumerate([7, 0, 7, 9]):
        for name in ("image", "mask", "x"):
            np.testing.assert_array_equal(batch[name][k], expected[i][name])
            np.testing.assert_array_equal(store[i][name], expected[i][name])
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "image": ((4, 5, 4, 3), np.uint8),
        "mask": ((4, 5, 4), np.uint8),
        "x": ((4,), np.float32),
    }
    store.verify()
    assert sorted(contents(whole)) == ["image.npy", "index.json", "mask.npy", "x.npy"]
    np.testing.assert_array_equal(np.load(whole / "x.npy", allow_pickle=False), np.arange(10))  # an ordinary file


def test_selections_of_selections(whole):
    store = Store(whole).select(np.array([2, 4, 6, 8]))
    assert len(store) == 4
    np.testing.assert_array_equal(store.__getitems__([3, 1])["x"], [8, 4])
    np.testing.assert_array_equal(store.select(np.array([2])).__getitems__([0])["x"], [6])
    with pytest.raises(IndexError):
        store.__getitems__([4])


def test_worker_processes_get_the_path_not_the_data(whole):
    store = Store(whole).select(np.array([1, 2]))
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).__getitems__([1])["x"], [2])


def test_a_loader_asks_for_whole_batches(whole):
    loader = torch.utils.data.DataLoader(Store(whole), batch_size=4, collate_fn=to_batch)
    batches = list(loader)
    assert [len(batch["x"]) for batch in batches] == [4, 4, 2]
    assert batches[0]["image"].shape == (4, 3, 5, 4)
    assert batches[0]["mask"].dtype == torch.int64


def test_a_kill_at_any_moment_loses_at_most_a_chunk(tmp_path, whole):
    """Kill the writer at its first, second, third... synchronisation or rename, finish in a new process, compare."""
    moments = 0
    while True:
        moments += 1
        path = tmp_path / f"killed{moments}"

        def killed(path=path, moment=moments):
            calls = 0
            for name in ("fsync", "replace", "rename"):
                original = getattr(os, name)

                def counting(*args, original=original):
                    nonlocal calls
                    calls += 1
                    if calls == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return original(*args)

                setattr(os, name, counting)
            write(path)

        code = in_child(killed)
        starts = []
        write(path, noting(starts))
        assert contents(path) == contents(whole)
        assert starts in ([0], [3], [6], [9], [10], [])  # complete chunks are not read again
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert moments > 25


@pytest.mark.parametrize("last", range(COUNT))
def test_a_kill_while_reading_a_row(tmp_path, whole, last):
    def killed():
        def until(start):
            for i, row in enumerate(rows(start), start):
                if i == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield row

        write(tmp_path / "killed", until)

    assert in_child(killed) == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    starts = []
    write(tmp_path / "killed", noting(starts))
    assert starts == [last // 3 * 3]
    assert contents(tmp_path / "killed") == contents(whole)


def test_a_kill_from_outside(tmp_path, whole):
    """Another process sends SIGKILL while rows are being written, as a scheduler would."""

    def slowly(start):
        for row in rows(start):
            time.sleep(0.02)
            yield row

    process = fork.Process(target=lambda: write(tmp_path / "killed", slowly))
    process.start()
    index = tmp_path / ".killed.partial/index.json"
    while not index.exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (tmp_path / "killed").exists()
    assert 3 <= json.loads(index.read_text())["rows"] < COUNT
    write(tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(whole)


def partial_store(path, **options):
    """Leave a preparation that stopped after six rows."""

    def stops(start):
        for i, row in enumerate(rows(start), start):
            if i == 7:
                raise UserError("the official file is damaged")
            yield row

    with pytest.raises(UserError, match="the official file is damaged"):
        write(path, stops, **options)


@pytest.mark.parametrize("options", [{"source": {"name": "other"}}, {"settings": {"sizes": (1, 3)}}])
def test_a_partial_store_of_something_else_is_not_continued(tmp_path, whole, options):
    partial_store(tmp_path / "store", **options)
    starts = []
    write(tmp_path / "store", noting(starts))
    assert starts == [0]
    assert contents(tmp_path / "store") == contents(whole)


def test_a_partial_store_that_lost_data_is_not_continued(tmp_path, whole):
    partial_store(tmp_path / "store")
    os.truncate(tmp_path / ".store.partial/mask.npy", 200)
    write(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(whole)


def test_full_disk(tmp_path, whole):
    """A limit on the size of files answers like a full disk: in the middle of a chunk, with some bytes written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 7 * 60 + 11, hard))
    try:
        with pytest.raises(UserError) as raised:
            write(tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(raised.value) == (
        f"The disk is full: {tmp_path / 'store'} could not be finished; what is done is kept in "
        f"{tmp_path / '.store.partial'}. Free some space and run the same command again to go on."
    )
    assert not (tmp_path / "store").exists()
    starts = []
    write(tmp_path / "store", noting(starts))
    assert starts == [6]
    assert contents(tmp_path / "store") == contents(whole)


def test_a_disk_that_is_full_before_anything_is_safe(tmp_path):
    """Nothing can be gone on from, so nothing takes what little room there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 30, hard))
    try:
        with pytest.raises(UserError, match=r"^The disk is full: .* not be finished; nothing of it is kept\."):
            write(tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [".store.lock"]


def test_two_processes_prepare_once(tmp_path, whole):
    """Each GPU's process opens the data set: one prepares, the others wait for it."""

    def read(start):
        (tmp_path / f"read-{os.getpid()}").touch()
        return rows(start)

    def one():
        write(tmp_path / "store", read)

    processes = [fork.Process(target=one) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(list(tmp_path.glob("read-*"))) == 1
    assert contents(tmp_path / "store") == contents(whole)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/store cannot be written: "):
        write(tmp_path / "file/store")


def test_nothing_to_store(tmp_path):
    with pytest.raises(UserError, match="There is nothing to prepare"):
        write(tmp_path / "store", lambda start: iter(()))


@pytest.mark.parametrize("name", ["image", "mask", "x"])
def test_a_flipped_bit_is_found(whole, name):
    data = bytearray((whole / f"{name}.npy").read_bytes())
    data[-3] ^= 1
    (whole / f"{name}.npy").write_bytes(data)
    with pytest.raises(
        UserError, match=rf"{name}.npy is damaged: its checksum is [0-9a-f]{{8}}, expected [0-9a-f]{{8}}"
    ):
        Store(whole).verify()


def test_incomplete_and_damaged_stores_do_not_open(tmp_path, whole):
    with pytest.raises(UserError, match="nowhere is not a folder with a prepared store; run `slotworks data prepare`"):
        Store(tmp_path / "nowhere")
    partial_store(tmp_path / "stopped")
    with pytest.raises(UserError, match="is not complete; run `slotworks data prepare` again"):
        Store(tmp_path / ".stopped.partial")

    os.truncate(whole / "mask.npy", 300)
    with pytest.raises(UserError, match=r"mask.npy has 300 bytes, expected 328; delete .* and prepare it again"):
        Store(whole)
    (whole / "mask.npy").unlink()
    with pytest.raises(UserError, match=r"mask.npy is missing; delete"):
        Store(whole)
    (whole / "index.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match=r"index.json is damaged .*prepare it again"):
        Store(whole)
    (whole / "index.json").unlink()
    with pytest.raises(UserError, match=r"holds no index.json"):
        Store(whole)


def test_a_store_of_another_version(whole):
    index = json.loads((whole / "index.json").read_text())
    (whole / "index.json").write_text(json.dumps(index | {"version": 2}))
    with pytest.raises(UserError, match="has the layout of version 2, this program reads version 1"):
        Store(whole)


def test_pickles_are_never_loaded(whole):
    """An array of objects would need unpickling; the index cannot ask for one."""
    np.save(whole / "x.npy", np.array([print] * COUNT, dtype=object), allow_pickle=True)
    index = json.loads((whole / "index.json").read_text())
    index["fields"]["x"]["dtype"] = "|O"
    (whole / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index.json is damaged"):
        Store(whole)


@pytest.mark.parametrize("source", [None, 3, ["name"]])
def test_an_index_that_does_not_say_what_it_was_made_from(tmp_path, source):
    write_store(tmp_path / "a", lambda start: iter([{"x": np.zeros(2)}][start:]), source={"name": "a file"})
    file = tmp_path / "a/index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"source": source}))
    with pytest.raises(UserError, match=r"index\.json is damaged .* prepare it again"):
        read_index(tmp_path / "a")
