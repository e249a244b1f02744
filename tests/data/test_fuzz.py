"""A thousand damaged files: each gives a sentence for the user or a correct read, quickly, and nothing else."""

import gzip
import json
import random
import shutil
import signal
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from wire import FIXTURES

from slotworks.data import CLEVRTex, Tetrominoes
from slotworks.data.store import Store, write_store
from slotworks.data.tfrecord import read_examples, read_payloads, write_records
from slotworks.types import UserError

TETROMINOES = FIXTURES / "multi_object_datasets/tetrominoes/tetrominoes_train.tfrecords"


def mutate(data, generator):
    """Flip bytes, cut off, insert or zero a range: one to three times."""
    data = bytearray(data)
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(data) + 1)
        length = generator.choice([1, 2, 4, 8, 50, 1000])
        kind = generator.choice(["flip", "set", "cut", "insert", "zero"])
        if kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = generator.randbytes(length)
        elif kind == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif at < len(data):
            data[at] = data[at] ^ 1 << generator.randrange(8) if kind == "flip" else generator.randrange(256)
    return bytes(data)


@contextmanager
def at_most(seconds):
    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempts(read, cases):
    """How many cases could be read and how many were refused. Any other exception goes through."""
    sentences = []
    for case in range(cases):
        with at_most(2):
            try:
                read(random.Random(case))
            except UserError as error:
                sentences.append(str(error))
    assert all(len(sentence) > 20 and "\n" not in sentence for sentence in sentences)
    return cases - len(sentences), len(sentences)


def same(row, other):
    return all(np.array_equal(row[key], other[key]) for key in other) and row.keys() == other.keys()


@pytest.fixture
def tetrominoes(tmp_path):
    shutil.copy(TETROMINOES, tmp_path / "tetrominoes_train.tfrecords")
    return Tetrominoes(root=str(tmp_path), train_size=2, test_size=1, val_size=1)


@pytest.mark.parametrize("where", ["compressed", "framing", "plain"])
def test_damaged_tfrecords(tetrominoes, where):
    whole = TETROMINOES.read_bytes()
    expected = list(tetrominoes.rows())

    def read(generator):
        data = mutate(whole if where == "compressed" else gzip.decompress(whole), generator)
        tetrominoes.official_file.write_bytes(gzip.compress(data, 1) if where == "framing" else data)
        tetrominoes.source()
        for row in tetrominoes.rows():
            assert any(same(row, other) for other in expected)  # the checksums leave no wrong record through

    readable, refused = attempts(read, 120)
    assert refused > 60
    assert readable + refused == 120


def test_damaged_messages(tetrominoes):
    """Records whose checksums are right but whose content is not: only the message's own rules can refuse them."""
    payload = next(read_payloads(TETROMINOES))

    def read(generator):
        write_records(tetrominoes.official_file, [mutate(payload, generator)], compress=False)
        for example in read_examples(tetrominoes.official_file):
            for name, (_, content) in example.features.items():
                for decode in (example.floats, example.ints, example.strings)[: 3 if len(content) < 1000 else 2]:
                    with suppress(UserError):
                        decode(name)
            row = tetrominoes.decode(example)
            assert (row["image"].shape, row["mask"].shape) == ((35, 35, 3), (35, 35))
            assert row["mask"].max() <= 3

    readable, refused = attempts(read, 190)
    assert refused > 60
    assert readable > 0  # other pixels are nothing a reader can see


@pytest.mark.parametrize("name", ["index.json", "image.npy", "x.npy"])
def test_damaged_stores(tmp_path, tetrominoes, name):
    rows = list(tetrominoes.rows())
    write_store(tmp_path / "store", lambda start: iter(rows[start:]), source={"name": "some file", "bytes": 1322})
    whole = (tmp_path / "store" / name).read_bytes()

    def read(generator):
        (tmp_path / "store" / name).write_bytes(mutate(whole, generator))
        store = Store(tmp_path / "store")
        store.verify()
        assert len(store) == 4
        for i, row in enumerate(rows):
            assert same(store[i], row | {key: store[i][key] for key in row if key not in store.arrays})

    readable, refused = attempts(read, 90)
    assert refused > 60
    assert readable + refused == 90


@pytest.mark.parametrize("number", [0, 1, 2])
def test_damaged_pictures_and_descriptions(tmp_path, number):
    shutil.copytree(FIXTURES / "clevrtex/clevrtex_full", tmp_path / "clevrtex_full")
    data = CLEVRTex(root=str(tmp_path))
    file = data.files(0)[number]
    whole, expected = file.read_bytes(), data.decode(0)

    def read(generator):
        file.write_bytes(mutate(whole, generator))
        row = data.decode(0)
        assert {key: (value.shape, value.dtype) for key, value in row.items()} == {
            key: (value.shape, value.dtype) for key, value in expected.items()
        }
        if number < 2:
            assert same(row, expected)  # the checksums of PNG leave no wrong pixel through
        else:
            json.loads(file.read_bytes())

    readable, refused = attempts(read, 60)
    assert refused > (40 if number < 2 else 20)
    assert readable + refused == 60
