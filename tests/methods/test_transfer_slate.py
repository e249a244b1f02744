"""SLATE and STEVE equal their originals: the same weights, images and noise, the same losses, gradients, slots, images.

Each original ran once in float64; `tests/references/README.md` names repository, commit and settings. Ours runs in
float64, too. Slot Attention alone is compared in `tests/slots/test_transfer.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from slotworks.decoders import tokens
from slotworks.methods import Slate, SlateConfig, Steve, SteveConfig
from slotworks.nn import dvae as dvae_module
from slotworks.slots import initializers

REFERENCES = Path(__file__).parents[1] / "references"
SMALL = {
    "image_size": 16,
    "vocab_size": 12,
    "dvae_channels": 6,
    "num_slots": 3,
    "slot_dim": 8,
    "mlp_dim": 12,
    "model_dim": 8,
    "decoder_blocks": 2,
    "decoder_heads": 2,
    "dropout": 0.0,
}
SLATE = SlateConfig(**SMALL, slot_heads=2)
STEVE = SteveConfig(**SMALL, cnn_channels=6, predictor_blocks=2, predictor_heads=2)


def reference(name):
    """The original's weights and gradients by its own names, and its inputs and outputs."""
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        stored = {key: torch.from_numpy(file[key]).double() for key in file.files}
    parts = {"weight": {}, "grad": {}, "": {}}
    for key, value in stored.items():
        kind, _, rest = key.rpartition("/")
        parts[kind][rest] = value
    return parts["weight"], parts["grad"], parts[""]


def close(ours, theirs):
    """What is stored was rounded to float32; 1e-6 of the value, which is up to a thousand, or of one."""
    torch.testing.assert_close(ours, theirs.view_as(ours), rtol=1e-6, atol=1e-6)


def dvae_names(block):
    """Our name -> theirs. The first layer of the decoder stands apart here."""
    names = {}
    for i in range(7):
        names[f"dvae.encoder.{i}"] = f"dvae.encoder.{i}"
    names["dvae.first"] = "dvae.decoder.0"
    for i in (0, 1, 2, 3, 5, 6, 7, 8):
        names[f"dvae.decoder.{i}"] = f"dvae.decoder.{i + 1}"
    found = {}
    for ours, theirs in names.items():
        found[f"{ours}.conv.weight"] = f"{theirs}.m.weight"
        if block == "norm":
            found |= {f"{ours}.norm.weight": f"{theirs}.weight", f"{ours}.norm.bias": f"{theirs}.bias"}
        else:
            found[f"{ours}.conv.bias"] = f"{theirs}.m.bias"
    for kind in ("weight", "bias"):
        found[f"dvae.encoder.7.{kind}"] = f"dvae.encoder.7.{kind}"
        found[f"dvae.decoder.10.{kind}"] = f"dvae.decoder.11.{kind}"
    return found


def attention_names(ours, theirs):
    letters = {"q": "q", "k": "k", "v": "v", "out": "o"}
    return {f"{ours}.to_{mine}.weight": f"{theirs}.proj_{its}.weight" for mine, its in letters.items()}


def both(modules):
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")}


def transformer_names(theirs):
    found = both({"decoder.transformer.final_norm": f"{theirs}.layer_norm"})
    for i in range(2):
        mine, its = f"decoder.transformer.blocks.{i}", f"{theirs}.blocks.{i}"
        found |= attention_names(f"{mine}.self_attention", f"{its}.self_attn")
        found |= attention_names(f"{mine}.cross_attention", f"{its}.encoder_decoder_attn")
        found |= both(
            {
                f"{mine}.norm_self": f"{its}.self_attn_layer_norm",
                f"{mine}.norm_cross": f"{its}.encoder_decoder_attn_layer_norm",
                f"{mine}.norm_mlp": f"{its}.ffn_layer_norm",
                f"{mine}.mlp.0": f"{its}.ffn.0",
                f"{mine}.mlp.2": f"{its}.ffn.2",
            }
        )
    return found


