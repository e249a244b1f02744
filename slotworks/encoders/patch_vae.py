"""An `AutoencoderKL` whose encoder is a linear map of 4 x 4 patches: their principal components, exactly.

Nothing of the encoder is trained, so a diffusion model can learn on its latents at once. It needs no code of its own:
the weights are set so that every layer of the class passes on what it gets.

    conv_in      colours as they are
    downsample   2 x 2 pixels side by side in the channels, the second time projected onto the components
    norm, SiLU   each latent z stands there as z and -z, beside constants so large that the norm divides by what they
                 are; SiLU(z) - SiLU(-z) = z
    conv_out     that difference; the log variance is -30: no noise

The decoder is the class's own, trained to make the picture from latents with noise in them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.errors import needs_extra

STRIDE = 4  # pixels for each latent
CONSTANT = 256.0  # beside latents of deviation 1


def patch_vae(dims: Sequence[int], latent_dim: int, image_size: int) -> Any:
    """An `AutoencoderKL` of three levels; its encoder waits for `set_components`.

    Args:
        dims: channels of the three levels; the first has room for 12, the last for a latent twice and constants.
        latent_dim: channels of a latent.
        image_size: pixels, square; noted in the config.

    Raises:
        ValueError: if there is no room.
    """
    with needs_extra("diffusion"):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    groups = 4
    each = -(-latent_dim // groups)  # latents of a group of the norm
    room = dims[-1] // groups
    rising = len(dims) == 3 and 12 <= dims[0] < dims[1] < dims[2]  # so that each level changes its channels
    if not rising or dims[1] < latent_dim or room < 2 * each + 2 or room % 2:
        raise ValueError(
            f"vae_dims is {tuple(dims)} for {latent_dim} channels of a latent; give three that rise: at least 12, at "
            f"least {latent_dim}, and a multiple of 8 of at least {groups * (2 * each + 2)}."
        )
    options: dict[str, Any] = {  # annotated in diffusers as tuples of one
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": tuple(dims),
    }
    return AutoencoderKL(
        **options,
        layers_per_block=1,
        latent_channels=latent_dim,
        norm_num_groups=groups,
        sample_size=image_size,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


@torch.no_grad()
def set_components(vae: Any, mean: Float[Tensor, " 48"], rows: Float[Tensor, "k 48"]) -> None:
    """Set the encoder: latents become `rows @ (patch - mean)`, of patches in [-1, 1].

    Args:
        vae: made by `patch_vae`.
        mean: of a patch, in the order of `pixel_unshuffle`: colour, row, column.
        rows: what each latent reads of a patch.
    """
    encoder, count = vae.encoder, len(rows)
    for parameter in encoder.parameters():
        parameter.zero_()
    middle = (..., 1, 1)
    for channel in range(3):
        encoder.conv_in.weight[channel, channel][middle] = 1
    first, second, third = encoder.down_blocks
    for row in range(2):
        for column in range(2):
            for color in range(3):  # kernels of a downsampling start at the pixel itself, their last row is padding
                place = 3 * (2 * row + column) + color
                first.downsamplers[0].conv.weight[place, color, row, column] = 1
                for y in range(2):
                    for x in range(2):
                        pixel = 16 * color + 4 * (2 * y + row) + 2 * x + column
                        second.downsamplers[0].conv.weight[:count, place, y, x] = rows[:, pixel]
    second.downsamplers[0].conv.bias[:count] = -rows @ mean
    for channel in range(12):
        second.resnets[0].conv_shortcut.weight[channel, channel] = 1
    groups = encoder.conv_norm_out.num_groups
    each, room = -(-count // groups), len(encoder.conv_norm_out.weight) // groups
    spread = third.resnets[0].conv_shortcut
    for group in range(groups):
        held = range(group * each, min((group + 1) * each, count))
        start = group * room
        for k, latent in enumerate(held):
            spread.weight[start + 2 * k, latent] = 1
            spread.weight[start + 2 * k + 1, latent] = -1
            encoder.conv_out.weight[latent, start + 2 * k][middle] = 1
            encoder.conv_out.weight[latent, start + 2 * k + 1][middle] = -1
        constants = torch.arange(start + 2 * len(held), start + room)
        spread.bias[constants] = CONSTANT * (1 - 2 * (torch.arange(len(constants)) % 2)).to(spread.bias)
        deviation = CONSTANT * (len(constants) / room) ** 0.5
        encoder.conv_norm_out.weight[start : start + room] = deviation
    encoder.conv_out.bias[count:] = -30
