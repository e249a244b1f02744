"""The small CLIP: its terms, and the folder that others read."""

import torch
import torch.nn.functional as F
import transformers

from slotworks.data.scenes import CaptionedScenes, PaintedScenes
from slotworks.data.scenes.shapes import COLORS
from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD, CLIPEncoder
from slotworks.encoders.text import captions_of
from slotworks.methods import TinyCLIPConfig
from slotworks.nn.contrastive import contrastive_loss
from slotworks.types import to_batch

SMALL = TinyCLIPConfig(
    words=("red", "circle", "star"),
    image_size=32,
    hidden_dim=16,
    num_layers=2,
    num_heads=2,
    text_dim=8,
    text_layers=1,
    text_heads=2,
    max_tokens=8,
    embed_dim=12,
)


def captions(*texts):
    width = max(map(len, texts))
    return torch.tensor([list(text.encode().ljust(width, b"\0")) for text in texts])


def test_terms_are_those_of_the_token_and_of_the_best_patch():
    torch.manual_seed(0)
    method = SMALL.build()
    image, texts = torch.rand(3, 3, 32, 32), ["red circle", "star", "circle"]
    terms = method.loss({"image": image, "caption": captions(*texts)}, 0)
    whole, patches, text = method.embed(image, texts)
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    found = method.clip.get_image_features((image - mean) / std).pooler_output
    torch.testing.assert_close(whole, found)
    for name, value in (("contrastive", whole), ("patches", patches.max(1).values)):
        expected = contrastive_loss(value, text, method.clip.logit_scale)
        torch.testing.assert_close(terms[name], expected)
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in method.parameters())


def test_the_folder_is_a_clip(tmp_path):
    """Embeddings of patches, images and texts as the method has them, but for float16."""
    torch.manual_seed(0)
    method = SMALL.build().eval()
    method.export(tmp_path)
    clip = CLIPEncoder(str(tmp_path / "clip"))
    image, texts = torch.rand(2, 3, 32, 32), ["red circle", "star of a"]
    with torch.no_grad():
        whole, patches, text = method.embed(image, texts)
    for found, expected in ((clip.whole(image), whole), (clip(image)[0], patches), (clip.text(texts, image), text)):
        torch.testing.assert_close(found, F.normalize(expected, dim=-1), rtol=0, atol=5e-3)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "clip")
    assert len(tokenizer("star circle red").input_ids) == 5


def test_what_comes_with_the_package_reads_captions_and_colours():
    """Captions of 64 test scenes, and colours of patches inside of objects, far above chance: 1.6 and 12.5 percent."""
    scenes = CaptionedScenes(PaintedScenes(max_objects=3), both_share=0.0, classes_share=0.0).open("test")
    batch = to_batch(scenes.__getitems__(range(64)))
    clip, image = CLIPEncoder("package:tiny_clip"), batch["image"]
    found = (clip.whole(image) @ clip.text(captions_of(batch), image).T).argmax(1)
    assert (found == torch.arange(64)).float().mean() > 0.8
    blocks = batch["mask"].unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).flatten(1, 2)  # b p 64
    owner = blocks.mode(2).values
    inside = (blocks == owner[..., None]).float().mean(2).gt(0.7) & (owner > 0)
    color = batch["color"].long().gather(1, (owner - 1).clamp(min=0))
    named = (clip(image)[0] @ clip.text(list(COLORS), image).T).argmax(2) + 1
    assert (named == color)[inside].float().mean() > 0.8
