"""SAVi of flax and Slot Attention of TensorFlow become runs that give what the originals gave (`tests/references`).

The files are written here by their formats, apart from the code that reads them.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from published import packed, save_bundle, save_flax

from slotworks import api
from slotworks.convert import Options, convert
from slotworks.convert.msgpack import flat, read_flax
from slotworks.convert.source import open_source
from slotworks.convert.tensorbundle import read_bundle
from slotworks.types import UserError

REFERENCES = Path(__file__).parents[1] / "references"
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def reference(name):
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def weights(ref):
    return {key.removeprefix("weight/"): v for key, v in ref.items() if key.startswith("weight/")}


# ---- flax ------------------------------------------------------------------------------------------------------------


SMALL = {"num_slots": 3, "image_size": 16, "changes": {"encoder_strides": (2, 1), "decoder_strides": (2, 2, 1)}}


@torch.no_grad()
def test_savi_gives_what_the_original_gave(tmp_path):
    ref = reference("savi_model")
    file = save_flax(tmp_path / "ckpt-7.flax", weights(ref), chunked=("SlotAttention_0/general_dense_k_0/kernel",))
    made = convert(file, Options(tmp_path / "run", **SMALL))
    assert (made.family, made.parts) == ("savi", ("CNN", "decoder"))
    run, method = api.load(tmp_path / "run", device="cpu")
    config = run.method
    assert (config.slot_dim, config.qkv_dim, config.predictor_qkv_dim, config.predictor_mlp_dim) == (8, 12, 12, 14)
    assert (config.encoder_channels, config.encoder_hidden_dim, config.decoder_channels) == (5, 10, 6)
    assert (config.initializer, config.targets, run.data.image_size) == ("boxes", ("flow",), 16)
    boxes = torch.from_numpy(ref["boxes"])[:, 0][..., [1, 0, 3, 2]].float()
    boxes[1, 1] = -1  # theirs: zeros
    out = method.encode(torch.from_numpy(ref["video"]).float().movedim(-1, 2), boxes=boxes)
    decoded = method.decode(out.slots)
    expected = {name: torch.from_numpy(ref[name]).float() for name in ref if name.startswith("out_")}
    torch.testing.assert_close(out.slots, expected["out_states"], **CLOSE)
    torch.testing.assert_close(out.attn, expected["out_attn"][:, :, 0], **CLOSE)
    torch.testing.assert_close(decoded.recon, expected["out_flow"].movedim(-1, 2), **CLOSE)
    torch.testing.assert_close(decoded.masks, expected["out_alphas"][..., 0], **CLOSE)


def test_a_resnet_and_two_targets(tmp_path):
    """SAVi-L by its names; the blocks of the ResNet-34 count through."""
    named = weights(reference("savi_model"))
    named = {name: value for name, value in named.items() if "CNN_0" not in name or "Decoder" in name}
    named |= {"SpatialBroadcastDecoder_0/Readout_0/Dense_1/Dense_0/kernel": np.ones((6, 1), "float32")}
    named |= {"SpatialBroadcastDecoder_0/Readout_0/Dense_1/Dense_0/bias": np.ones(1, "float32")}
    net, random = "FrameEncoder_0/ResNetWithBasicBlk_0", np.random.RandomState(0)
    width, last, shapes = 32, 256, {}  # as narrow as its groups of channels allow
    shapes[f"{net}/init_conv/kernel"] = (3, 3, 3, width)
    shapes |= {f"{net}/init_bn/{kind}": (width,) for kind in ("scale", "bias")}
    inputs = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        outputs = width * 2**stage
        for block in range(blocks):
            name = f"{net}/stage{stage + 1}/block{block + 1}"
            shapes |= {
                f"{name}/conv1/kernel": (3, 3, inputs, outputs),
                f"{name}/conv2/kernel": (3, 3, outputs, outputs),
            }
            shapes |= {f"{name}/bn{k}/{kind}": (outputs,) for k in (1, 2) for kind in ("scale", "bias")}
            if inputs != outputs:
                shapes |= {f"{name}/proj_conv/kernel": (1, 1, inputs, outputs)}
                shapes |= {f"{name}/proj_bn/{kind}": (outputs,) for kind in ("scale", "bias")}
            inputs = outputs
    position = "FrameEncoder_0/PositionEmbedding_0"
    shapes |= {f"{position}/dense_pe_0/kernel": (2, last), f"{position}/dense_pe_0/bias": (last,)}
    shapes |= {f"{position}/MLP_0/LayerNorm_0/{kind}": (last,) for kind in ("scale", "bias")}
    shapes |= {f"{position}/MLP_0/dense_mlp_0/kernel": (last, 10), f"{position}/MLP_0/dense_mlp_0/bias": (10,)}
    shapes |= {f"{position}/MLP_0/dense_mlp_1/kernel": (10, last), f"{position}/MLP_0/dense_mlp_1/bias": (last,)}
    shapes |= {f"SlotAttention_0/general_dense_{letter}_0/kernel": (last, 1, 12) for letter in "kv"}
    shapes |= {f"SlotAttention_0/LayerNorm_1/{kind}": (last,) for kind in ("scale", "bias")}
    named |= {name: random.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    changes = {"decoder_strides": (2, 2, 1), "targets": ("flow", "depth")}
    file = save_flax(tmp_path / "ckpt-9.flax", named)
    given = {"num_slots": 3, "image_size": 16, "changes": changes, "recipe": "savi.movi_a_depth"}
    with pytest.raises(UserError, match=r"(lacks the weight|holds) \S*transformer|holds \S+ with shape"):
        convert(file, Options(tmp_path / "run", **given))  # that recipe has a Transformer over the features
    given["recipe"] = None
    made = convert(file, Options(tmp_path / "run", **given))
    assert made.parts == ("ResNetWithBasicBlk_0", "decoder")
    _, method = api.load(tmp_path / "run", device="cpu")
    blocks = method.encoder.backbone.blocks
    assert len(blocks) == 16
    kernel = torch.from_numpy(named[f"{net}/stage3/block1/proj_conv/kernel"]).permute(3, 2, 0, 1)
    assert torch.equal(blocks[7].shortcut[0].weight, kernel)
    assert torch.equal(method.decoder.last.weight[3], torch.ones(6, 1, 1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:-9], "it ends inside of a value"),
        (lambda data: data + b"\0", "goes on for 1 bytes after its end"),
        (lambda data: data.replace(b"float32", b"object_"), "has the type 'object_'"),
        (lambda data: data[:5] + b"\xc1" + data[6:], "has the byte 0xc1"),
        (lambda data: data[:5] + b"\xdd\0\0\0\1" * 100, "nested deeper than 64"),
    ],
)
def test_a_damaged_file_of_flax(tmp_path, change, sentence):
    file = save_flax(tmp_path / "ckpt.flax", weights(reference("savi_model")))
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=sentence):
        open_source(file)


def test_arrays_of_flax(tmp_path):
    """All kinds that a state holds; lists and numbers beside them are no tensors."""
    values = {"a": np.arange(6, dtype="int32").reshape(2, 3), "b": np.array(2.5), "c": np.array([True, False])}
    values |= {
        "d": np.arange(3, dtype="float16"),
        "e": np.array([7, 2**31], "uint32"),
        "f": np.zeros((0, 2), "float32"),
    }
    file = tmp_path / "state"
    file.write_bytes(packed({"deep": values, "step": 3, "list": [1, None, "x", -5, 2.5]}))
    found = flat(read_flax(file))
    assert found.keys() == {f"deep/{name}" for name in values}
    for name, value in values.items():
        assert np.array_equal(found[f"deep/{name}"].numpy(), value)


# ---- TensorFlow ------------------------------------------------------------------------------------------------------


def keras(named, network="network/layer_with_weights-0"):
    """The keys of `tf.train.Checkpoint(network=model, ...)`, with a moment of the optimiser."""
    found = {"global_step/.ATTRIBUTES/VARIABLE_VALUE": np.array(500_000)}
    for name, value in named.items():
        words = [f"layer_with_weights-{word}" if word.isdigit() else word for word in name.split("/")]
        key = f"{network}/{'/'.join(words)}"
        found[f"{key}/.ATTRIBUTES/VARIABLE_VALUE"] = value
        found[f"{key}/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE"] = 0 * value
    return found


def test_every_tensor_of_a_bundle(tmp_path):
    values = {f"a/{i}/b": np.random.RandomState(i).standard_normal((i % 4, 3)).astype("float32") for i in range(70)}
    values |= {"x": np.array(5), "y": np.array([True, False]), "z": np.arange(3, dtype="float16")}
    found = read_bundle(save_bundle(tmp_path, values))
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert np.array_equal(found[name].numpy(), value)


@pytest.mark.parametrize("name", ["autoencoder_clevr", "autoencoder_tetrominoes"])
@torch.no_grad()
def test_slot_attention_gives_what_the_original_gave(tmp_path, name, monkeypatch):
    ref = reference(name)
    named = weights(ref)
    save_bundle(tmp_path, keras(named))
    made = convert(tmp_path, Options(tmp_path / "run", num_slots=ref["noise"].shape[1]))
    assert (made.family, made.parts) == ("slot-attention", ("decoder",))
    run, trained = api.load(tmp_path / "run", device="cpu")
    assert run.method.norm_eps == 1e-3
    assert run.data.name.startswith("clevr" if name.endswith("clevr") else "multi_dsprites")
    noise = torch.from_numpy(ref["noise"])
    monkeypatch.setattr("slotworks.slots.initializers.batch_noise", lambda *args, **kwargs: noise)
    image = torch.from_numpy(ref["image"]).movedim(-1, 1).float() / 256
    method = replace(run.method, image_size=tuple(image.shape[-2:])).build()  # sizes of images are no weights
    method.load_state_dict(trained.state_dict())
    slots = method.encode(image).slots
    torch.testing.assert_close(slots, torch.from_numpy(ref["slots"]), **CLOSE)
    decoded = method.decode(slots)
    torch.testing.assert_close(2 * decoded.recon - 1, torch.from_numpy(ref["recon"]).movedim(-1, 1), **CLOSE)
    torch.testing.assert_close(decoded.masks, torch.from_numpy(ref["masks"]).view_as(decoded.masks), **CLOSE)


def test_set_prediction(tmp_path):
    """The classifier in the place of the decoder; its encoder is compared in `test_keras_transfer`."""
    named = {name: v for name, v in weights(reference("autoencoder_clevr")).items() if not name.startswith("decoder_")}
    head = {"0/kernel": np.ones((4, 9)), "0/bias": np.ones(9), "1/kernel": np.full((9, 19), 2.0), "1/bias": np.ones(19)}
    named |= {f"mlp_classifier/{name}": value.astype("float32") for name, value in head.items()}
    save_bundle(tmp_path, keras(named))
    assert convert(tmp_path, Options(tmp_path / "run")).parts == ("classifier",)
    _, method = api.load(tmp_path / "run", device="cpu")
    assert torch.equal(method.head.mlp[2].weight, torch.full((19, 9), 2.0))
    assert torch.equal(method.slot_attention.to_k.weight, torch.from_numpy(named["slot_attention/project_k/kernel"]).T)
    assert method.predict_set(torch.zeros(1, 2, 4)).shape == (1, 2, 19)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("index", lambda data: data[:-1], "it is no index of a TensorFlow checkpoint"),
        ("index", lambda data: data[:40] + b"?" + data[41:], "its index has another checksum"),
        ("data-00000-of-00001", lambda data: data[:100], "ends inside of"),
        ("data-00000-of-00001", lambda data: b"?" + data[1:], "has another checksum than was written"),
    ],
)
def test_a_damaged_bundle(tmp_path, file, change, sentence):
    save_bundle(tmp_path, keras(weights(reference("autoencoder_clevr"))))
    path = tmp_path / f"ckpt-1.{file}"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=sentence):
        open_source(tmp_path)


def test_another_network_of_keras(tmp_path):
    named = weights(reference("autoencoder_clevr"))
    del named["slot_attention/gru/bias"]
    save_bundle(tmp_path, keras(named))
    with pytest.raises(UserError, match=r"lacks the tensor slot_attention/gru.bias_ih and 1 more tensors"):
        convert(tmp_path, Options(tmp_path / "run"))
    named["slot_attention/slots"] = named.pop("slot_attention/slots_mu")
    save_bundle(tmp_path, keras(named))
    with pytest.raises(UserError, match="are of none of these"):
        convert(tmp_path, Options(tmp_path / "run"))
