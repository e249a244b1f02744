"""Random changes of images and labels: both move together, colours against the standard library, shares of classes."""

import colorsys

import pytest
import torch

from slotworks.nn import augment
from slotworks.nn.augment import distort_colors, erase, random_crops, splice, to_hsv, to_rgb

FILL = torch.tensor([0.2, 0.4, 0.6])


def draws_of(monkeypatch, values):
    """The next random numbers are these."""
    monkeypatch.setattr(augment, "batch_uniform", lambda shape, device: torch.as_tensor(values).expand(*shape))


def squares(side=16):
    """Sixteen squares of four pixels, each of its own label and of a colour that says which."""
    labels = torch.arange(16).reshape(4, 4).repeat_interleave(side // 4, 0).repeat_interleave(side // 4, 1)[None]
    return (labels / 16).float()[:, None].repeat(1, 3, 1, 1), labels


@pytest.mark.parametrize("mirrored", [False, True])
def test_twice_the_size_by_hand(monkeypatch, mirrored):
    """A window at row 4, column 8 of 32 x 32 pixels, of which each square has eight."""
    image, labels = squares()
    draws_of(monkeypatch, [1.0, 0.25 if mirrored else 0.75, *[4.5 / 17, 8.5 / 17] * 11])
    moved, found = random_crops(image, labels, scales=(0.5, 2.0), max_share=1.0, ignore=255, fill=FILL)
    large = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    window = large[:, 4:20, 8:24]
    assert torch.equal(found, window.flip(2) if mirrored else window)
    middle = found.eq(torch.roll(found, 1, 2)) & found.eq(torch.roll(found, -1, 2))
    middle &= found.eq(torch.roll(found, 1, 1)) & found.eq(torch.roll(found, -1, 1))  # where nothing is interpolated
    assert middle.sum() > 100
    torch.testing.assert_close(moved[:, 0][middle], found[middle] / 16, rtol=0, atol=1e-6)


def test_half_the_size_by_hand(monkeypatch):
    """What is beyond a smaller image has no label and the colour that was given."""
    image, labels = squares()
    draws_of(monkeypatch, [0.0, 0.75, *[0.5] * 22])
    moved, found = random_crops(image, labels, scales=(0.5, 2.0), max_share=1.0, ignore=255, fill=FILL)
    assert torch.equal(found[:, :8, :8], labels[:, 1::2, 1::2])
    assert found[:, 8:].eq(255).all()
    assert found[:, :8, 8:].eq(255).all()
    assert torch.equal(moved[0, :, 12, 3], FILL)
    assert torch.equal(moved[0, :, 3, 12], FILL)
    torch.testing.assert_close(moved[:, 0, :8, :8], image[:, 0, ::2, ::2], rtol=0, atol=1e-6)


def test_labels_of_another_size_end_at_the_images(monkeypatch):
    image, labels = squares()
    draws_of(monkeypatch, [1 / 3, 0.75, *[0.5] * 22])  # factor 1
    large = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    moved, found = random_crops(image, large, scales=(0.5, 2.0), max_share=1.0, ignore=255, fill=FILL)
    torch.testing.assert_close(moved, image, rtol=0, atol=1e-6)
    assert torch.equal(found, labels)


def test_a_window_of_one_class_is_drawn_again():
    """Class 1 is a corner of an eighth of the side; of ten windows of a quarter the first that shows two is taken."""
    torch.manual_seed(0)
    labels = torch.zeros(64, 32, 32, dtype=torch.int64)
    labels[:, 8:24, 8:24] = 1
    labels[:, :, 16:] = labels[:, :, 16:].where(labels[:, :, 16:] == 1, 255)
    how = {"scales": (2.0, 2.0), "ignore": 255, "fill": FILL}

    def bad(found):
        shares = [[(one == k).sum().item() for k in (0, 1)] for one in found]
        return sum(min(counts) == 0 or max(counts) / sum(counts) >= 0.75 for counts in shares)

    image = torch.zeros(64, 3, 32, 32)
    plain = bad(random_crops(image, labels, max_share=1.0, **how)[1])
    chosen = bad(random_crops(image, labels, max_share=0.75, **how)[1])
    assert plain > 20
    assert chosen < 5


def test_images_put_together_of_four_by_hand(monkeypatch):
    """Of images 2, 0, 1 and 2, each of one colour and label but for a corner; a side of 1 leaves the batch as it is."""
    image = torch.arange(3.0)[:, None, None, None].expand(-1, 3, 6, 4).clone()
    labels = torch.arange(3)[:, None, None].repeat(1, 12, 8)
    labels[2, :6, :4] = 9
    which = torch.tensor([2, 0, 1, 2])
    draws_of(monkeypatch, [0.6, *((which + 0.5) / 3).tolist()])
    out, found = splice(image, labels, (1, 2))
    expected = torch.tensor([[2, 0], [1, 2]]).repeat_interleave(3, 0).repeat_interleave(2, 1)
    assert torch.equal(out, expected.float().expand(3, 3, -1, -1))
    wanted = torch.tensor([[2, 0], [1, 2]]).repeat_interleave(6, 0).repeat_interleave(4, 1)
    wanted[:3, :2] = wanted[6:9, 4:6] = 9
    assert torch.equal(found, wanted.expand(3, -1, -1))
    draws_of(monkeypatch, [0.4, 0, 0, 0, 0])
    out, found = splice(image, labels, (1, 2))
    assert torch.equal(out, image)
    assert torch.equal(found, labels)


def test_three_a_side_are_cut_where_they_do_not_fit(monkeypatch):
    """Eight pixels are three, three and two."""
    image = torch.arange(2.0)[:, None, None, None].expand(-1, 3, 8, 8)
    which = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0])
    draws_of(monkeypatch, [0.0, *((which + 0.5) / 2).tolist()])
    out, _ = splice(image, torch.zeros(2, 8, 8, dtype=torch.int64), (3,))
    expected = which.view(3, 3).repeat_interleave(3, 0).repeat_interleave(3, 1)[:8, :8]
    assert torch.equal(out, expected.float().expand(2, 3, -1, -1))


