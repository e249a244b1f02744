"""Networks of a few kilobytes with random weights, saved as Hugging Face folders: what frozen parts are tested with."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers


def loud(model: torch.nn.Module) -> torch.nn.Module:
    """Larger random weights: fresh ones make attention nearly uniform and norms nearly the identity."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save_tokenizer(folder: Path) -> int:
    """CLIP's tokenizer with single bytes as its words; gives the number of words."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    letters = list("abcdefghijklmnopqrstuvwxyz ,.")
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77).save_pretrained(folder)
    return len(words)


def save_vit(folder: Path, *, seed: int = 0) -> Path:
    """A ViT like DINO's: patches of 16 pixels, 3 blocks, 32 wide."""
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, image_size=64, patch_size=16
    )
    loud(transformers.ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    return folder


def save_narrow_vit(folder: Path, *, seed: int = 0) -> Path:
    """A ViT of four patches of 8 pixels a side, 12 channels, 3 blocks: small enough to be trained in a test."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, initializer_range=0.5, **sizes)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def save_clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP: patches of 16 pixels, 3 blocks, 32 wide, joint space of 24."""
    torch.manual_seed(seed)
    words = save_tokenizer(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    text = size | {"vocab_size": words, "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=size | {"image_size": 64, "patch_size": 16}, projection_dim=24
    )
    loud(transformers.CLIPModel(config)).save_pretrained(folder)
    return folder


def save_blip2(folder: Path, words: Sequence[str], *, seed: int = 0) -> Path:
    """A BLIP-2 of 73,000 random weights, for images of 32 pixels, that says nothing but these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = ["<pad>", "<s>", "</s>", "<unk>", *words]
    tokens = Tokenizer(models.WordLevel({word: k for k, word in enumerate(known)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **special)
    pictures = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.Blip2Processor(pictures, tokenizer, num_query_tokens=4).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.Blip2Config(
        vision_config={**size, "image_size": 32, "patch_size": 8},
        qformer_config={**size, "encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": 100},
        text_config={
            "model_type": "opt",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "ffn_dim": 32,
            "vocab_size": max(100, len(known) + 1),
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        num_query_tokens=4,
        image_token_index=len(known),
    )
    torch.manual_seed(seed)
    transformers.Blip2ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_dinov2(folder: Path, *, seed: int = 0) -> Path:
    """A DINOv2: patches of 14 pixels, 2 blocks, 32 wide."""
    torch.manual_seed(seed)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    loud(transformers.Dinov2Model(config)).save_pretrained(folder)
    return folder


def save_diffusion(folder: Path, *, seed: int = 0, prediction: str = "epsilon", double: bool = False) -> Path:
    """A Stable Diffusion: latents of 1/8, attention on two of three levels; `double`: with SDXL's two texts."""
    import diffusers

    torch.manual_seed(seed)
    text_classes = [transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection][: 2 if double else 1]
    for number, text_class in enumerate(text_classes):
        suffix = "_2" if number else ""
        words = save_tokenizer(folder / f"tokenizer{suffix}")
        config = transformers.CLIPTextConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            vocab_size=words,
            bos_token_id=words - 2,
            eos_token_id=words - 1,
            pad_token_id=words - 1,
            projection_dim=24,
        )
        loud(text_class(config)).save_pretrained(folder / f"text_encoder{suffix}")
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    }
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        cross_attention_dim=64 if double else 32,
        attention_head_dim=(2, 2, 4),
        norm_num_groups=8,
        use_linear_projection=True,
        **(added if double else {}),
    )
    unet.save_pretrained(folder / "unet")
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
    )
    vae.save_pretrained(folder / "vae")
    diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    ).save_pretrained(folder / "scheduler")
    return folder
