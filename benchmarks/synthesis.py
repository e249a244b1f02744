"""GLASS's pseudo-masks: refinement by products against the matrix power, and one pass of the U-Net for all classes.

The refinement has the sizes of Stable Diffusion's: attention among 32 x 32 or 64 x 64 positions, three classes. The
U-Net is small and random; what a pass for each class costs beside one pass for all is about the same for a large one.
"""

import time

import torch
from diffusers import UNet2DConditionModel

from slotworks.synthesis.capture import AttentionCapture
from slotworks.synthesis.refine import refine

SIDE = 32
CLASSES = 3
TOKENS = 77


def run() -> list[dict]:
    """Seconds, the best of three."""
    torch.manual_seed(0)
    return [refinement(SIDE), refinement(2 * SIDE), passes()]


def refinement(side: int) -> dict:
    maps, attention = torch.rand(1, CLASSES, side, side), torch.rand(1, side**2, side**2).softmax(2)

    def power() -> torch.Tensor:
        """As written in the paper: the map to the fourth power first."""
        return (torch.linalg.matrix_power(attention, 4) @ maps.flatten(2).mT).mT.unflatten(2, (side, side))

    torch.testing.assert_close(power(), refine(maps, attention), rtol=1e-4, atol=1e-6)
    return compare(
        f"refined maps, {CLASSES} classes at {side}x{side}: products / matrix power",
        power,
        lambda: refine(maps, attention),
    )


def passes() -> dict:
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=(2, 4, 4),
        norm_num_groups=8,
    ).eval()
    latents, text = torch.randn(1, 4, SIDE, SIDE), torch.randn(1, TOKENS, 64)
    prompts = torch.randn(1, CLASSES, TOKENS, 64)

    @torch.no_grad()
    def one_pass() -> torch.Tensor:
        with AttentionCapture(unet, prompts, cross_sizes=(16,), self_size=None) as maps:
            unet(latents, 500, encoder_hidden_states=text)
        return maps.cross

    @torch.no_grad()
    def pass_per_class() -> torch.Tensor:
        found = []
        for k in range(CLASSES):
            with AttentionCapture(unet, prompts[:, k], cross_sizes=(16,), self_size=None) as maps:
                unet(latents, 500, encoder_hidden_states=text)
            found.append(maps.cross)
        return torch.stack(found, 1)

    torch.testing.assert_close(one_pass(), pass_per_class())
    return compare(f"attention to {CLASSES} class prompts: one pass / a pass for each", pass_per_class, one_pass)


def compare(name: str, naive, ours) -> dict:
    times = {"ours_s": best(ours), "naive_s": best(naive)}
    return {"name": name, **times, "ratio": times["naive_s"] / times["ours_s"]}


def best(function) -> float:
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)
