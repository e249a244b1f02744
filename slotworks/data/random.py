"""Random numbers that are a function of what they are for: (seed, split, index, name of the draw).

A generator that is advanced draw by draw makes image 7 depend on who asked for images 0 to 6. Here every number is the
hash of its own address, so an image drawn alone equals the same image in any batch, and a whole batch is drawn without
a Python loop. The hash is the output function of SplitMix64 (Steele, Lea and Flood 2014), folded over the words of the
address.
"""

import zlib

import numpy as np
from jaxtyping import Float, Int, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, odd


def mix64(x: UInt64[np.ndarray, "*s"]) -> UInt64[np.ndarray, "*s"]:
    """Scramble 64 bits, one to one: SplitMix64's output function, whose n-th number is `mix64(seed + n * golden)`."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derive(key: UInt64[np.ndarray, "*s"], word: int | Int[np.ndarray, "*t"] | str) -> UInt64[np.ndarray, "*u"]:
    """A new key for each pair of key and word (broadcast). Words are integers or names."""
    if isinstance(word, str):
        word = zlib.crc32(word.encode())
    words = np.asarray(word, dtype=np.int64).astype(np.uint64)
    with np.errstate(over="ignore"):  # wrapping around at 2**64 is the point
        return np.asarray(mix64(np.asarray(mix64(key + _GOLDEN) ^ words) * _GOLDEN + _GOLDEN))


def scene_keys(*, seed: int, split: int, indices: Int[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
    """One key per image."""
    return derive(derive(derive(np.zeros(1, np.uint64), seed), split), indices)


def _bits(key: UInt64[np.ndarray, " b"], name: str, count: int) -> UInt64[np.ndarray, "b {count}"]:
    return derive(derive(key, name)[:, None], np.arange(count))


def uniform(key: UInt64[np.ndarray, " b"], name: str, count: int) -> Float[np.ndarray, "b {count}"]:
    """`count` numbers in [0, 1) per key, in steps of 2**-53."""
    return (_bits(key, name, count) >> np.uint64(11)) * 2.0**-53


def integers(
    key: UInt64[np.ndarray, " b"], name: str, count: int, high: int | Int[np.ndarray, "*s"]
) -> Int[np.ndarray, "b {count}"]:
    """`count` integers in [0, high) per key; `high` may differ per number. The bias is below `high` / 2**32."""
    top = _bits(key, name, count) >> np.uint64(32)
    return (top * np.asarray(high, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)
