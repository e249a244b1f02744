"""The vision transformer inside a checkpoint, by the names of DINO, DINOv2 and timm, and the one in `transformers`."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slotworks.convert.names import count, shape, split_rows
from slotworks.encoders.vit import KNOWN, ViTConfig, fitted, load_network
from slotworks.errors import UserError, needs_extra

OWN = "own"
BLOCK = {
    r"(layernorm_before|norm1)\.(?P<kind>\w+)": "norm1",
    r"attention\..*?(q_proj|query)\.(?P<kind>\w+)": "attn.q",
    r"attention\..*?(k_proj|key)\.(?P<kind>\w+)": "attn.k",
    r"attention\..*?(v_proj|value)\.(?P<kind>\w+)": "attn.v",
    r"attention\.(o_proj|output\.dense)\.(?P<kind>\w+)": "attn.proj",
    r"layer_scale([12])\.lambda1": "ls{}.gamma",
    r"(layernorm_after|norm2)\.(?P<kind>\w+)": "norm2",
    r"(mlp\.fc1|intermediate\.dense)\.(?P<kind>\w+)": "mlp.fc1",
    r"(mlp\.fc2|output\.dense)\.(?P<kind>\w+)": "mlp.fc2",
}
"""A name in a block of `transformers`, as its versions 5 have it -> theirs."""


def separate(network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network by their names, with queries, keys and values apart."""
    return split_rows(network, r"blocks\.\d+\.attn\.(?P<part>qkv)\.\w+", "qkv")


def network_of(network: Mapping[str, Tensor], side: int, *, encoder: str | None, out: Path, source: str) -> ViTConfig:
    """Which pretrained network a checkpoint was trained on: the one that is named, or that of these measures.

    Args:
        network: by their names; queries, keys and values apart.
        side: patches along a side of the images.
        encoder: hub id or folder; `own` for the one in the checkpoint, which then lies in `out`.
        out: the run folder.
        source: the file's name, for messages.

    Raises:
        UserError: no network of these measures is known.
    """
    width, _, patch, _ = shape(network, "patch_embed.proj.weight", 4, source=source)
    known = _known(network, width, patch)
    if encoder is None and known is None:
        raise UserError(
            f"{source} was trained on a vision transformer {width} wide with patches of {patch} pixels, of which no "
            "published one is known here; name it with --encoder, or take the checkpoint's with --encoder own."
        )
    if encoder == OWN:
        made = ViTConfig(str(out / "encoder"), side * patch, patch, width)
        return replace(made, position_offset=known.position_offset if known else 0.0)
    if encoder is None:
        assert known is not None
        return replace(known, image_size=side * patch)
    return fitted(ViTConfig(encoder, side * patch, patch, width))


def _known(network: Mapping[str, Tensor], width: int, patch: int) -> ViTConfig | None:
    later = "blocks.0.ls1.gamma" in network
    registers = any("reg" in name for name in network)
    wanted = (patch, width, later, registers)
    for one in KNOWN.values():
        if wanted == (one.patch_size, one.feature_dim, "dinov2" in one.model, "registers" in one.model):
            return one
    return None


def check_network(config: ViTConfig, network: Mapping[str, Tensor], *, source: str) -> nn.ModuleList:
    """Compare the blocks of the network that is named with those in the checkpoint; gives the blocks.

    Raises:
        UserError: they differ, or the network cannot be had.
    """
    _, blocks = load_network(config)
    for number, block in enumerate(blocks):
        for name, value in block_weights(network, number, block, source=source).items():
            if not torch.allclose(value, block.state_dict()[name], rtol=1e-4, atol=1e-5):
                raise UserError(
                    f"The vision transformer in {source} is not {config.model}: they differ in block {number}. Name "
                    "its network with --encoder, or take the one in the checkpoint with --encoder own."
                )
    return blocks


