"""A vision transformer small enough to be trained in a test, as a Hugging Face folder."""

import pytest
import torch

from slotworks.encoders import ViTConfig


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory) -> ViTConfig:
    """Four patches of 8 pixels a side, 12 channels, 3 blocks."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny_vit")
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, initializer_range=0.5, **sizes)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return ViTConfig(str(folder), image_size=32, patch_size=8, feature_dim=12)
