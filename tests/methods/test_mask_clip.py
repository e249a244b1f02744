"""MaskCLIP: the value path against CLIP's own modules, text, background, refinements."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny_models import save_clip

from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD, CLIPEncoder
from slotworks.methods.mask_clip import TEMPLATES, MaskCLIPConfig
from slotworks.types import UserError
from slotworks.vocabulary import COCO_CLASSES, VOC_CLASSES, as_words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return transformers.CLIPModel.from_pretrained(folder)


def config(folder, **options):
    names = {"class_names": ("cat", "dog", "red bus"), "templates": ("a {}.", "one {} here."), "background": "none"}
    return MaskCLIPConfig(model=str(folder), image_size=64, **{**names, **options})


def test_value_path_is_attention_of_every_token_to_itself(folder, clip):
    """With an attention matrix that is the identity, CLIP's own last block gives the same."""
    image = torch.rand(2, 3, 64, 80)
    patches, keys = CLIPEncoder(str(folder))(image)
    tower = clip.vision_model
    last = tower.encoder.layers[-1]
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))

    def to_itself(hidden_states, **kwargs):
        return last_attn.out_proj(last_attn.v_proj(hidden_states)), None

    last_attn = last.self_attn
    whole, last_attn.forward = last_attn.forward, to_itself
    caught = []
    handle = last_attn.k_proj.register_forward_hook(lambda module, args, output: caught.append(output))
    try:
        with torch.no_grad():
            out = tower((image - mean) / std, interpolate_pos_encoding=True)
            expected = clip.visual_projection(tower.post_layernorm(out.last_hidden_state[:, 1:]))
            last_attn.forward = whole
            tower((image - mean) / std, interpolate_pos_encoding=True)
    finally:
        last_attn.forward = whole
        handle.remove()
    torch.testing.assert_close(patches, F.normalize(expected, dim=2), rtol=0, atol=1e-5)
    torch.testing.assert_close(keys, caught[0][:, 1:], rtol=0, atol=1e-5)
    assert patches.shape == (2, 20, 24)


def test_classes_are_means_over_templates(folder, clip):
    method = config(folder).build()
    found = method.class_embeddings(torch.zeros(1))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    for name, embedding in zip(("cat", "dog", "red bus"), found, strict=True):
        parts = []
        for sentence in (f"a {name}.", f"one {name} here."):
            out = clip.get_text_features(**tokenizer(sentence, return_tensors="pt"))
            parts.append(F.normalize(getattr(out, "pooler_output", out), dim=1)[0])
        expected = F.normalize(torch.stack(parts).mean(0), dim=0)
        torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-5)


def test_attn_is_the_softmax_of_cosines(folder):
    method = config(folder).build()
    image = torch.rand(2, 3, 64, 80)
    out = method.encode(image)
    patches, _ = method.clip(image)
    expected = (100 * patches @ method.class_embeddings(image).T).softmax(2).mT
    torch.testing.assert_close(out.attn[:, 1:], expected, rtol=0, atol=1e-6)
    assert out.attn[:, 0].eq(0).all()
    assert out.grid == (4, 5)
    assert out.slots.shape == (2, 4, 24)
    assert out.slots[:, 0].eq(0).all()


def test_an_empty_name_is_an_empty_slot(folder):
    image = torch.rand(1, 3, 64, 64)
    full, gap = (
        config(folder, class_names=names, background="threshold").build().encode(image)
        for names in (("cat", "dog"), ("cat", "", "dog"))
    )
    assert gap.attn[:, 2].eq(0).all()
    torch.testing.assert_close(gap.attn[:, [0, 1, 3]], full.attn, rtol=0, atol=0)
    torch.testing.assert_close(gap.slots[:, [0, 1, 3]], full.slots, rtol=0, atol=0)