def block_weights(network: Mapping[str, Tensor], number: int, block: nn.Module, *, source: str) -> dict[str, Tensor]:
    """The weights of one block under the names of `transformers`.

    Raises:
        UserError: one is missing or has another shape.
    """
    found = {}
    for name, own in block.state_dict().items():
        theirs = f"blocks.{number}.{_their_name(name)}"
        if theirs not in network or network[theirs].shape != own.shape:
            raise UserError(f"{source} lacks the tensor {theirs} with the shape {tuple(own.shape)}.")
        found[name] = network[theirs]
    return found


def _their_name(name: str) -> str:
    for pattern, theirs in BLOCK.items():
        if match := re.fullmatch(pattern, name):
            return f"{theirs}.{match['kind']}" if "kind" in match.re.groupindex else theirs.format(match[1])
    return name


def blocks_of(model: Any) -> nn.ModuleList:
    """The blocks of a vision transformer of `transformers`."""
    depth = model.config.num_hidden_layers
    return next(part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == depth)


def their_network(model: Any, blocks: nn.ModuleList) -> dict[str, Tensor]:
    """A vision transformer of `transformers` by the names of DINO and timm."""
    embeddings = model.embeddings
    found = {
        "cls_token": embeddings.cls_token,
        "pos_embed": embeddings.position_embeddings,
        "patch_embed.proj.weight": embeddings.patch_embeddings.projection.weight,
        "patch_embed.proj.bias": embeddings.patch_embeddings.projection.bias,
        "norm.weight": model.layernorm.weight,
        "norm.bias": model.layernorm.bias,
    }
    if getattr(embeddings, "mask_token", None) is not None:
        found["mask_token"] = embeddings.mask_token
    for number, block in enumerate(blocks):
        own = {_their_name(name): value for name, value in block.state_dict().items()}
        for kind in ("weight", "bias"):
            own[f"attn.qkv.{kind}"] = torch.cat([own.pop(f"attn.{letter}.{kind}") for letter in "qkv"])
        found |= {f"blocks.{number}.{name}": value for name, value in own.items()}
    return found


def own_network(network: Mapping[str, Tensor], *, source: str) -> Any:
    """The vision transformer in a checkpoint as a model of `transformers`.

    Heads are 64 wide, as in every DINO, DINOv2 and MAE; narrower networks have one.

    Raises:
        UserError: it is none that can be rebuilt.
    """
    with needs_extra("vision"):
        import transformers
    width, _, patch, _ = shape(network, "patch_embed.proj.weight", 4, source=source)
    positions = shape(network, "pos_embed", 3, source=source)[1]
    depth, later = count(network, r"blocks\.(\d+)\."), "blocks.0.ls1.gamma" in network
    if any("reg" in name for name in network) or not depth:
        raise UserError(f"{source} holds a vision transformer with registers or without blocks; name one by --encoder.")
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": max(width // 64, 1),
    }
    sizes |= {"image_size": round((positions - 1) ** 0.5) * patch, "patch_size": patch, "layer_norm_eps": 1e-6}
    if later:
        model: Any = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    else:
        hidden = shape(network, "blocks.0.mlp.fc1.weight", 2, source=source)[0]
        config = transformers.ViTConfig(intermediate_size=hidden, **sizes)
        model = transformers.ViTModel(config, add_pooling_layer=False)
    weights = {
        "embeddings.cls_token": network["cls_token"],
        "embeddings.position_embeddings": network["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": network["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": network["patch_embed.proj.bias"],
    }
    if later and "mask_token" in network:
        weights["embeddings.mask_token"] = network["mask_token"]
    if "norm.weight" in network:
        weights |= {f"layernorm.{kind}": network[f"norm.{kind}"] for kind in ("weight", "bias")}
    blocks = blocks_of(model)
    prefix = next(name for name, part in model.named_modules() if part is blocks)
    for number, block in enumerate(blocks):
        named = block_weights(network, number, block, source=source)
        weights |= {f"{prefix}.{number}.{name}": value for name, value in named.items()}
    try:
        left = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise UserError(f"{source} holds a vision transformer of other measures ({str(error)[:120]}).") from None
    unset = [name for name in left.missing_keys if "mask_token" not in name and not name.startswith("layernorm.")]
    if unset:
        raise UserError(f"{source} lacks what {unset[0]} of its vision transformer needs.")
    return model
