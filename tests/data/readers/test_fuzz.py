"""A thousand damaged files: each gives a sentence for the user or a correct read, quickly, and nothing else."""

import gzip
import json
import shutil
from contextlib import suppress

import pytest
from mutations import attempts, mutate, same
from wire import FIXTURES

from slotworks.data import CLEVRTex, Tetrominoes
from slotworks.data.readers.tfrecord import read_examples, read_payloads, write_records
from slotworks.data.stores.store import Store, write_store
from slotworks.types import UserError

TETROMINOES = FIXTURES / "multi_object_datasets/tetrominoes/tetrominoes_train.tfrecords"


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
