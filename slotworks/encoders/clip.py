"""CLIP from `transformers`: embeddings of text, of images, and of every patch by the value path of MaskCLIP."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.pretrained import load_part
from slotworks.errors import needs_extra
from slotworks.nn.resize import resize

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def value_path(
    clip: Any, image: Float[Tensor, "b 3 h w"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b p d"], Float[Tensor, "b p c"]]:
    """Embeddings of normalised images, of their patches by the value path, and keys of the last block of a `CLIPModel`.

    Along the value path the last block attends to nothing: every token gets its own value, then the residual, the MLP,
    the final LayerNorm and CLIP's projection. Row major, without the CLS token, not of length 1.
    """
    tower = getattr(clip.vision_model, "vision_model", clip.vision_model)  # nested in some versions
    out = tower(image, interpolate_pos_encoding=True, output_hidden_states=True)
    x, last = out.hidden_states[-2], tower.encoder.layers[-1]
    inputs = last.layer_norm1(x)
    x = x + last.self_attn.out_proj(last.self_attn.v_proj(inputs))
    x = x + last.mlp(last.layer_norm2(x))
    patches = clip.visual_projection(tower.post_layernorm(x[:, 1:]))
    return clip.visual_projection(out.pooler_output), patches, last.self_attn.k_proj(inputs[:, 1:])


class CLIPEncoder(nn.Module):
    """A frozen CLIP with a ViT image tower, loaded when it is first used; it follows the images to their device.

    Its weights are no parameters of the method and are not saved.

    Args:
        model: hub id or folder.
    """

    def __init__(self, model: str = "openai/clip-vit-base-patch16"):
        super().__init__()
        self.model = model
        self._loaded: tuple[Any, Any] | None = None  # in a tuple, it is no submodule

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b p d"], Float[Tensor, "b p c"]]:
        """Embeddings of patches in the space of text, and the keys of the last block (Zhou et al. 2022, section 3.2).

        The last block attends to nothing: every token gets its own value, then the residual, the MLP, the final
        LayerNorm and CLIP's projection. Length 1, row major, without the CLS token.

        Args:
            image: in [0, 1], any size that is a multiple of the patch; position embeddings are interpolated.
        """
        clip, _ = self._ready(image)
        patch = clip.config.vision_config.patch_size
        height, width = image.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(
                f"The image has {height}x{width} pixels, but {self.model} sees patches of {patch}x{patch}; resize it "
                f"to a multiple of {patch}."
            )
        mean, std = (image.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        with torch.no_grad():
            _, patches, keys = value_path(clip, (image - mean) / std)
            return F.normalize(patches, dim=2), keys

    def whole(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embeddings of whole images in [0, 1], length 1, seen at the size that CLIP was trained on."""
        clip, _ = self._ready(image)
        small = resize(image, clip.config.vision_config.image_size)
        mean, std = (image.new_tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        with torch.no_grad():
            out = clip.get_image_features((small - mean) / std)
            return F.normalize(getattr(out, "pooler_output", out), dim=1)

    def text(self, prompts: Sequence[str], like: Tensor) -> Float[Tensor, "m d"]:
        """Embeddings of texts, length 1, on the device and in the precision of `like`."""
        clip, tokenizer = self._ready(like)
        found = []
        with torch.no_grad():
            for start in range(0, len(prompts), 256):
                tokens = tokenizer(
                    list(prompts[start : start + 256]), padding=True, truncation=True, return_tensors="pt"
                )
                tokens = {key: value.to(like.device) for key, value in tokens.items()}
                out = clip.get_text_features(**tokens)
                found.append(F.normalize(getattr(out, "pooler_output", out), dim=1))
        return torch.cat(found)

    def _ready(self, like: Tensor) -> tuple[Any, Any]:
        if self._loaded is None:
            with needs_extra("vision"):
                from transformers import CLIPModel, CLIPTokenizer
            clip = load_part(CLIPModel.from_pretrained, self.model, dtype=torch.float32)
            self._loaded = clip, load_part(CLIPTokenizer.from_pretrained, self.model)
        if next(self._loaded[0].parameters()).device != like.device:
            self._loaded[0].to(like.device)
        return self._loaded
