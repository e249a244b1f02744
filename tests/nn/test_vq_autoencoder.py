"""The VQ-VAE's measures, codes and gradients. Its transfer: `tests/methods/test_transfer_slot_diffusion.py`."""

import pytest
import torch

from slotworks.nn.vqvae import VQAutoencoder, VQConfig

pytest.importorskip("diffusers")

TINY = VQConfig(dims=(8, 16), layers=1, num_codes=5, norm_groups=4)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return VQAutoencoder(TINY)


def test_the_published_size():
    """Encoder 5,594,051, decoder 8,251,523, codes 12,288, convolutions of one pixel 24."""
    with torch.device("meta"):
        net = VQAutoencoder(VQConfig()).net
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert counts == {
        "encoder": 5_594_051,
        "quant_conv": 12,
        "quantize": 12_288,
        "post_quant_conv": 12,
        "decoder": 8_251_523,
    }
    assert VQConfig().stride == 4


def test_codes_are_the_nearest_and_stay_what_they_are(tiny):
    latents = torch.randn(2, 3, 4, 6)
    found = tiny.quantize(latents)
    book = tiny.net.quantize.embedding.weight
    distance = (latents.movedim(1, -1)[..., None, :] - book).square().sum(-1)
    assert torch.equal(found.index, distance.argmin(-1))
    torch.testing.assert_close(found.codes, book[found.index].movedim(-1, 1))
    again = tiny.quantize(found.codes)
    assert torch.equal(again.index, found.index)
    torch.testing.assert_close(again.codes, found.codes)
    assert again.commit.item() == pytest.approx(0, abs=1e-12)


def test_gradients_go_straight_through_and_to_the_codes(tiny):
    latents = torch.randn(1, 3, 2, 2, requires_grad=True)
    probe = torch.randn(1, 3, 2, 2)
    found = tiny.quantize(latents)
    (gradient,) = torch.autograd.grad((found.codes * probe).sum(), latents)
    assert torch.equal(gradient, probe)
    found = tiny.quantize(latents)
    (pulled,) = torch.autograd.grad(found.commit, latents, retain_graph=True)
    torch.testing.assert_close(pulled, 2 * (latents - found.codes).detach() / latents.numel())
    (pushed,) = torch.autograd.grad(found.codebook, tiny.net.quantize.embedding.weight)
    used = found.index.flatten().unique()
    assert (pushed[used].abs().sum(1) > 0).all()
    assert pushed.abs().sum().item() == pytest.approx(pushed[used].abs().sum().item())


def test_images_go_to_a_quarter_and_back():
    net = VQAutoencoder(VQConfig(dims=(8, 8, 16), layers=1, num_codes=5, norm_groups=4))
    latents = net.encode(torch.rand(2, 3, 16, 24))
    assert latents.shape == (2, 3, 4, 6)
    assert net.decode(latents).shape == (2, 3, 16, 24)
    codes = net.quantize(latents).codes
    torch.testing.assert_close(net.decode(latents), net.decode(codes, quantize=False))
    assert (net.decode(latents, quantize=False) - net.decode(latents)).abs().max() > 1e-5


def test_codes_start_where_they_are_told():
    book = VQAutoencoder(VQConfig(dims=(8,), layers=1, norm_groups=4)).net.quantize.embedding.weight
    assert book.abs().max().item() == pytest.approx(1 / 4096, rel=0.01)
    wide = VQConfig(dims=(8,), layers=1, norm_groups=4, num_codes=200, code_range=2.0)
    assert VQAutoencoder(wide).net.quantize.embedding.weight.abs().max().item() == pytest.approx(2, rel=0.05)
