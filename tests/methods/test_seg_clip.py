"""SegCLIP against the original's modules: groups, losses, classes of groups, and the published layout."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from published import drawn_by_name, names_and_outputs, noise_of
from tiny_models import save_tokenizer

from slotworks import api
from slotworks.configs.seg_clip import painted_mini
from slotworks.convert import Options, convert
from slotworks.encoders.clip import CLIPEncoder
from slotworks.encoders.text import TextConfig, TextEncoder
from slotworks.methods import SegCLIPConfig
from slotworks.methods.seg_clip import superpixel_loss
from slotworks.nn.noise import noise_from
from slotworks.types import UserError

TEXT = TextConfig("clip", "", ("red", "a"), 0, 16, 1, 2, 32, embed_dim=12, max_tokens=16)
SMALL = SegCLIPConfig(
    model="",
    text=TEXT,
    image_size=32,
    patch_size=8,
    hidden_dim=16,
    num_layers=3,
    num_heads=2,
    first_layers=2,
    num_groups=3,
    center_layers=1,
    decoder_layers=1,
    decoder_heads=2,
    class_names=("red", "", "blue"),
    map_size=32,
    superpixel_scale=32,
)


def captions(*texts):
    width = max(map(len, texts))
    return torch.tensor([list(text.encode().ljust(width, b"\0")) for text in texts])


def original():
    """A state dict with the names and shapes of `segclip.bin`, drawn by name, and what the original gave."""
    shapes, outputs = names_and_outputs("seg_clip", "segclip")
    return {name: drawn_by_name(name, shape) for name, shape in shapes.items()}, outputs


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The run that becomes of a checkpoint of that layout, in double precision."""
    folder = tmp_path_factory.mktemp("seg_clip")
    save_tokenizer(folder / "words")
    state, outputs = original()
    torch.save({name: value.float() for name, value in state.items()}, folder / "segclip.bin")
    made = convert(folder / "segclip.bin", Options(folder / "run", encoder=str(folder / "words")))
    assert made.family == "seg_clip"
    _, method = api.load(folder / "run", device="cpu")
    return method.double().eval(), outputs


def close(found, wanted, atol=1e-5):
    torch.testing.assert_close(found.float(), wanted.float(), rtol=0, atol=atol)


def test_groups_are_the_originals(converted):
    """Twelve blocks of 128, two late ones, five centres; each image is seen alone, as in the original's evaluation."""
    method, outputs = converted
    image = noise_of("image", (2, 3, 32, 32)) * method.std.double() + method.mean.double()
    with torch.no_grad():
        groups, whole, hard, soft = method.groups(method.patches(image))
        ids = torch.tensor([[38, 5, 7, 9, 39] + [0] * 11, [38, 11, 39] + [0] * 13])
        text = method.text(ids, ids > 0)[1]
    close(whole, outputs["whole"])
    close(groups, outputs["groups"])
    close(soft, outputs["soft"])
    assert torch.equal(hard.round(), outputs["hard"].double().round())
    assert (outputs["hard"].sum(2) > 0).sum() > 2
    close(text, outputs["text"])


def test_losses_and_gradients_are_the_originals(converted):
    method, outputs = converted
    image = noise_of("image", (2, 3, 32, 32)) * method.std.double() + method.mean.double()
    method.zero_grad()
    patches = method.patches(image)
    hard = method.groups(patches)[2]
    superpixel = superpixel_loss(hard, outputs["superpixels"].long())
    with noise_from(lambda draw, shape: outputs["noise"][:, 1:].double()):
        recon = method._painted(image, patches)
    close(superpixel, outputs["superpixel"])
    close(recon, outputs["recon"])
    (superpixel + recon).backward()
    close(method.grouping.centers.grad, outputs["grad_centers"])
    close(method.grouping.to_k.weight.grad.flatten()[:64], outputs["grad_keys"])
    close(method.spread.weight.grad, outputs["grad_spread"])
    assert outputs["grad_centers"].abs().max() > 1e-3


