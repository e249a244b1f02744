"""Writes `tf.Example` messages, byte by byte as the protobuf wire format prescribes."""

import struct
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures"


def varint(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def strings(values):
    return field(1, b"".join(field(1, value) for value in values))


def floats(values, *, packed=True):
    encoded = [struct.pack("<f", value) for value in values]
    return field(2, field(1, b"".join(encoded)) if packed else b"".join(varint(1 << 3 | 5) + e for e in encoded))


def ints(values, *, packed=True):
    encoded = [varint(value) for value in values]
    return field(3, field(1, b"".join(encoded)) if packed else b"".join(varint(1 << 3) + e for e in encoded))


def example(**features):
    entries = [field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items()]
    return field(1, b"".join(entries))
