"""Mutated inputs: what a bad disk, a broken download, another program or a hostile hand makes of a file.

`mutate` knows bytes, `mutate_text` also JSON and YAML: it changes types, sizes and nesting at a node and leaves a file
that can be parsed. Equal generators give equal mutations.

`attempts` counts what can be read and what is refused; whatever else a reader raises goes through.
"""

import json
import random
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import yaml

from slotworks.errors import MESSAGE, UserError

LENGTHS = (1, 2, 4, 8, 50, 1000)
SECONDS = 5.0  # of the processor for one input; a hang is what takes longer

STRANGE = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "0", "-1", "1e400", "null", "..", "/", "../../x", "a\0b", "a\nb", "[bold]x[/]", "\x1b[2J", "ä€𝄞"),
    *("\u202e", "\ud800", "²", "x" * 10_000, [], {}, [[]], {"": 0}, [None] * 3, {"kind": [1]}, {"kind": "Run"}),
)
DEPTHS = (20, 200, 700, 950, 3_000, 100_000)
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037", "utf-7")


def mutate(data: bytes, generator: random.Random) -> bytes:
    """One to three changes: bits flipped, bytes set, ranges zeroed, doubled, cut out or swapped, numbers made huge."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 3)):
        generator.choice(_BYTES)(changed, generator)
    return bytes(changed)


def _flip(data: bytearray, generator: random.Random) -> None:
    if data:
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def _set(data: bytearray, generator: random.Random) -> None:
    start, stop = _range(data, generator)
    data[start:stop] = generator.randbytes(stop - start)


def _zero(data: bytearray, generator: random.Random) -> None:
    start, stop = _range(data, generator)
    data[start:stop] = generator.choice((b"\0", b"\xff")) * (stop - start)


def _insert(data: bytearray, generator: random.Random) -> None:
    at = generator.randrange(len(data) + 1)
    data[at:at] = generator.randbytes(generator.choice(LENGTHS))


def _cut_off(data: bytearray, generator: random.Random) -> None:
    del data[generator.randrange(len(data) + 1) :]


def _cut_out(data: bytearray, generator: random.Random) -> None:
    start, stop = _range(data, generator)
    del data[start:stop]


def _double(data: bytearray, generator: random.Random) -> None:
    start, stop = _range(data, generator)
    data[stop:stop] = data[start:stop] * generator.choice((1, 1, 7))


def _swap_ends(data: bytearray, generator: random.Random) -> None:
    at = generator.randrange(len(data) + 1)
    data[:] = data[at:] + data[:at]


def _number(data: bytearray, generator: random.Random) -> None:
    """A length, where one is: most formats state them at the beginning."""
    reach = generator.choice((64, 512, len(data) + 1))
    at = generator.randrange(min(len(data) + 1, reach))
    kind = generator.choice("BHIQ")
    size = struct.calcsize(kind)
    value = generator.choice((0, 1, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)) % 256**size
    data[at : at + size] = struct.pack(generator.choice("<>") + kind, value)


_BYTES = (_flip, _flip, _set, _set, _zero, _insert, _cut_off, _cut_out, _double, _swap_ends, _number, _number)


def _range(data: bytearray, generator: random.Random) -> tuple[int, int]:
    start = generator.randrange(len(data) + 1)
    return start, min(len(data), start + generator.choice(LENGTHS))


def mutate_text(data: bytes, generator: random.Random) -> bytes:
    """As `mutate`, or a change at a node of JSON, JSON lines or YAML, or in another encoding."""
    kind = generator.randrange(10)
    if kind < 3:
        return mutate(data, generator)
    text = data.decode()
    if kind == 3:
        return text.encode(generator.choice(ENCODINGS), "replace")
    lines = text.splitlines()
    dumped: Callable[[object], str] = json.dumps
    if len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for line in lines[:2]):
        at = generator.randrange(len(lines))
        lines[at] = _at_a_node(json.loads(lines[at]), generator, json.dumps)
        return ("\n".join(lines) + "\n").encode(errors="surrogatepass")
    if text.lstrip()[:1] in ("{", "["):
        value = json.loads(text)
    else:
        value = yaml.safe_load(text)
        dumped = generator.choice((yaml.safe_dump, json.dumps))
        if isinstance(value, str):  # neither: a list of names, for example
            at = generator.randrange(len(lines))
            lines[at] = generator.choice((str(generator.choice(STRANGE)), lines[at] * 2, "\t" + lines[at], ""))
            return "\n".join(lines).encode(errors="surrogatepass")
    return _at_a_node(value, generator, dumped).encode(errors="surrogatepass")


def _at_a_node(value: object, generator: random.Random, dumped: Callable[[object], str]) -> str:
    """The value as text with another value, key or depth in one place."""
    places = list(_places(value))
    marker = "a place that is replaced"
    if not places:
        return str(generator.choice(STRANGE))
    holder, key = generator.choice(places)
    kind = generator.choice(("replace", "replace", "replace", "delete", "rename", "deep", "digits", "wrap", "many"))
    if kind == "delete":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[str(generator.choice(STRANGE))[:200]] = holder.pop(key)
    elif kind == "wrap":
        holder[key] = generator.choice(([holder[key]], {"a": holder[key]}))
    elif kind == "many":
        holder[key] = [holder[key]] * generator.choice((2, 100, 10_000))
    elif kind in ("deep", "digits"):
        holder[key] = marker
        depth = generator.choice(DEPTHS)
        opening, closing = generator.choice((("[", "]"), ('{"a": ', "}")))
        new = opening * depth + "1" + closing * depth if kind == "deep" else "9" * depth
        text = dumped(value)
        return text.replace(json.dumps(marker), new).replace(marker, new)
    else:
        holder[key] = generator.choice(STRANGE)
    return dumped(value)


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield value, key
            yield from _places(item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index
            yield from _places(item)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """TimeoutError for what takes more time of the processor, however busy the machine is."""

    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempts(read: Callable[[random.Random], object], cases: int, *, seconds: float = SECONDS) -> tuple[int, int]:
    """How many cases could be read and how many were refused. Any other exception goes through."""
    refused = 0
    for case in range(cases):
        with at_most(seconds):
            try:
                read(random.Random(case))
            except UserError as error:
                check_sentence(str(error))
                refused += 1
    return cases - refused, refused


def check_sentence(text: str) -> None:
    """What a person gets to read: one line of a length that can be read, and not that memory ran out."""
    assert 20 < len(text) < MESSAGE + 10, text[:300]
    assert "\n" not in text, text[:300]
    assert "MemoryError" not in text, text[:300]


def same(row: dict, other: dict) -> bool:
    """Whether two rows of a data set are equal."""
    return row.keys() == other.keys() and all(np.array_equal(row[key], other[key]) for key in other)
