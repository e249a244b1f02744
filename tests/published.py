"""Small checkpoints with the names and shapes of published ones, drawn at random, for tests of `slotworks.convert`.

Names were written down once from the originals' modules; each function says which repository, commit and file.
"""

import struct
import zlib
from pathlib import Path

import google_crc32c
import numpy as np
import torch
import torch.nn.functional as F


def drawn(shapes, seed=0):
    """Random tensors of these shapes: kernels by the root of their fan in, norms around one, biases around zero."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1 and name.rpartition(".")[2] in ("weight", "weight_ih", "weight_hh"):
            value = value / np.prod(shape[1:]) ** 0.5
        elif name.endswith("weight"):
            value = 1 + 0.2 * value
        else:
            value = 0.3 * value
        found[name] = value
    return found


def linear(name, inputs, outputs, bias=True):
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def gru(name, inputs, width):
    weights = {f"{name}.weight_ih": (3 * width, inputs), f"{name}.weight_hh": (3 * width, width)}
    return weights | {f"{name}.bias_ih": (3 * width,), f"{name}.bias_hh": (3 * width,)}


# ---- a vision transformer: facebookresearch/dino, `vision_transformer.py`, as timm names it, too ---------------------


def vit_shapes(width=12, depth=3, patch=8, side=4, hidden=16):
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, side * side + 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | linear(f"{block}.attn.qkv", width, 3 * width)
        shapes |= linear(f"{block}.attn.proj", width, width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.mlp.fc1", width, hidden) | linear(f"{block}.mlp.fc2", hidden, width)
    return shapes


def vit_tokens(weights, image, *, heads=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """What the last block gives for each patch: pre-norm blocks, LayerNorms with epsilon 1e-6, GELU."""
    w = {name: value.to(image.dtype) for name, value in weights.items()}
    mean, std = (image.new_tensor(values)[:, None, None] for values in (mean, std))

    def ln(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def fc(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    patch = w["patch_embed.proj.weight"].shape[-1]
    x = F.conv2d((image - mean) / std, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    depth = len({name.split(".")[1] for name in w if name.startswith("blocks.")})
    for i in range(depth):
        block = f"blocks.{i}"
        q, k, v = fc(ln(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        attn = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + fc((attn @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + fc(F.gelu(fc(ln(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return x[:, 1:]


# ---- DINOSAUR: amazon-science/object-centric-learning-framework 0a97292cb0db ----------------------------------------


def oclf_shapes(decoder, *, features=12, slot=8, patches=16, network=True):
    """`ocl/combined_model.py` with the modules of `configs/experiment/projects/bridging/dinosaur`."""
    shapes = {"conditioning.slots_mu": (1, 1, slot), "conditioning.slots_logsigma": (1, 1, slot)}
    embedding, attention = "perceptual_grouping.positional_embedding.layers.1", "perceptual_grouping.slot_attention"
    shapes |= norm(f"{embedding}.0", features) | linear(f"{embedding}.1", features, features)
    shapes |= linear(f"{embedding}.3", features, slot)
    for letter in "qkv":
        shapes |= linear(f"{attention}.to_{letter}", slot, slot, bias=False)
    shapes |= gru(f"{attention}.gru", slot, slot) | norm(f"{attention}.norm_input", slot)
    shapes |= norm(f"{attention}.norm_slots", slot) | norm(f"{attention}.ff_mlp.module.0", slot)
    shapes |= linear(f"{attention}.ff_mlp.module.1", slot, 4 * slot)
    shapes |= linear(f"{attention}.ff_mlp.module.3", 4 * slot, slot)
    if decoder == "mlp":
        shapes["object_decoder.pos_embed"] = (1, patches, slot)
        for i, (inputs, outputs) in enumerate(((slot, 24), (24, 24), (24, 24), (24, features + 1))):
            shapes |= linear(f"object_decoder.decoder.{2 * i}", inputs, outputs)
    else:
        shapes |= {"object_decoder.bos_token": (1, 1, features), "object_decoder.mask": (patches, patches)}
        for name, inputs in (("inp_transform", features), ("cond_transform", slot)):
            shapes |= linear(f"object_decoder.{name}.0", inputs, features, bias=False)
            shapes |= norm(f"object_decoder.{name}.1", features)
        for i in range(3):
            layer = f"object_decoder.decoder.layers.{i}"
            for name in ("self_attn", "multihead_attn"):
                shapes |= {f"{layer}.{name}.in_proj_weight": (3 * features, features)}
                shapes |= {f"{layer}.{name}.in_proj_bias": (3 * features,)}
                shapes |= linear(f"{layer}.{name}.out_proj", features, features)
            shapes |= linear(f"{layer}.linear1", features, 4 * features)
            shapes |= linear(f"{layer}.linear2", 4 * features, features)
            for k in (1, 2, 3):
                shapes |= norm(f"{layer}.norm{k}", features)
    if network:
        vit = vit_shapes(width=features, side=round(patches**0.5))
        shapes |= {f"feature_extractor.model.{name}": shape for name, shape in vit.items()}
    return {f"models.{name}": shape for name, shape in shapes.items()}


# ---- SPOT: gkakogeorgiou/spot 13c5926f4839 --------------------------------------------------------------------------


def spot_networks(seed=3):
    """The frozen vision transformer and the student's, whose last block differs."""
    frozen = drawn(vit_shapes() | norm("norm", 12), seed)
    student = drawn(vit_shapes() | norm("norm", 12), seed + 1)
    return frozen, {name: student[name] if name.startswith("blocks.2.") else value for name, value in frozen.items()}