def test_threshold_of_the_background(folder):
    image = torch.rand(2, 3, 64, 64)
    certain = config(folder).build().encode(image).attn.amax(1)
    out = config(folder, background="threshold", threshold=0.8).build().encode(image)
    assert torch.equal(out.attn.argmax(1) == 0, certain < 0.8)
    assert 0 < (certain < 0.8).sum() < certain.numel()
    torch.testing.assert_close(out.attn.sum(1), torch.ones(2, 16), rtol=0, atol=1e-6)


def test_prompts_of_the_background(folder):
    """A position is background where a name of the background has the largest cosine."""
    image = torch.rand(2, 3, 64, 64)
    method = config(folder, background="prompts", background_names=("sky", "grass")).build()
    out = method.encode(image)
    patches, _ = method.clip(image)
    classes = method.class_embeddings(image)
    assert len(classes) == 5
    winner = (patches @ classes.T).argmax(2)
    expected = torch.where(winner < 3, winner + 1, 0)
    assert torch.equal(out.attn.argmax(1), expected)
    assert len(expected.unique()) > 1
    torch.testing.assert_close(out.slots[0, 0], classes[3:].mean(0))


def test_refinements(folder):
    image = torch.rand(1, 3, 64, 64)
    plain = config(folder).build()
    probs, keys = plain.encode(image).attn[:, 1:].mT, plain.clip(image)[1]
    certain = probs.amax(1)[0]
    limit = certain.sort().values[:2].mean().item()  # one class is dropped
    denoised = config(folder, prompt_denoising=limit).build().encode(image).attn[:, 1:].mT
    kept = certain >= limit
    assert kept.sum() == 2
    expected = probs * kept / (probs * kept).sum(2, keepdim=True)
    torch.testing.assert_close(denoised, expected, rtol=0, atol=1e-6)
    assert config(folder, prompt_denoising=2.0).build().encode(image).attn.isfinite().all()
    smooth = config(folder, key_smoothing=0.9).build().encode(image).attn[:, 1:].mT
    k = F.normalize(keys[0], dim=1)
    for p in range(16):
        if probs[0, p].max() >= 0.9:
            want = probs[0, p]
        else:
            want = sum(max(0.0, float(k[p] @ k[q])) * probs[0, q] for q in range(16))
            want = want / want.sum()
        torch.testing.assert_close(smooth[0, p], want, rtol=0, atol=1e-5)


def test_names_and_sentences():
    assert len(VOC_CLASSES) == 20
    assert [as_words(VOC_CLASSES)[i] for i in (0, 14, 19)] == ["aeroplane", "person", "television monitor"]
    assert len(COCO_CLASSES) == 90
    assert sum(map(bool, COCO_CLASSES)) == len(set(COCO_CLASSES) - {""}) == 80
    gaps = [i for i, name in enumerate(COCO_CLASSES, 1) if not name]
    assert gaps == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert [COCO_CLASSES[i - 1] for i in (1, 18, 62, 88, 90)] == ["person", "dog", "chair", "teddy bear", "toothbrush"]
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 80
    assert MaskCLIPConfig().num_slots == 21


def test_mistakes(folder, tmp_path):
    with pytest.raises(ValueError, match=r"templates a sentence with \{\}"):
        MaskCLIPConfig(templates=("a cat",))
    with pytest.raises(ValueError, match="background_names is empty"):
        MaskCLIPConfig(background_names=())
    with pytest.raises(UserError, match="MaskCLIP trains nothing"):
        config(folder).build().loss({}, 0)
    with pytest.raises(ValueError, match=r"50x64 pixels, but .* patches of 16x16"):
        CLIPEncoder(str(folder))(torch.zeros(1, 3, 50, 64))
    with pytest.raises(UserError, match=r"could not be loaded \(.*\); check the name"):
        CLIPEncoder(str(tmp_path))(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match=r"There is no folder '\./nowhere'"):
        CLIPEncoder("./nowhere")(torch.zeros(1, 3, 64, 64))
