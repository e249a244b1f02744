"""Principal components: against numpy's singular values, in pieces, and what they keep."""

import numpy as np
import pytest
import torch

from slotworks.nn.principal import PrincipalComponents


def points(count=500):
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 5, 3, 0.1, 0.1])
    turned = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0].float()
    return (torch.randn(count, 5, generator=generator) * spread) @ turned + torch.tensor([100.0, -50, 0, 7, 1])


def test_the_main_directions_are_those_of_numpy():
    x, components = points(), PrincipalComponents(5, 3)
    components.fit([x])
    centred = x.double().numpy() - x.double().numpy().mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    between = np.abs(directions[:3] @ components.basis.numpy())
    np.testing.assert_allclose(between, np.eye(3), atol=1e-4)
    scale = np.sqrt((values[:3] ** 2 / (len(x) - 1)).mean())
    np.testing.assert_allclose(components.scale.item(), scale, rtol=1e-5)
    np.testing.assert_allclose(components.mean.numpy(), x.mean(0).numpy(), rtol=1e-5)


def test_outputs_have_mean_zero_and_mean_variance_one():
    x, components = points(), PrincipalComponents(5, 3)
    components.fit([x])
    out = components(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert out.var(0).mean().item() == pytest.approx(1, abs=1e-4)
    assert out.var(0)[0] > out.var(0)[1] > out.var(0)[2]


def test_pieces_of_any_size_give_the_same():
    x = points()
    whole, parts = PrincipalComponents(5, 3), PrincipalComponents(5, 3)
    whole.fit([x])
    parts.fit(iter([x[:60].view(3, 20, 5), x[60:61], x[61:]]))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_a_state_dict_takes_them_along():
    x, fitted, fresh = points(), PrincipalComponents(5, 2), PrincipalComponents(5, 2)
    torch.testing.assert_close(fresh(x), x[:, :2])
    fitted.fit([x])
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(x), fitted(x))
    assert not list(fitted.parameters())


def test_refuses():
    with pytest.raises(ValueError, match="6 principal components were asked for, of 5 channels; give 1 to 5"):
        PrincipalComponents(5, 6)
    with pytest.raises(ValueError, match="asked for of 1 points; give 2 or more"):
        PrincipalComponents(5, 2).fit([torch.zeros(1, 5)])