# ---- what all of them share ------------------------------------------------------------------------------------------


def slot_attention(features, slots, w, iterations, *, heads=1, eps=1e-8):
    """Algorithm 1 of Slot Attention in plain torch, with one softmax over heads and slots.

    `w` has `norm_features`, `norm_slots`, `norm_mlp`, `q`, `k`, `v`, `gru` (four), `mlp_0` and `mlp_1`.
    """

    def ln(x, name):
        return F.layer_norm(x, x.shape[-1:], *w[name], 1e-5)

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    x = ln(features, "norm_features")
    k, v = split(x @ w["k"].mT), split(x @ w["v"].mT)
    for _ in range(iterations):
        q = split(ln(slots, "norm_slots") @ w["q"].mT)
        logits = q @ k.mT / q.shape[-1] ** 0.5  # b h n p
        attn = logits.flatten(1, 2).softmax(1).view_as(logits)
        weights = (attn + eps) / (attn + eps).sum(-1, keepdim=True)
        updates = (weights @ v).transpose(1, 2).flatten(2)
        slots = torch.gru_cell(updates.flatten(0, 1), slots.flatten(0, 1), *w["gru"]).view_as(slots)
        hidden = F.linear(ln(slots, "norm_mlp"), *w["mlp_0"]).relu()
        slots = slots + F.linear(hidden, *w["mlp_1"])
    return slots, attn.sum(1)


def pair(w, name):
    return w[f"{name}.weight"], w[f"{name}.bias"]


def four(w, name):
    return [w[f"{name}.{kind}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


# ---- checkpoints whose originals ran: names, shapes and outputs in tests/references ----------------------------------


def drawn_by_name(name, shape):
    """The original's array of this name, from a seed that is the name: kernels by the root of their fan in."""
    drawn = noise_of(name, shape)
    if name.endswith("embedding.weight") or name == "init_latents":
        return drawn
    if len(shape) > 1:
        return drawn / np.prod(shape[1:]) ** 0.5
    return float(name.endswith("weight")) + 0.2 * drawn


def noise_of(name, shape):
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape))


