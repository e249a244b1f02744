"""Tokens of objects: what is known changes them, what is not does not, and what cannot be drawn is refused."""

import pytest
import torch

from slotworks.encoders.object_tokens import Objects, ObjectTokens, fourier, load_object_tokens
from slotworks.types import UserError

NAN = torch.nan


@pytest.fixture(scope="module")
def tokens():
    torch.manual_seed(0)
    return ObjectTokens(16, num_shapes=4, num_colors=8, num_backgrounds=5, max_objects=5)


def objects(x=0.3, y=0.6, size=0.33, color=2, shape=1, order=1, present=True):
    values = {"present": present, "shape": shape, "color": color, "size": size, "x": x, "y": y, "order": order}
    return Objects(**{name: torch.tensor([[value]]) for name, value in values.items()})


def test_tokens_are_normed_and_have_their_shapes(tokens):
    token = tokens(objects())
    assert token.shape == (1, 1, 16)
    torch.testing.assert_close(token.mean(-1), torch.zeros(1, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(token.var(-1, correction=0), torch.ones(1, 1), atol=1e-3, rtol=0)
    context = tokens.context(objects(), torch.tensor([3]))
    assert context.shape == (1, 2, 16)
    torch.testing.assert_close(context[:, 1:], token)


def test_every_property_counts_and_what_is_not_known_does_not(tokens):
    known = tokens(objects())
    for changed in ({"x": 0.4}, {"y": 0.5}, {"size": 0.4}, {"color": 3}, {"shape": 2}, {"order": 2}):
        assert not torch.allclose(tokens(objects(**changed)), known, atol=1e-2), changed
    torch.testing.assert_close(tokens(objects(x=NAN)), tokens(objects(x=NAN, y=0.1)))  # half a place is none
    assert tokens(objects(x=NAN, size=NAN)).isfinite().all()
    null = tokens.nulls(1, 1)
    torch.testing.assert_close(tokens(objects(present=False, color=5)), null)
    torch.testing.assert_close(tokens.background_token(torch.tensor([0])), null)


def test_a_place_as_waves():
    found = fourier(torch.tensor([0.5, 1.0]))
    assert found.shape == (18,)
    torch.testing.assert_close(found[:2], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found[2:6], torch.tensor([1.0, 0.0, 0.0, 0.0]), atol=1e-5, rtol=0)  # sines of x = 1/2
    torch.testing.assert_close(found[14:], torch.tensor([-1.0, 1.0, 1.0, 1.0]), atol=1e-5, rtol=0)  # cosines of y = 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x": 1.2}, "x of an object is 1.2; places are shares of the side, 0 to 1"),
        ({"y": -0.5}, "y of an object is -0.5"),
        ({"order": 12}, "12 objects are asked for; this model draws up to 5"),
    ],
)
def test_what_cannot_be_drawn(tokens, changed, said):
    with pytest.raises(UserError, match=said):
        tokens(objects(**changed))


def test_objects_of_a_batch():
    batch = {"shape": torch.tensor([[2, 1, 0]]), "color": torch.tensor([[3, 3, 0]]), "num_objects": torch.tensor([2])}
    batch |= {name: torch.tensor([[0.3, 0.4, 0.0]], dtype=torch.float64) for name in ("size", "x", "y")}
    found = Objects.of(batch)
    assert found.order.tolist() == [[1, 2, 0]]  # far to near
    assert found.present.tolist() == [[True, True, False]]
    assert found.x.dtype == torch.float32


def test_written_and_read(tokens, tmp_path):
    tokens.save(tmp_path / "objects")
    read = load_object_tokens(str(tmp_path))
    assert read.max_objects == 5
    torch.testing.assert_close(read(objects()), tokens(objects()), atol=5e-3, rtol=0)
    with pytest.raises(UserError, match="package:tiny_diffusion' has no tokens of objects"):
        load_object_tokens("package:tiny_diffusion")


def test_nobody(tokens):
    """A picture without objects: the background alone."""
    known = {name: torch.zeros(1, 0) for name in ("size", "x", "y")}
    known |= {name: torch.zeros(1, 0, dtype=torch.int64) for name in ("shape", "color", "order")}
    empty = Objects(present=torch.zeros(1, 0, dtype=torch.bool), **known)
    assert tokens.context(empty, torch.tensor([1])).shape == (1, 1, 16)
