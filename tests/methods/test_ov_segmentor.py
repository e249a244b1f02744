"""OVSegmentor against the original's modules, its three losses, both stages, and the published checkpoint's layout."""

from dataclasses import replace

import pytest
import torch
from published import drawn_by_name, names_and_outputs, noise_of
from tiny_models import save_tokenizer

from slotworks import api
from slotworks.convert import Options, convert
from slotworks.encoders.text import TextConfig
from slotworks.encoders.trained_vit import TrainedViTConfig
from slotworks.methods import OVSegmentorConfig
from slotworks.methods.ov_segmentor import mask_agreement, partners
from slotworks.types import UserError

SMALL = OVSegmentorConfig(
    vit=TrainedViTConfig("", 32, 8, 16, 2, 2),
    text=TextConfig("bert", "", ("red", "a", "bus"), 0, 16, 1, 2, 32, embed_dim=16, max_tokens=16),
    first_layers=1,
    num_tokens=5,
    num_groups=4,
    project_dim=20,
    embed_dim=8,
    entities=("cat", "red bus", "bus"),
    mask_word="a",
    class_names=("cat", "", "bus"),
    map_size=32,
)


def captions(*texts):
    width = max(map(len, texts))
    return torch.tensor([list(text.encode().ljust(width, b"\0")) for text in texts])


def original():
    """A state dict with the names and shapes of the published file, drawn by name, and what the original gave."""
    shapes, outputs = names_and_outputs("ov_segmentor", "ov")
    state = {name: drawn_by_name(name, shape) for name, shape in shapes.items()}
    state = {name: v.abs() + 0.5 if name.endswith("running_var") else v for name, v in state.items()}
    whole = {name: torch.tensor(7) for name in shapes if name.endswith("num_batches_tracked")}
    return state | whole, outputs


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The run that becomes of a checkpoint of that layout, in double precision."""
    folder = tmp_path_factory.mktemp("ov_segmentor")
    save_tokenizer(folder / "words")
    state, outputs = original()
    state["img_encoder.pos_embed"] = state["img_encoder.pos_embed"][0]  # as of a run that started from DINO
    torch.save({"model": {n: v.float() if v.is_floating_point() else v for n, v in state.items()}}, folder / "ov.pth")
    made = convert(folder / "ov.pth", Options(folder / "run", encoder=str(folder / "words")))
    assert made.family == "ov_segmentor"
    _, method = api.load(folder / "run", device="cpu")
    return method.double().eval(), outputs


def close(found, wanted, atol=1e-5):
    torch.testing.assert_close(found.float(), wanted.float(), rtol=0, atol=atol)


def test_groups_and_projections_are_the_originals(converted):
    """Two and two blocks, eight heads, five tokens, three groups; what masked words make of the groups, too."""
    method, outputs = converted
    image = noise_of("image", (2, 3, 32, 32)) * method.image.vit.std.double() + method.image.vit.mean.double()
    method.zero_grad()
    found = method.image(image)
    close(method.project_image(found.groups.mean(1)), outputs["x"])
    close(method.project_image(found.groups), outputs["feat"])
    close(found.soft, outputs["soft"])
    close(found.queries, outputs["q"])
    close(found.keys, outputs["k"])
    close(method.completion(found.groups, noise_of("words", (2, 6, 64))), outputs["answer"])
    (found.groups.mean(1).sum() + method.project_image(found.groups).square().sum()).backward()
    close(method.image.tokens.grad, outputs["grad_tokens"][0], atol=1e-4)
    assert outputs["grad_tokens"].abs().max() > 0.01


def test_the_agreement_of_masks_is_the_originals():
    _, outputs = original()
    maps = noise_of("maps", (2, 3, 8, 8)).flatten(2).requires_grad_()
    loss = mask_agreement(maps, noise_of("target", (2, 3, 8, 8)).flatten(2), 0.6)
    close(loss, outputs["mask"])
    loss.backward()
    close(maps.grad.unflatten(2, (8, 8)), outputs["grad_maps"])


def test_nouns_are_found_and_hidden():
    method = SMALL.build()
    assert method.nouns("Two cats, a red bus and a bus: no category") == ["cat", "red bus", "bus"]
    assert method._nouns.sub("[MASK]", "Buses by a cat.") == "[MASK] by a [MASK]."
    assert partners([["bus"], ["cat"], ["bus", "cat"], []]) == ([2, 2, 0, -1], ["bus", "cat", "bus", ""])


def test_both_stages_train_what_they_should(monkeypatch):
    torch.manual_seed(0)
    first = SMALL.build()
    batch = {"image": torch.rand(3, 3, 32, 32), "caption": captions("a cat", "red bus", "the cat")}
    terms = first.loss(batch, 0)
    assert list(terms) == ["contrastive", "entity"]
    sum(terms.values()).backward()
    assert [n for n, p in first.named_parameters() if p.grad is None] == ["image.vit.network.embeddings.cls_token"]
    second = replace(SMALL, stage_1="somewhere").build()
    second.prepare(lambda folder: first)
    torch.testing.assert_close(second.average.tokens, first.image.tokens, rtol=0, atol=0)
    with torch.no_grad():
        second.image.tokens += 1
    terms = second.loss(batch, 0)
    torch.testing.assert_close(second.average.tokens, first.image.tokens + 0.01, rtol=0, atol=1e-6)
    assert 0 < terms["mask"] < 1
    second.zero_grad()
    terms["mask"].backward()
    assert second.image.grouping.to_q.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in [*second.text.parameters(), *second.average.parameters()])
    alone = second.loss({"image": batch["image"][:2], "caption": batch["caption"][:2]}, 0)
    assert alone["mask"] == 0  # no noun is shared


def test_an_empty_name_is_an_empty_slot():
    out = SMALL.build().eval().encode(torch.rand(2, 3, 32, 32))
    assert out.attn[:, 2].eq(0).all()
    torch.testing.assert_close(out.attn.sum(1), torch.ones(2, 1024))
    assert out.grid == (32, 32)


def test_mistakes(tmp_path):
    method = SMALL.build()
    with pytest.raises(UserError, match="these data have none"):
        method.loss({"image": torch.rand(2, 3, 32, 32)}, 0)
    with pytest.raises(UserError, match="BatchNorm needs two images"):
        method.loss({"image": torch.rand(1, 3, 32, 32), "caption": captions("a")}, 0)
    with pytest.raises(ValueError, match="entities is empty"):
        replace(SMALL, entities=())
    with pytest.raises(ValueError, match=r"method\.momentum is 0\.5, which means nothing with method\.stage_1=None"):
        replace(SMALL, momentum=0.5)
    second = replace(SMALL, stage_1="runs/one", num_groups=3).build()
    with pytest.raises(UserError, match=r"The run in runs/one differs from this one in"):
        second.prepare(lambda folder: method)
    with pytest.raises(UserError, match="runs/one, a run of Identity; give a run of OVSegmentor"):
        second.prepare(lambda folder: torch.nn.Identity())
    state, _ = original()
    del state["bridge_projector.linear_out.weight"]
    torch.save({"model": state}, tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=r"lacks the tensor bridge_projector.linear_out.weight"):
        convert(tmp_path / "damaged.pth", Options(tmp_path / "none"))
