import pytest
import torch

from slotworks.synthesis.refine import class_maps, refine, to_labels


def attention(side, seed=0):
    return torch.randn(2, side**2, side**2, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(-1)


@pytest.mark.parametrize("power", [0, 1, 4])
def test_products_equal_the_matrix_power(power):
    maps, own = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), attention(8)
    wanted = torch.linalg.matrix_power(own.double(), power) @ maps.double().flatten(2).mT
    found = refine(maps, own, power)
    torch.testing.assert_close(found.double(), wanted.mT.unflatten(2, (8, 8)), rtol=0, atol=1e-6)


def test_smaller_maps_are_enlarged_first():
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(maps, (8, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(refine(maps, attention(8)), refine(large, attention(8)))


def test_uniform_attention_leaves_no_contrast_and_so_no_object():
    flat = refine(torch.rand(1, 1, 4, 4), torch.full((1, 16, 16), 1 / 16))
    assert (flat - flat[0, 0, 0, 0]).abs().max() < 1e-6
    constant = torch.full((1, 1, 4, 4), 0.7)
    assert to_labels(constant, torch.tensor([[5]]), (4, 4)).eq(0).all()


def test_class_maps_are_means_over_a_class_tokens():
    cross = torch.arange(5.0).view(1, 5, 1, 1).expand(2, 5, 2, 2)
    maps = class_maps(cross, [[(1, 2), (4,)], [range(5)]])
    assert maps[:, :, 0, 0].tolist() == [[1.5, 4.0], [2.0, 0.0]]
    groups = torch.stack([cross, 10 * cross], 1)
    assert class_maps(groups, [[(1, 2), (4,)], [range(5)]])[:, :, 1, 1].tolist() == [[1.5, 40.0], [2.0, 0.0]]


def test_thresholds_by_hand():
    scores = torch.tensor([[0.0, 0.39, 0.4, 0.5], [0.6, 0.61, 0.9, 1.0]])
    other = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.95, 0.0]])
    maps, ids = torch.stack([scores, other])[None], torch.tensor([[18, 3]])
    assert to_labels(maps, ids, (2, 4)).tolist() == [[[3, 0, 255, 255], [255, 18, 3, 18]]]
    assert to_labels(maps, ids, (2, 4), low=0.5).tolist() == [[[3, 0, 0, 255], [255, 18, 3, 18]]]  # Dataset Diffusion's
    # only the order and the range of a map count
    assert to_labels(7 + 3 * maps, ids, (2, 4), low=0.45, high=0.55).tolist() == [[[3, 0, 0, 255], [18, 18, 3, 18]]]


def test_a_map_that_is_no_class_counts_for_nothing():
    maps = torch.tensor([[[[0.0, 1.0]], [[9.0, 0.0]]]])
    assert to_labels(maps, torch.tensor([[7, 0]]), (1, 2)).tolist() == [[[0, 7]]]


def test_permuting_classes_permutes_labels():
    maps = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    ids, order = torch.tensor([[1, 2, 3, 4]] * 2), torch.tensor([2, 0, 3, 1])
    labels = to_labels(refine(maps, attention(8)), ids, (32, 32))
    again = to_labels(refine(maps[:, order], attention(8)), ids[:, order], (32, 32))
    assert torch.equal(labels, again)
    renamed = to_labels(refine(maps[:, order], attention(8)), ids, (32, 32)).long()
    table = torch.full((256,), 255)
    table[0] = 0
    table[order + 1] = torch.arange(1, 5)
    assert torch.equal(table[labels.long()], renamed)
    assert labels.unique().numel() > 3


def test_a_blob_comes_back_where_nothing_is_refined():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    blob = torch.exp(-((y - 6) ** 2 + (x - 9) ** 2) / 18)[None, None]
    labels = to_labels(refine(blob, torch.eye(256)[None]), torch.tensor([[42]]), (16, 16))[0]
    scaled = (blob[0, 0] - blob.min()) / (blob.max() - blob.min())
    assert torch.equal(labels == 42, scaled > 0.6)
    assert torch.equal(labels == 255, (scaled >= 0.4) & (scaled <= 0.6))
    assert labels.dtype == torch.uint8
