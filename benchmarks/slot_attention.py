"""One training step of the Tetrominoes model: our form against the most direct one in torch.

Plain is how one writes it at first: tile every slot over the image, add the position embedding, five-by-five `Conv2d`
layers, everything contiguous and in float32. Ours never tiles (the first layer is a small product for each border
pattern), keeps channels last and, in the second row, convolves in bfloat16. The third row gives bfloat16 to both: what
is left is the form. Encoder, Slot Attention and optimiser are the same code in all; both forms hold the same weights
and agree before they are timed.
"""

import copy
import time
from contextlib import nullcontext
from statistics import median

import torch
from torch import Tensor, nn

from slotworks.decoders import SpatialBroadcastDecoder
from slotworks.methods import SlotAttentionConfig
from slotworks.types import DecoderOutput, Method


class PlainDecoder(nn.Module):
    """The decoder of table 6 with the weights of ours."""

    def __init__(self, ours: SpatialBroadcastDecoder):
        super().__init__()
        self.height, self.width = ours.image_size
        self.position = copy.deepcopy(ours.position)
        layers: list[nn.Module] = []
        for layer in (*ours.layers, ours.last):
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding="same")
            plain.load_state_dict(layer.state_dict())
            layers += [plain, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, slots: Tensor) -> DecoderOutput:
        b, n, d = slots.shape
        x = slots.reshape(b * n, d, 1, 1).repeat(1, 1, self.height, self.width)
        x = self.layers(x + self.position(self.height, self.width))
        x = x.reshape(b, n, 4, self.height, self.width).float()
        parts, masks = x[:, :, :3], x[:, :, 3].softmax(dim=1)
        return DecoderOutput((parts * masks[:, :, None]).sum(dim=1), masks, parts)


class Step:
    """A training step: loss, gradients, Adam."""

    def __init__(self, method: Method, image: Tensor, *, bf16: bool, layout: torch.memory_format):
        self.method = method.to(memory_format=layout)
        self.image = image.contiguous(memory_format=layout)
        self.bf16 = bf16
        self.optimizer = torch.optim.Adam(method.parameters(), lr=4e-4)
        self.times: list[float] = []

    def loss(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
            return self.method.loss({"image": self.image}, 0)["recon"]

    def __call__(self) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        self.times.append(time.perf_counter() - start)


def run(batch_size: int = 16, repeats: int = 9, threads: int = 2) -> list[dict]:
    """Medians in seconds and their ratio. In turns, so that a busy machine slows all of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours = SlotAttentionConfig().build()
    plain = copy.deepcopy(ours)
    plain.decoder = PlainDecoder(ours.decoder)
    image = torch.rand(batch_size, 3, 35, 35)
    steps = {
        (form, bf16): Step(copy.deepcopy(method), image, bf16=bf16, layout=layout)
        for form, method, layout in (
            ("ours", ours, torch.channels_last),
            ("plain", plain, torch.contiguous_format),
        )
        for bf16 in (False, True)
    }
    losses = []
    for step in steps.values():
        torch.manual_seed(1)  # the same initial slots
        losses.append(step.loss().item())
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(losses[:1]).expand(4), atol=0, rtol=0.01)
    torch.testing.assert_close(losses[0], losses[2], atol=0, rtol=1e-5)  # in float32
    for _ in range(2 + repeats):
        for step in steps.values():
            step()
    torch.set_num_threads(before)
    seconds = {key: median(step.times[2:]) for key, step in steps.items()}
    return [
        {
            "name": f"training step, Tetrominoes, batch {batch_size}, {name}",
            "ours_s": seconds["ours", ours_bf16],
            "naive_s": seconds["plain", plain_bf16],
            "ratio": seconds["plain", plain_bf16] / seconds["ours", ours_bf16],
        }
        for name, ours_bf16, plain_bf16 in (
            ("float32", False, False),
            ("bfloat16 for ours", True, False),
            ("bfloat16 for both", True, True),
        )
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['ours_s']:.3f} s, plain {row['naive_s']:.3f} s, ratio {row['ratio']:.1f}")
