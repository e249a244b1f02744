"""Writing an image from slots, token by token: kept keys and values against reading the prefix again at every step.

The networks are those of SLATE on 3D Shapes (256 tokens) and of STEVE (1,024 tokens) with random weights; both forms
hold the same ones and write the same tokens, which is checked. Plain is what the originals do, but for the last layer,
which they apply to the whole prefix at each step and we to the last token in both forms.
"""

import time

import torch

from slotworks.decoders import TokenDecoder

SIZES = {
    "SLATE, 64 x 64 pixels, 256 tokens": {"num_tokens": 256, "vocab_size": 1024, "num_blocks": 4, "slots": 3},
    "STEVE, 128 x 128 pixels, 1,024 tokens": {"num_tokens": 1024, "vocab_size": 4096, "num_blocks": 8, "slots": 15},
}


def run(batch_size: int = 4, threads: int = 1) -> list[dict]:
    """Seconds of one batch: the best of three for ours, one for the plain form, which takes minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows = []
    for name, sizes in SIZES.items():
        torch.manual_seed(0)
        sizes = dict(sizes)
        slots = torch.randn(batch_size, sizes.pop("slots"), 192)
        decoder = TokenDecoder(192, **sizes).eval()
        decoder.generate(slots[:1])
        ours, tokens = min((timed(decoder, slots, cache=True) for _ in range(3)), key=lambda found: found[0])
        plain, expected = timed(decoder, slots, cache=False)
        if not torch.equal(tokens, expected):
            raise AssertionError(f"{name}: {int((tokens != expected).sum())} tokens differ.")
        rows.append(
            {
                "name": f"{name}, batch {batch_size}",
                "ours_s": ours,
                "naive_s": plain,
                "ratio": plain / ours,
            }
        )
    torch.set_num_threads(before)
    return rows


def timed(decoder: TokenDecoder, slots: torch.Tensor, *, cache: bool) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    tokens = decoder.generate(slots, cache=cache)
    return time.perf_counter() - start, tokens


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['ours_s']:.2f} s, plain {row['naive_s']:.2f} s, ratio {row['ratio']:.1f}")
