import gzip
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from wire import FIXTURES, example, field, floats, ints, strings, varint

from slotworks.data.readers.tfrecord import Example, read_examples, read_payloads, write_records
from slotworks.types import UserError

TETROMINOES = FIXTURES / "multi_object_datasets/tetrominoes/tetrominoes_train.tfrecords"


def frame(length, payload=b""):
    """One record that states any length, with correct checksums."""
    mask = [
        ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")
        for crc in (google_crc32c.value(length.to_bytes(8, "little")), google_crc32c.value(payload))
    ]
    return length.to_bytes(8, "little") + mask[0] + payload + mask[1]


@pytest.mark.parametrize("compress", [True, False])
def test_reads_plain_and_compressed_files_from_any_record(tmp_path, compress):
    payloads = [bytes([i]) * i * 1000 for i in range(5)]
    write_records(tmp_path / "file", payloads, compress=compress)
    assert list(read_payloads(tmp_path / "file")) == payloads
    assert list(read_payloads(tmp_path / "file", start=3)) == payloads[3:]
    assert list(read_payloads(tmp_path / "file", start=5)) == []


def test_written_file_equals_the_official_framing(tmp_path):
    """The fixture was checked with TensorFlow's reader: our framing of its payloads is the same to the byte."""
    write_records(tmp_path / "file", list(read_payloads(TETROMINOES)), compress=False)
    assert (tmp_path / "file").read_bytes() == gzip.decompress(TETROMINOES.read_bytes())


def test_single_byte_strings():
    record = Example(example(image=strings([b"\x0a", b"\x01", b"\xff", b"\x00", b"\x07", b"\x0a"])), "x")
    np.testing.assert_array_equal(record.uint8("image", (2, 3)), [[10, 1, 255], [0, 7, 10]])
    assert record.strings("image")[2] == b"\xff"


@pytest.mark.parametrize("packed", [True, False])
def test_floats_and_integers(packed):
    numbers = [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)]
    record = Example(example(f=floats([0.5, -2.0, 1e30], packed=packed), i=ints(numbers, packed=packed)), "x")
    np.testing.assert_array_equal(record.floats("f"), np.float32([0.5, -2.0, 1e30]))
    np.testing.assert_array_equal(record.ints("i", (3, 3)), np.reshape(numbers, (3, 3)))


def test_empty_lists_and_encoded_pictures():
    record = Example(
        example(f=floats([]), i=ints([]), s=strings([]), pictures=strings([b"\x89PNG", b"", b"x" * 300])), "x"
    )
    assert record.floats("f").shape == record.ints("i").shape == record.uint8("s", (0,)).shape == (0,)
    assert record.strings("pictures") == [b"\x89PNG", b"", b"x" * 300]


def test_unknown_fields_are_passed_over():
    known = example(x=floats([3.0]))
    unknown = (
        field(9, b"abc") + varint(10 << 3) + varint(7) + varint(11 << 3 | 5) + b"1234" + varint(12 << 3 | 1) + b"8" * 8
    )
    assert Example(unknown + known + unknown, "x").floats("x") == 3.0


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"\xff", "not a tf.Example .a number is cut off"),
        (b"\xff" * 12, "longer than ten bytes"),
        (b"\x0a\x05ab", "a field is longer than its message"),
        (b"\x0b", "unknown wire type 3"),
    ],
)
def test_damaged_messages(payload, text):
    with pytest.raises(UserError, match=f"^some.file, record 4 is .*{text}"):
        Example(payload, "some.file, record 4")


def test_wrong_schema():
    record = Example(
        example(x=floats([1, 2]), mask=strings([b"ab", b"c"]), n=field(3, field(1, b"\x80"))), "f, record 0"
    )
    with pytest.raises(UserError, match="f, record 0 has no feature 'z', only mask, n, x; is this the right file"):
        record.floats("z", (2,))
    with pytest.raises(UserError, match="feature 'x' holds 2 values, expected 2 x 3; is this"):
        record.floats("x", (2, 3))
    with pytest.raises(UserError, match="feature 'x' holds floats, expected bytes; is this"):
        record.uint8("x", (2,))
    with pytest.raises(UserError, match="feature 'mask' is not a list of single bytes"):
        record.uint8("mask", (2,))
    with pytest.raises(UserError, match=r"feature 'n' is damaged .a number is cut off"):
        record.ints("n")


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match=r"none.tfrecords cannot be opened: No such file"):
        list(read_payloads(tmp_path / "none.tfrecords"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="file is empty; get the file again"):
        list(read_payloads(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(UserError, match=r"neither a GZIP file nor a TFRecord file .it begins with b'<!DOCTYPE ht'"):
        list(read_payloads(tmp_path / "file"))
    (tmp_path / "file").write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match="file holds no record"):
        list(read_payloads(tmp_path / "file"))
    (tmp_path / "file").write_bytes(gzip.compress(b"a text that was compressed"))
    with pytest.raises(UserError, match="record 0: the checksum of the record's length is wrong"):
        list(read_payloads(tmp_path / "file"))


@pytest.mark.parametrize("compress", [True, False])
def test_cut_off_and_damaged_files_name_the_record(tmp_path, compress):
    payloads = [b"first record", b"second record"]
    write_records(tmp_path / "whole", payloads, compress=False)
    whole = (tmp_path / "whole").read_bytes()
    first = 12 + 12 + 4

    def read(data):
        (tmp_path / "file").write_bytes(gzip.compress(data) if compress else data)
        return list(read_payloads(tmp_path / "file"))

    assert read(whole) == payloads
    with pytest.raises(UserError, match="file, record 1: the file ends inside the record's header"):
        read(whole[: first + 5])
    with pytest.raises(UserError, match="file, record 1: the file ends inside the record;"):
        read(whole[:-1])
    with pytest.raises(UserError, match="file, record 1: the checksum of the record is wrong"):
        read(whole[: first + 14] + b"X" + whole[first + 15 :])
    with pytest.raises(UserError, match="file, record 1: the checksum of the record's length is wrong"):
        read(whole[:first] + b"\x00" + whole[first + 1 :])


def test_cut_off_compression(tmp_path):
    (tmp_path / "file").write_bytes(TETROMINOES.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"file, record \d: the file is cut off or damaged"):
        list(read_examples(tmp_path / "file"))


@pytest.mark.parametrize(("length", "text"), [(2**62, "cannot be right"), (2**29, "ends inside the record")])
def test_a_wrong_length_allocates_little(tmp_path, length, text):
    (tmp_path / "file").write_bytes(frame(length, b"short"))
    tracemalloc.start()
    with pytest.raises(UserError, match=text):
        list(read_payloads(tmp_path / "file"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
