"""A vision transformer small enough to be trained in a test, as a Hugging Face folder."""

import pytest

from slotworks.encoders import ViTConfig


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory) -> ViTConfig:
    """Four patches of 8 pixels a side, 12 channels, 3 blocks."""
    pytest.importorskip("transformers")
    from tiny_models import save_narrow_vit

    return ViTConfig(
        str(save_narrow_vit(tmp_path_factory.mktemp("tiny_vit"))), image_size=32, patch_size=8, feature_dim=12
    )