def test_superpixels_ask_for_one_group():
    """Nothing to ask where all patches of a superpixel have one group; with a number in closed form where not."""
    hard = F.one_hot(torch.tensor([[0, 0, 1, 1]]), 2).mT.double()
    assert superpixel_loss(hard, torch.tensor([[5, 5, 9, 9]])) == 0
    whole = torch.tensor([[1.0, 0], [0, 1]]).double().softmax(1)
    mean = torch.tensor([0.5, 0.5]).double()
    one = (mean * (mean / whole[0]).log()).sum() + (whole[0] * (whole[0] / mean).log()).sum()
    torch.testing.assert_close(superpixel_loss(hard, torch.zeros(1, 4, dtype=torch.int64)), one / 4)


def test_superpixels_are_compared_in_float32_in_mixed_precision():
    hard = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    parts = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = superpixel_loss(hard, parts)
    assert mixed.item() == superpixel_loss(hard, parts).item()


def test_a_step_trains_all_but_the_token_that_takes_no_part():
    torch.manual_seed(0)
    method = SMALL.build()
    method.prepare(lambda folder: pytest.fail("there is nothing to load"))
    batch = {"image": torch.rand(2, 3, 32, 32), "caption": captions("a red", "red a a")}
    terms = method.loss(batch, 0)
    assert list(terms) == ["contrastive", "superpixel", "recon"]
    given = method.superpixels(batch)
    assert torch.equal(given, method.superpixels({**batch, "superpixels": given.unflatten(1, (4, 4)).int()}))
    sum(terms.values()).backward()
    assert [n for n, p in method.named_parameters() if p.grad is None] == [
        n for n, _ in method.named_parameters() if n.endswith("class_embedding")
    ]
    groups = method.param_groups()
    assert sum(map(len, groups.values())) == sum(p.requires_grad for p in method.parameters())
    assert method.grouping.centers in set(groups["new"])
    assert method.log_scale in set(groups["clip"])


def test_classes_share_what_groups_are(monkeypatch):
    """Two groups: half of the image is of the class blue, the other half of none."""
    method = replace(SMALL, num_groups=2, threshold=0.6).build().eval()
    halves = torch.zeros(1, 2, 16)
    halves[0, 0, :8], halves[0, 1, 8:] = 1, 1
    names = torch.eye(12)[:2]
    monkeypatch.setattr(method.text, "embed", lambda prompts, device: names)
    found = (torch.stack([names[1], 0.5 * (names[0] + names[1])])[None], names[:1], halves, halves)
    monkeypatch.setattr(method, "groups", lambda patches: found)
    out = method.encode(torch.rand(1, 3, 32, 32))
    label = out.attn_maps.argmax(1)[0]
    assert label[:14].unique().tolist() == [3]
    assert label[18:].unique().tolist() == [0]
    assert out.attn[:, 2].eq(0).all()
    torch.testing.assert_close(out.attn.sum(1), torch.ones(1, 1024))
    assert torch.equal(out.slots[0, [1, 3]], names)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_names": ("", "")}, "names no class"),
        ({"template": "a photo"}, "write {} where the name"),
        ({"first_layers": 4}, "method.first_layers is 4 of num_layers 3"),
        ({"image_size": 30}, "patches of 8 pixels do not fill"),
    ],
)
def test_settings_that_do_not_fit(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, **changes)


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="learns from images with captions, and these data have none"):
        SMALL.build().loss({"image": torch.rand(2, 3, 32, 32)}, 0)
    state, _ = original()
    del state["clip.visual.ln_pre.weight"]
    torch.save(state, tmp_path / "damaged.bin")
    with pytest.raises(UserError, match=r"lacks the tensor clip.visual.ln_pre.weight, so it is no complete"):
        convert(tmp_path / "damaged.bin", Options(tmp_path / "none"))


def test_texts_start_from_the_packages_clip():
    """The same embedding as the folder's own network gives."""
    text = painted_mini().method.text
    encoder = TextEncoder(text)
    encoder.load()
    clip = CLIPEncoder("package:tiny_clip")
    prompts = ["a red circle on grey", "star"]
    found = F.normalize(encoder.eval().embed(prompts, torch.device("cpu")), dim=1)
    torch.testing.assert_close(found, clip.text(prompts, found), rtol=0, atol=1e-5)
