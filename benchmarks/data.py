"""Official files: decoding records without touching their elements, and batches from a store instead of the files.

The records have the schema of Multi-dSprites (64x64, six entities), with random pixels. The plain decoder is a loop
over the one-byte strings of a parsed record. The plain batch decodes 64 consecutive records, which is the best a
TFRecord file allows; the store gives 64 random images. Photographs are JPEG files of 640x480 pixels; the plain batch
decodes and resizes them to 224 anew. All files are in memory already.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from slotworks.data import MultiDSprites, Pictures
from slotworks.data.readers.tfrecord import Example, read_examples, write_records
from slotworks.data.stores.shrink import shrink

NUM_RECORDS = 256
BATCH = 64
REPEATS = 5
SIZES = {"image": 64 * 64 * 3, "mask": 64 * 64 * 6}
PROPERTIES = ("x", "y", "shape", "scale", "orientation", "visibility")


def run() -> list[dict]:
    """Seconds, the best of five: one decoded record, and one batch of 64 images with masks and properties."""
    rng = np.random.default_rng(0)
    payloads = [payload(rng) for _ in range(NUM_RECORDS)]
    record = Example(payloads[0], "record 0")
    with tempfile.TemporaryDirectory() as root:
        config = MultiDSprites(root=root, train_size=NUM_RECORDS, test_size=0, val_size=0)
        write_records(config.official_file, payloads)
        store = config.open()
        indices = rng.permutation(NUM_RECORDS)[:BATCH].tolist()
        return [
            row(
                "one-byte strings of a 64x64 record: columns of bytes / a loop",
                best(lambda: [record.uint8(name, (size,)).copy() for name, size in SIZES.items()]),
                best(lambda: [bytes_one_by_one(record, name) for name in SIZES]),
            ),
            row(
                "batch of 64 images: from the store / from the TFRecord file",
                best(lambda: store.__getitems__(indices)),
                best(lambda: batch_of_records(config.official_file, config)),
            ),
            photographs(Path(root) / "photographs", rng),
        ]


def photographs(root: Path, rng: np.random.Generator) -> dict:
    root.mkdir()
    for i in range(BATCH):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(root / f"{i}.jpg", quality=90)
    config = Pictures(root=str(root), val_fraction=0.0, test_fraction=0.0)
    store = config.open("train")
    files = config.entries("train")[0]
    indices = rng.permutation(BATCH).tolist()

    def decoded(file: Path) -> np.ndarray:
        return shrink(config.read("train", file), config.image_size, config.crop, config.interpolation)["image"]

    return row(
        "batch of 64 photographs, 224x224: from the store / from JPEG files, one thread each",
        best(lambda: store.__getitems__(indices)),
        best(lambda: np.stack([decoded(files[i]) for i in indices])),
    )


def bytes_one_by_one(record: Example, name: str) -> np.ndarray:
    return np.array([value[0] for value in record.strings(name)], np.uint8)


def batch_of_records(file: Path, config: MultiDSprites) -> dict[str, np.ndarray]:
    rows = [config.decode(record) for record, _ in zip(read_examples(file), range(BATCH), strict=False)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def payload(rng: np.random.Generator) -> bytes:
    """A serialised `tf.Example` of six entities."""
    owner = rng.integers(0, 6, (64, 64, 1))
    values = {
        "image": one_byte_strings(rng.integers(0, 256, (64, 64, 3), np.uint8)),
        "mask": one_byte_strings(np.where(owner == np.arange(6), 255, 0).astype(np.uint8)),
        **{key: field(2, field(1, rng.random(6, np.float32).tobytes())) for key in PROPERTIES},
        "color": field(2, field(1, rng.random(18, np.float32).tobytes())),
    }
    return field(1, b"".join(field(1, field(1, name.encode()) + field(2, value)) for name, value in values.items()))


def one_byte_strings(array: np.ndarray) -> bytes:
    triples = np.empty((array.size, 3), np.uint8)
    triples[:, 0], triples[:, 1], triples[:, 2] = 0x0A, 1, array.reshape(-1)
    return field(1, triples.tobytes())


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    length, head = len(content), bytearray([number << 3 | 2])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length]) + content


def best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def row(name: str, ours: float, naive: float) -> dict:
    return {"name": name, "ours_s": ours, "naive_s": naive, "ratio": naive / ours}