def names_and_outputs(file, key):
    """Names with shapes, and outputs, of one model in a file of `tests/references`."""
    with np.load(Path(__file__).parent / "references" / f"{file}.npz", allow_pickle=False) as stored:
        found = {name.removeprefix(f"{key}/"): stored[name] for name in stored.files if name.startswith(f"{key}/")}
    lines = [str(line).split(" ") for line in found.pop("names")]
    shapes = {name: tuple(int(n) for n in sizes.split(",") if n) for name, sizes in lines}
    return shapes, {name: torch.from_numpy(value) for name, value in found.items()}


# ---- files of flax and of TensorFlow, written by their formats apart from the code that reads them -------------------


def packed(value):
    """msgpack as `flax.serialization.to_bytes` writes it."""
    if isinstance(value, dict):
        return struct.pack(">BI", 0xDF, len(value)) + b"".join(packed(k) + packed(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(packed, value))
    if isinstance(value, str):
        return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    if isinstance(value, bool) or value is None:
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return struct.pack(">Bq", 0xD3, value) if not 0 <= value < 128 else bytes([value])
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    inner = packed([list(value.shape), value.dtype.name, value.tobytes()])
    return struct.pack(">BIB", 0xC9, len(inner), 1) + inner


def nested(named):
    tree = {}
    for name, value in named.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree


def save_flax(file, named, *, chunked=()):
    """As the state of the released training program: the optimiser's target and moments, other variables, a seed."""
    tree = nested(named)
    for name in chunked:
        place = tree
        *folders, last = name.split("/")
        for folder in folders:
            place = place[folder]
        whole = place[last]
        pieces = {str(i): piece for i, piece in enumerate(np.array_split(whole.flatten(), 3))}
        shape = {str(i): n for i, n in enumerate(whole.shape)}
        place[last] = {"__msgpack_chunked_array__": True, "shape": shape, "chunks": pieces}
    moments = nested({f"{name}/grad_ema": 0 * value for name, value in named.items()})
    optimizer = {"target": tree, "state": {"step": 7, "param_states": moments}}
    file.write_bytes(packed({"step": 7, "optimizer": optimizer, "variables": {}, "rng": np.arange(2, dtype="uint32")}))
    return file


TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10, "float16": 19}


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def masked(data):
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(pairs):
    """A block of a table: keys share their beginning with the key before, but for every sixteenth."""
    out, last, restarts = b"", b"", []
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % 16:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + b"".join(struct.pack("<I", one) for one in [*restarts, len(restarts)])


def save_bundle(folder, named, *, name="ckpt-1"):
    """Two files as TensorFlow's BundleWriter writes them, in blocks of twenty keys."""
    data, entries = b"", [(b"", field(1, 1) + field(3, field(1, 1)))]
    for key in sorted(named):
        value = named[key]
        dims = b"".join(field(2, field(1, n)) for n in value.shape)
        raw = value.tobytes()
        entry = field(1, TYPES[value.dtype.name]) + field(2, dims) + field(4, len(data)) + field(5, len(raw))
        entries.append((key.encode(), entry + varint(6 << 3 | 5) + struct.pack("<I", masked(raw))))
        data += raw
    graph = b"\x0a\x02ab"
    entries.append((b"_CHECKPOINTABLE_OBJECT_GRAPH", field(1, 7) + field(4, len(data)) + field(5, len(graph))))
    entries.sort()
    out, handles = b"", []

    def place(block):
        nonlocal out
        handle = varint(len(out)) + varint(len(block))
        out += block + b"\0" + struct.pack("<I", masked(block + b"\0"))
        return handle

    for start in range(0, len(entries), 20):
        part = entries[start : start + 20]
        handles.append((part[-1][0] + b"\0", place(block(part))))
    footer = place(block([])) + place(block(handles))
    (folder / f"{name}.data-00000-of-00001").write_bytes(data + graph)
    index = folder / f"{name}.index"
    index.write_bytes(out + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))
    return index
