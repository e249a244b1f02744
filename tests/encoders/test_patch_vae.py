"""A VAE whose encoder is a linear map, written into the weights of the class that Stable Diffusion has."""

import pytest
import torch
import torch.nn.functional as F

from slotworks.encoders.patch_vae import patch_vae, set_components


@pytest.mark.parametrize(("latent_dim", "dims"), [(12, (16, 32, 48)), (5, (12, 16, 32))])
def test_latents_are_the_linear_map(latent_dim, dims):
    torch.manual_seed(0)
    vae = patch_vae(dims, latent_dim, 32).eval().requires_grad_(False)
    rows, mean = torch.randn(latent_dim, 48) / 4, torch.randn(48) / 10
    set_components(vae, mean, rows)
    image = 2 * torch.rand(2, 3, 32, 48) - 1
    patches = F.pixel_unshuffle(image, 4)
    expected = torch.einsum("kc,bcyx->bkyx", rows, patches - mean[:, None, None])
    found = vae.encode(image).latent_dist
    torch.testing.assert_close(found.mode(), expected, rtol=1e-3, atol=1e-3)
    assert float(found.std.max()) < 1e-6  # no noise of its own
    in_half = patch_vae(dims, latent_dim, 32).eval().requires_grad_(False)  # as it is stored
    in_half.load_state_dict({name: value.half().float() for name, value in vae.state_dict().items()})
    torch.testing.assert_close(in_half.encode(image).latent_dist.mode(), expected, rtol=0, atol=5e-3)
    assert vae.decode(expected).sample.shape == image.shape


@pytest.mark.parametrize("dims", [(8, 32, 48), (16, 8, 48), (16, 48, 48), (16, 32, 24), (16, 32)])
def test_levels_without_room(dims):
    with pytest.raises(ValueError, match="vae_dims is"):
        patch_vae(dims, 12, 32)