def slot_names(ours, theirs):
    found = both({f"{ours}.norm_{k}": f"{theirs}.norm_{k}" for k in ("slots", "mlp")})
    found |= both({f"{ours}.norm_features": f"{theirs}.norm_inputs", f"{ours}.mlp.0": f"{theirs}.mlp.0"})
    found |= both({f"{ours}.mlp.2": f"{theirs}.mlp.2"})
    found |= {f"{ours}.to_{k}.weight": f"{theirs}.project_{k}.weight" for k in "qkv"}
    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        found[f"{ours}.gru.{kind}"] = f"{theirs}.gru.{kind}"
    return found


SLATE_NAMES = {
    **dvae_names("norm"),
    **transformer_names("tf_dec"),
    **slot_names("slot_attention", "slot_attn.slot_attention"),
    **both({f"token_mlp.{ours}": f"slot_attn.{it}" for ours, it in (("0", "layer_norm"), ("1.0", "mlp.0"))}),
    **both({"token_mlp.1.2": "slot_attn.mlp.2"}),
    "decoder.positions": "positional_encoder.pe",
    "decoder.project_slots.weight": "slot_proj.weight",
    "decoder.head.weight": "out.weight",
    "initializer.mu": "slot_attn.slot_mu",
    "initializer.log_sigma": "slot_attn.slot_log_sigma",
}


def steve_names():
    encoder, decoder, savi = "steve_encoder", "steve_decoder", "steve_encoder.savi"
    found = dvae_names("bias") | transformer_names(f"{decoder}.tf") | slot_names("slots.corrector", savi)
    convs = {f"encoder.convs.{2 * i}": f"{encoder}.cnn.{i}" + (".m" if i < 3 else "") for i in range(4)}
    found |= both(convs) | both({"encoder.norm": f"{encoder}.layer_norm", "encoder.mlp.0": f"{encoder}.mlp.0"})
    found |= both({"encoder.mlp.2": f"{encoder}.mlp.2", "slots.predictor.final_norm": f"{savi}.predictor.layer_norm"})
    for i in range(2):
        mine, its = f"slots.predictor.blocks.{i}", f"{savi}.predictor.blocks.{i}"
        found |= attention_names(f"{mine}.attention", f"{its}.attn")
        found |= both({f"{mine}.norm_attention": f"{its}.attn_layer_norm", f"{mine}.norm_mlp": f"{its}.ffn_layer_norm"})
        found |= both({f"{mine}.mlp.0": f"{its}.ffn.0", f"{mine}.mlp.2": f"{its}.ffn.2"})
    return found | {
        "encoder.position.project.bias": f"{encoder}.pos.projection.bias",
        "decoder.words.weight": f"{decoder}.dict.dictionary.weight",
        "decoder.begin": f"{decoder}.bos",
        "decoder.positions": f"{decoder}.pos.pe",
        "decoder.project_slots.weight": f"{encoder}.slot_proj.weight",
        "decoder.head.weight": f"{decoder}.head.weight",
        "initializer.mu": f"{savi}.slot_mu",
        "initializer.log_sigma": f"{savi}.slot_log_sigma",
    }


STEVE_NAMES = steve_names()


def load(method, names, theirs):
    """Fill our method; those weights that are cut or turned differently are given last."""
    wanted = method.state_dict()
    state = {ours: theirs[its].view(wanted[ours].shape) for ours, its in names.items()}
    if "dictionary.dictionary.weight" in theirs:  # SLATE: the begin token is row 0 of the table
        table = theirs["dictionary.dictionary.weight"]
        state |= {"decoder.begin": table[0], "decoder.words.weight": table[1:]}
    else:  # STEVE: x before y
        grid = theirs["steve_encoder.pos.projection.weight"].flatten(1)
        state["encoder.position.project.weight"] = grid[:, [1, 0, 3, 2]]
    method.double().load_state_dict(state)
    return method


