"""A SAM 2 of 125,000 random weights as a Hugging Face folder: sees 128 x 128 pixels, answers in milliseconds."""

import json
from typing import Any

import torch


def save_tiny_sam2(folder, *, seed=0, video=False):
    """Save the image model, or the video model that holds it, as the official folders do. Returns the folder."""
    from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [128, 128],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1],
        "window_size_per_stage": [8, 4, 8, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [7, 7],
    }
    parts: Any = {
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": 32,
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 128, "patch_size": 16},
        "mask_decoder_config": {
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if video:
            memory: Any = {"memory_attention_hidden_size": 32, "memory_encoder_hidden_size": 32}
            network = Sam2VideoModel(Sam2VideoConfig(**parts, image_size=128, **memory))
        else:
            network = Sam2Model(Sam2Config(**parts))
        torch.manual_seed(seed)  # the parts that both models share get the same weights
        shared = ("vision_encoder", "prompt_encoder", "mask_decoder", "shared_image_embedding", "no_memory_embedding")
        for name, values in sorted(network.state_dict().items()):
            if not name.startswith(shared):
                continue
            if values.ndim == 1:
                values.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:  # so large that masks differ from prompt to prompt, which those of fresh weights hardly do
                values.normal_(std=0.4 if name.startswith("mask_decoder") else 0.3)
    network.save_pretrained(folder)
    return folder


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
