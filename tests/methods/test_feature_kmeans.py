"""k-means on features: planted clusters, symmetries, a whole image, and what it refuses."""

import pytest
import torch
from tiny_models import save_vit

from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.evaluation.discovery import evaluate_discovery
from slotworks.methods.feature_kmeans import FeatureKMeansConfig, coordinates
from slotworks.types import UserError


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return ViTConfig(str(save_vit(tmp_path_factory.mktemp("vit"))), image_size=64, patch_size=16, feature_dim=32)


def test_planted_clusters(vit):
    torch.manual_seed(0)
    ids = torch.randint(3, (2, 16))
    features = torch.randn(3, 32)[ids] + 0.01 * torch.randn(2, 16, 32)
    labels = FeatureKMeansConfig(encoder=vit, num_slots=3).build().cluster(features)
    for found, planted in zip(labels, ids, strict=True):
        assert len({(int(f), int(p)) for f, p in zip(found, planted, strict=True)}) == 3


def test_slots_are_mean_features(vit):
    image = torch.rand(2, 3, 64, 64)
    method = FeatureKMeansConfig(encoder=vit, num_slots=5).build()
    torch.manual_seed(1)
    out = method.encode(image)
    features = ViTEncoder(vit)(image)
    for b in range(2):
        for n in range(5):
            members = out.attn[b, n] == 1
            torch.testing.assert_close(out.slots[b, n], features[b, members].mean(0), rtol=0, atol=1e-5)
    assert out.attn.sum(1).unique().tolist() == [1]
    assert out.grid == (4, 4)
    torch.manual_seed(1)
    assert torch.equal(method.encode(image).attn, out.attn)


def test_length_of_features_counts_only_without_normalize(vit):
    """Two directions, each short and long: two clusters are the directions, or the lengths."""
    direction = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.2]]), dim=1)
    features = (direction.repeat(2, 1) * torch.tensor([1.0, 1, 9, 9])[:, None]).unsqueeze(0)
    by_direction, by_length = (
        FeatureKMeansConfig(encoder=vit, num_slots=2, normalize=n).build().cluster(features)[0] for n in (True, False)
    )
    assert by_direction[0] == by_direction[2] != by_direction[1] == by_direction[3]
    assert by_length[0] == by_length[1] != by_length[2] == by_length[3]


def test_position_weight(vit):
    """Equal features everywhere: with coordinates, four clusters are the four quarters."""
    method = FeatureKMeansConfig(encoder=vit, num_slots=4, position_weight=1.0, restarts=16).build()
    maps = method.cluster(torch.ones(1, 16, 32)).view(4, 4)
    quarters = {tuple(maps[r : r + 2, c : c + 2].flatten().tolist()) for r in (0, 2) for c in (0, 2)}
    assert {len(set(q)) for q in quarters} == {1}
    assert len(quarters) == 4
    assert coordinates((2, 3), torch.zeros(1, 6, 1))[0].tolist() == [
        [-1, -1],
        [-1, 0],
        [-1, 1],
        [1, -1],
        [1, 0],
        [1, 1],
    ]


def test_evaluates_without_training(vit):
    """Nothing to train, nothing saved; discovery runs on it as it is."""
    method = FeatureKMeansConfig(encoder=vit, num_slots=3).build()

    class Images:
        def __len__(self):
            return 3

        def __getitems__(self, indices):
            import numpy as np

            rng = np.random.default_rng(list(indices))
            return {
                "image": rng.integers(0, 255, (len(indices), 64, 64, 3)).astype("uint8"),
                "mask": rng.integers(0, 3, (len(indices), 32, 32)).astype("int16"),
            }

    result = evaluate_discovery(method, Images(), protocol="oclf")
    assert result.protocol.name == "oclf[attention]"
    assert 0 < result.metrics["miou_i"].mean < 1
    assert method.state_dict() == {}
    assert method.param_groups() == {"all": []}
    with pytest.raises(UserError, match="trains nothing; measure it with `slotworks evaluate`"):
        method.loss({}, 0)


def test_smooth_masks_are_means_over_patches_and_across(vit):
    method = FeatureKMeansConfig(encoder=vit, num_slots=2).build()
    smooth = FeatureKMeansConfig(encoder=vit, num_slots=2, smooth=3).build()
    image = torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    hard = method.encode(image)
    torch.manual_seed(0)
    soft = smooth.encode(image)
    torch.testing.assert_close(soft.attn_maps[0, :, 1, 1], hard.attn_maps[0, :, :3, :3].mean((1, 2)))
    corner = torch.tensor([[4.0, 2, 0], [2, 1, 0], [0, 0, 0]]) / 9  # beyond the border the border goes on
    torch.testing.assert_close(soft.attn_maps[0, :, 0, 0], (hard.attn_maps[0, :, :3, :3] * corner).sum((1, 2)))
    assert torch.equal(soft.slots, hard.slots)
    with pytest.raises(ValueError, match="smooth is 2; give an odd number"):
        FeatureKMeansConfig(encoder=vit, smooth=2)