@pytest.fixture(params=["slate", "steve"])
def pair(request, monkeypatch):
    """Our method with the original's weights, what the original gave, and its noise in ours."""
    theirs, grads, ref = reference(f"{request.param}_model")
    method, names = (SLATE.build(), SLATE_NAMES) if request.param == "slate" else (STEVE.build(), STEVE_NAMES)
    load(method, names, theirs)

    def feed():
        noise = iter([ref["noise_soft"], ref["noise_hard"]])
        monkeypatch.setattr(dvae_module, "gumbel_noise", lambda like: next(noise).view_as(like))

    monkeypatch.setattr(initializers, "batch_noise", lambda shape, device, dtype: ref["noise_slots"].view(shape))
    feed()
    return method, names, ref, grads, feed


def batch_of(method, ref):
    return {"image" if isinstance(method, Slate) else "video": ref["in_image"]}


def at_temperature(monkeypatch, tau):
    monkeypatch.setattr(tokens, "cosine_anneal", lambda *_: tau)


def test_losses_and_gradients(pair, monkeypatch):
    """Also that no gradient of the Transformer reaches the dVAE: theirs would differ."""
    method, names, ref, grads, _ = pair
    at_temperature(monkeypatch, 0.7)
    terms = method.loss(batch_of(method, ref), 0)
    close(terms["recon"], ref["out_mse"])
    close(terms["cross_entropy"], ref["out_cross_entropy"])
    sum(terms.values()).backward()
    parameters = dict(method.named_parameters())
    compared = {name: its for name, its in names.items() if its in grads}
    assert len(compared) == len(names)
    for ours, its in compared.items():
        grad = parameters[ours].grad.flatten()[:64]
        scale = max(1.0, grads[its].abs().max().item())
        torch.testing.assert_close(grad / scale, grads[its] / scale, rtol=1e-6, atol=1e-6, msg=lambda m, n=ours: n + m)


def test_one_hot_codes(pair, monkeypatch):
    method, _, ref, _, _ = pair
    method.config = type(method.config)(**{**vars(method.config), "hard_codes": True})
    at_temperature(monkeypatch, 0.3)
    terms = method.loss(batch_of(method, ref), 0)
    close(terms["recon"], ref["out_mse_hard"])
    terms["recon"].backward()
    grad = method.dvae.encoder[0].conv.weight.grad
    scale = ref["grad_hard_encoder"].abs().max()
    close(grad / scale, ref["grad_hard_encoder"] / scale)


def test_slots_and_images_written_from_them(pair):
    """Greedy, token for token: one other token would change four by four pixels and more."""
    method, _, ref, _, _ = pair
    method.eval()
    if isinstance(method, Steve):
        out = method.encode(ref["in_image"])
        close(out.slots, ref["out_slots"])
        close(out.attn_maps.repeat_interleave(2, -2).repeat_interleave(2, -1), ref["out_attention"])
    else:
        out = method.encode(ref["in_image"])
    generated = method.sample(out.slots).flatten(0, -4)
    close(generated, ref["out_generated"])
    assert ((generated > 0) & (generated < 1)).double().mean() > 0.5  # not all cut off


def test_attention_of_slate(monkeypatch):
    """What the original shows in training: image * attention + 1 - attention, from sampled tokens."""
    theirs, _, ref = reference("slate_model")
    method = load(SLATE.build(), SLATE_NAMES, theirs)
    monkeypatch.setattr(initializers, "batch_noise", lambda shape, device, dtype: ref["noise_slots"].view(shape))
    monkeypatch.setattr(dvae_module, "gumbel_noise", lambda like: ref["noise_hard"].view_as(like))
    embedded = method.decoder.embed(method.dvae.tokenize(ref["in_image"], sample=True))
    out = method._group(method._token_features(embedded))
    attn = out.attn_maps.repeat_interleave(4, -2).repeat_interleave(4, -1)[:, :, None]
    close(ref["in_image"][:, None] * attn + 1 - attn, ref["out_attns"])


def test_lists_of_names_are_complete():
    for config, names, extra in (
        (SLATE, SLATE_NAMES, {"decoder.begin", "decoder.words.weight"}),
        (STEVE, STEVE_NAMES, {"encoder.position.project.weight"}),
    ):
        assert set(config.build().state_dict()) == set(names) | extra
