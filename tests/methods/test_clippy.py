"""CLIPpy: both towers against plain torch, what is pooled, classes of patches, the published checkpoint's layout."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers
from published import drawn, norm, vit_shapes, vit_tokens
from tiny_models import save_tokenizer

from slotworks import api
from slotworks.convert import Options, convert
from slotworks.encoders.clip import CLIP_MEAN, CLIP_STD
from slotworks.encoders.text import TextConfig, TextEncoder
from slotworks.encoders.trained_vit import TrainedViT, TrainedViTConfig
from slotworks.methods import CLIPpyConfig
from slotworks.nn.contrastive import contrastive_loss
from slotworks.types import UserError

TEXT = TextConfig("t5", "", ("a", "photo", "of", "cat"), 0, 16, 1, 2, 32, embed_dim=12, max_tokens=16)
SMALL = CLIPpyConfig(
    vit=TrainedViTConfig("", 32, 8, 12, 2, 1, CLIP_MEAN, CLIP_STD),
    text=TEXT,
    class_names=("cat", "", "owl"),
    background_names=("sky", "wall"),
    map_size=32,
)


def captions(*texts):
    width = max(map(len, texts))
    return torch.tensor([list(text.encode().ljust(width, b"\0")) for text in texts])


def checkpoint(words):
    """Names and shapes of `clippy_5k.pt`: timm's ViT, and a Sentence-T5 whose weights `transformers` names."""
    shapes = {f"module.visual.trunk.{n}": s for n, s in (vit_shapes(side=4, hidden=48) | norm("norm", 12)).items()}
    config = transformers.T5Config(vocab_size=words, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    t5 = transformers.T5EncoderModel(config).state_dict()
    shapes |= {f"module.text.0.auto_model.{n}": tuple(v.shape) for n, v in t5.items()}
    shapes |= {"module.text.2.linear.weight": (12, 16), "module.logit_scale": ()}
    state = drawn(shapes)
    state["module.text.0.auto_model.encoder.embed_tokens.weight"] = state["module.text.0.auto_model.shared.weight"]
    return state


def test_the_published_file_becomes_a_run(tmp_path):
    """Patches as plain torch has them, behind the last LayerNorm; a text as Sentence-T5 has it."""
    words = save_tokenizer(tmp_path / "words")
    state = checkpoint(words)
    torch.save({"epoch": 1, "name": "clippy", "state_dict": state}, tmp_path / "clippy_5k.pt")
    made = convert(tmp_path / "clippy_5k.pt", Options(tmp_path / "run", encoder=str(tmp_path / "words")))
    assert made.family == "clippy"
    run, method = api.load(tmp_path / "run", device="cpu")
    assert (run.method.vit.num_layers, run.method.text.num_heads, run.data.image_size) == (3, 2, 32)
    image = torch.rand(2, 3, 32, 32)
    plain = {n.removeprefix("module.visual.trunk."): v for n, v in state.items() if "visual" in n}
    expected = vit_tokens(plain, image, mean=CLIP_MEAN, std=CLIP_STD)
    expected = F.layer_norm(expected, (12,), plain["norm.weight"], plain["norm.bias"], 1e-6)
    with torch.no_grad():
        tokens = method.eval().vit(image)
        torch.testing.assert_close(tokens[:, 1:], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(method.pooled(tokens), tokens.amax(1), rtol=0, atol=0)
        ids = torch.tensor([[3, 5, 7, 0], [4, 0, 0, 0]])
        mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
        out = method.text.network(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        mean = torch.stack([out[0, :3].mean(0), out[1, 0]])
        wanted = mean @ state["module.text.2.linear.weight"].T
        torch.testing.assert_close(method.text(ids, mask)[1], wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(method.log_scale, state["module.logit_scale"], rtol=0, atol=0)
    del state["module.text.2.linear.weight"]
    torch.save({"state_dict": state}, tmp_path / "damaged.pt")
    with pytest.raises(UserError, match="which are of none of these"):
        convert(tmp_path / "damaged.pt", Options(tmp_path / "none"))


def test_the_loss_is_in_closed_form():
    """Cosines 1 and 0 with the factor e: both cross-entropies are log(1 + exp(-e))."""
    same = torch.eye(2).double()
    loss = contrastive_loss(3 * same, 5 * same, torch.tensor(1.0).double())
    torch.testing.assert_close(loss, torch.tensor(1 + torch.e**-torch.e).double().log())
    loss = contrastive_loss(same, same, torch.tensor(9.0).double())
    torch.testing.assert_close(loss, torch.tensor(1 + torch.e**-100.0).double().log())  # at most a hundred
    alike = contrastive_loss(torch.ones(2, 1), torch.ones(2, 1), torch.tensor(0.0))
    torch.testing.assert_close(alike, torch.tensor(2.0).log())


def test_what_is_pooled():
    tokens = torch.tensor([[[9.0, 0.0], [1.0, 4.0], [3.0, 2.0]]])
    pooled = {how: replace(SMALL, **how_).build().pooled(tokens)[0].tolist() for how, how_ in WAYS.items()}
    assert pooled == {"max": [9, 4], "patches": [3, 4], "mean": [2, 3], "cls": [9, 0]}


WAYS = {
    "max": {},
    "patches": {"pool_cls": False},
    "mean": {"pool": "mean", "pool_cls": False},
    "cls": {"pool": "cls"},
}


def test_patches_are_left_out_in_training():
    vit = TrainedViT(SMALL.vit)
    assert vit(torch.rand(2, 3, 32, 32)).shape == (2, 17, 12)
    assert vit(torch.rand(2, 3, 32, 32), dropped=0.75).shape == (2, 5, 12)
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32)
    one, two = vit.embedded(image), vit(image, dropped=0.9999)
    last = [vit.network.layernorm(vit.blocks(one[:, [0, k]])) for k in range(1, 17)]
    assert min((two - x).abs().max().item() for x in last) < 1e-5  # one patch and the CLS token, with its position


def test_classes_of_patches():
    """A place is of the name with the largest cosine, interpolated; what a name of the background wins is slot 0."""
    torch.manual_seed(0)
    method = SMALL.build().eval()
    image = torch.rand(2, 3, 32, 32)
    out = method.encode(image)
    prompts = ["a photo of a cat", "a photo of an owl", "a photo of a sky", "a photo of a wall"]
    names = F.normalize(method.text.embed(prompts, image.device), dim=1)
    cosines = F.normalize(method.vit(image)[:, 1:], dim=2) @ names.T
    maps = F.interpolate(cosines.mT.unflatten(2, (4, 4)), (32, 32), mode="bilinear").flatten(2)
    expected = torch.tensor([1, 3, 0, 0])[maps.argmax(1)]
    assert torch.equal(out.attn.argmax(1), expected)
    assert len(expected.unique()) > 1
    assert out.attn[:, 2].eq(0).all()
    torch.testing.assert_close(out.attn.sum(1), torch.ones(2, 1024))


def test_a_step_trains_both_towers():
    method = replace(SMALL, patch_dropout=0.5).build()
    terms = method.loss({"image": torch.rand(2, 3, 32, 32), "caption": captions("a cat", "a photo")}, 0)
    terms["contrastive"].backward()
    assert all(p.grad is not None for p in method.parameters())
    with pytest.raises(UserError, match="these data have none; take ImageText"):
        method.loss({"image": torch.rand(2, 3, 32, 32)}, 0)


def test_training_starts_from_published_weights(tmp_path):
    """A ViT and a T5 with its linear layer in a folder of `sentence_transformers`' form; others are refused."""
    words = save_tokenizer(tmp_path / "t5")
    config = transformers.T5Config(vocab_size=words, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    t5 = transformers.T5EncoderModel(config)
    t5.save_pretrained(tmp_path / "t5")
    (tmp_path / "t5/2_Dense").mkdir()
    weight = torch.randn(32, 16)
    torch.save({"linear.weight": weight}, tmp_path / "t5/2_Dense/pytorch_model.bin")
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    settings = transformers.ViTConfig(image_size=64, patch_size=16, **sizes)
    transformers.ViTModel(settings, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    vit = TrainedViTConfig(str(tmp_path / "vit"), 64, 16, 32, 3, 4)
    text = TextConfig("t5", str(tmp_path / "t5"), (), words, 16, 1, 2, 32, embed_dim=32)
    method = CLIPpyConfig(vit=vit, text=text).build()
    method.prepare(lambda folder: pytest.fail("there is no earlier run"))
    own = transformers.ViTModel.from_pretrained(tmp_path / "vit", add_pooling_layer=False).state_dict()
    assert torch.equal(method.vit.network.state_dict()["layernorm.weight"], own["layernorm.weight"])
    assert torch.equal(method.text.dense.weight, weight)
    assert torch.equal(method.text.network.shared.weight, t5.shared.weight)
    with pytest.raises(UserError, match=r"is no vision transformer of the sizes of method\.vit: it differs in"):
        TrainedViT(replace(vit, num_layers=2)).load()
    with pytest.raises(UserError, match=r"2_Dense of .* has the shape"):
        TextEncoder(replace(text, embed_dim=8)).load()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_names": ()}, "names no class"),
        ({"template": "a photo"}, "write {} where the name"),
        ({"patch_dropout": 1.0}, "it is a share from 0 to below 1"),
        ({"text": replace(TEXT, embed_dim=8)}, "so both must be the same"),
    ],
)
def test_settings_that_do_not_fit(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, **changes)


def test_texts_come_from_a_model_or_from_words():
    with pytest.raises(ValueError, match="give the one or the other"):
        TextConfig("clip", "", ())
    for network, width in (("clip", 12), ("bert", 16)):
        encoder = TextEncoder(replace(TEXT, network=network))
        both = encoder.embed(["a cat", "a photo of a cat"], torch.device("cpu"))
        alone = encoder.eval().embed(["a cat"], torch.device("cpu"))
        assert both.shape == (2, width)
        torch.testing.assert_close(encoder.embed(["a cat", "a photo of a cat"], torch.device("cpu"))[:1], alone)
