"""Deep Spectral Methods: block affinities, border, boxes, descriptions, and the semantic evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_models import save_vit

from slotworks.encoders import ViTConfig
from slotworks.evaluation.semantic import Describes, Refines, evaluate_semantic
from slotworks.methods.deep_spectral import DeepSpectralConfig, background_first, color_affinity, feature_affinity
from slotworks.types import SlotOutput, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def config(folder):
    encoder = ViTConfig(str(folder), image_size=64, patch_size=16, feature_dim=32, features="keys")
    return DeepSpectralConfig(encoder=encoder, num_slots=3, num_eigenvectors=3, erode=0, dilate=0)


def planted(method, features):
    """The method sees these features instead of those of its network."""

    class Planted(torch.nn.Module):
        def forward(self, image):
            return features

        def grid(self, height, width):
            return height // 16, width // 16

    method.encoder = Planted()
    return method


def test_blocks_are_found_and_the_border_is_background(config):
    """Three orthogonal features: the frame, and two pairs inside."""
    ids = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 0], [0, 1, 2, 0], [0, 0, 0, 0]])
    features = (torch.eye(3)[ids.flatten()] * torch.rand(16, 1).add(0.5)).unsqueeze(0)
    out = planted(config.build(), features).encode(torch.zeros(1, 3, 64, 64))
    found = out.attn_maps[0].argmax(0)
    assert torch.equal(found == 0, ids == 0)
    assert len(found[ids == 1].unique()) == len(found[ids == 2].unique()) == 1
    assert found[1, 1] != found[1, 2]


def test_affinity():
    f = torch.tensor([[[1.0, 0], [2, 0], [0, 3], [-1, 0], [1, 1]]])
    s = 0.5**0.5
    expected = [[1, 1, 0, 0, s], [1, 1, 0, 0, s], [0, 0, 1, 0, s], [0, 0, 0, 1, 0], [s, s, s, 0, 1]]
    torch.testing.assert_close(feature_affinity(f), torch.tensor([expected]), rtol=0, atol=1e-6)


def test_color_affinity_by_a_loop():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 6, 6)
    w = color_affinity(image, (6, 6))[0]
    expected = np.zeros((36, 36))
    pixels = image[0].flatten(1).T.double().numpy()
    for neighbours, weight in ((20, 2.0), (10, 0.1)):
        place = np.array([[r, c] for r in np.linspace(0, 1, 6) for c in np.linspace(0, 1, 6)])
        points = np.concatenate([pixels, weight * place], 1)
        for i in range(36):
            for j in np.argsort(((points - points[i]) ** 2).sum(1))[:neighbours]:
                expected[i, j] += 1
                expected[j, i] += 1
    assert np.array_equal(w.numpy(), expected)


def test_clusters_are_refined_at_the_size_of_the_image(config):
    """A patch of 16 pixels covers the border of a dark square by half; the CRF moves the cluster to the square."""
    image = torch.full((1, 3, 64, 64), 0.8)
    image[:, :, 16:40, 16:40] = 0.1
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[:, 1:3, 1:3] = 2
    method = replace(config, crf_iterations=5).build()
    assert isinstance(method, Refines)
    assert method.refines
    assert not config.build().refines
    found = method.refine(labels, image, 5)
    assert torch.equal(found == 2, image[:, 0] < 0.5)
    assert set(found.unique().tolist()) == {0, 2}


def test_refined_clusters_are_scored(config):
    """Planted squares of 24 pixels in blocks of 32, an IoU of 24^2 / 32^2 if enlarging did not round the corners; the
    refined ones are right to the pixel."""

    class Data:
        mask = np.zeros((3, 64, 64), np.uint8)
        mask[:, 16:40, 16:40] = 1

        def __len__(self):
            return 3

        def __getitems__(self, indices):
            image = np.where(self.mask == 1, 25, 204).astype(np.uint8)[list(indices)]
            return {"image": image[..., None].repeat(3, 3), "class_mask": self.mask[list(indices)]}

    ids = torch.zeros(4, 4, dtype=torch.int64)
    ids[1:3, 1:3] = 1
    features = torch.eye(3)[ids.flatten()].expand(3, -1, -1)
    ious = {}
    for iterations in (0, 5):
        method = planted(replace(config, num_slots=2, crf_iterations=iterations).build(), features)
        method.describe = lambda image, output: torch.tensor([[float("nan")] * 2, [1.0, 0.0]]).expand(3, 2, 2)
        found = evaluate_semantic(method, Data(), class_names=("dark",), batch_size=3)
        ious[iterations] = found.iou.tolist()
        assert ("clusters refined in each image" in found.rules) == (iterations > 0)
    assert ious[5] == [1.0, 1.0]
    assert 24**2 / 32**2 < ious[0][1] < 0.6


def test_border():
    """Segment 2 has nine border positions, corners twice; it trades numbers with 0."""
    labels = torch.tensor([[2, 2, 2, 0, 1, 2, 0, 1, 2]])
    assert background_first(labels, (3, 3)).tolist() == [[0, 0, 0, 2, 1, 0, 2, 1, 0]]
    both = torch.cat([labels, torch.tensor([[0, 0, 0, 0, 1, 0, 0, 0, 0]])])
    assert background_first(both, (3, 3))[1].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_boxes(config):
    mask = np.zeros((9, 9), bool)
    mask[2:7, 3:6] = True
    mask[0, 8] = True
    box = lambda erode, dilate: replace(config, erode=erode, dilate=dilate).build().box(mask)  # noqa: E731
    assert box(0, 0) == (0, 3, 7, 9)
    assert box(1, 0) == (3, 4, 6, 5)  # the single position goes, the block shrinks by one all round
    assert box(5, 0) == (3, 4, 6, 5)  # a second time would leave nothing
    assert box(1, 2) == (1, 2, 8, 7)
    edge = np.zeros((4, 4), bool)
    edge[:2] = True
    assert replace(config, erode=1, dilate=0).build().box(edge) == (0, 0, 1, 4)  # outside counts as part of the mask


def test_describe_is_the_cls_feature_of_the_crop(config, folder):
    image = torch.rand(2, 3, 64, 64)
    ids = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3 + [[2, 2, 2, 2]]])
    attn = F.one_hot(ids.flatten(1), 3).mT.float()
    out = SlotOutput(torch.zeros(2, 3, 32), attn, grid=(4, 4))
    method = config.build()
    assert isinstance(method, Describes)
    found = method.describe(image, out)
    assert found.isnan().all(2).tolist() == [[True, False, True], [True, True, False]]
    network = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        for b, n, crop in ((0, 1, image[:1, :, 16:48, 16:48]), (1, 2, image[1:, :, 48:, :])):
            cls = network((crop - mean) / std, interpolate_pos_encoding=True).last_hidden_state[0, 0]
            torch.testing.assert_close(found[b, n], F.normalize(cls, dim=0), rtol=0, atol=1e-5)


def test_semantic_evaluation(config):
    """Runs through both steps; same seed, same numbers; nothing is trained."""

    class Data:
        def __len__(self):
            return 4

        def __getitems__(self, indices):
            rng = np.random.default_rng(0)
            image = rng.integers(0, 255, (4, 64, 64, 3)).astype("uint8")[list(indices)]
            return {"image": image, "class_mask": rng.integers(0, 3, (4, 32, 32)).astype("uint8")[list(indices)]}

    method = config.build()
    runs = [evaluate_semantic(method, Data(), class_names=("a", "b"), batch_size=2, seed=1) for _ in range(2)]
    assert "clusters" in runs[0].rules
    assert runs[0].miou == runs[1].miou
    assert 0 < runs[0].miou < 1
    with pytest.raises(UserError, match="DeepSpectral trains nothing"):
        method.loss({}, 0)