def test_hue_saturation_and_value_are_those_of_the_standard_library():
    torch.manual_seed(0)
    image = torch.cat([torch.rand(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.3), torch.zeros(1, 3, 8, 8)])
    found = to_hsv(image)
    for b, y, x in [(0, 0, 0), (0, 3, 5), (0, 7, 7), (1, 2, 2), (2, 4, 4), *((0, y, 1) for y in range(8))]:
        expected = colorsys.rgb_to_hsv(*image[b, :, y, x].tolist())
        assert found[b, :, y, x].tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(to_rgb(found), image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("early", [True, False])
def test_colours_by_hand(monkeypatch, early):
    """Brightness 16 of 255 more, contrast 1.25, saturation 0.75 and hue 18 degrees less."""
    pixel = (0.5, 0.25, 0.125)
    does = [0.25] * 4
    draws_of(monkeypatch, [*does, 0.25 if early else 0.75, 0.75, 0.75, 0.25, 0.25])
    found = distort_colors(torch.tensor(pixel)[None, :, None, None])[0, :, 0, 0].tolist()
    value = [v + 16 / 255 for v in pixel]
    if early:
        value = [1.25 * v for v in value]
    h, s, v = colorsys.rgb_to_hsv(*value)
    value = list(colorsys.hsv_to_rgb((h - 0.05) % 1, 0.75 * s, v))
    if not early:
        value = [1.25 * v for v in value]
    assert found == pytest.approx(value, abs=1e-6)


def test_each_change_happens_to_half_of_the_images():
    torch.manual_seed(0)
    image = torch.full((2_000, 3, 1, 1), 0.5)  # grey: saturation and hue change nothing
    same = (distort_colors(image) - image).abs().amax((1, 2, 3)) < 1e-6
    assert 0.22 < same.float().mean() < 0.28  # neither brightness nor contrast
    assert distort_colors(torch.rand(200, 3, 4, 4)).amax() <= 1


def test_a_rectangle_of_noise():
    """A quarter of the images; areas of 2 to 33 %, one rectangle each, noise of the mean and deviation asked for."""
    torch.manual_seed(0)
    image = torch.full((400, 3, 32, 48), 0.5)
    found = erase(image, 0.25, mean=(0.1, 0.5, 0.9), std=(0.1, 0.2, 0.3))
    changed = (found != image).any(1)
    some = changed.flatten(1).any(1)
    assert 0.18 < some.float().mean() < 0.32
    areas = changed[some].flatten(1).float().mean(1)
    assert 0.01 < areas.min() < 0.05
    assert 0.25 < areas.max() < 0.36
    sides = [changed[some].any(axis).sum(1) for axis in (1, 2)]
    assert torch.equal(sides[0] * sides[1], changed[some].flatten(1).sum(1))  # it is a rectangle
    noise = found.movedim(1, -1)[changed]
    torch.testing.assert_close(noise.mean(0), torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.01)
    torch.testing.assert_close(noise.std(0), torch.tensor([0.1, 0.2, 0.3]), rtol=0, atol=0.01)
