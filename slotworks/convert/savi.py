"""SAVi of its authors: a checkpoint of flax, with boxes of the first frame, optical flow and a CNN or a ResNet-34.

Names are those of google-research/slot-attention-video at ba8f15ee1947, `savi/modules`, put together as in
`savi/configs/movi/savi_conditional_*.py`. flax stores kernels `in out` and `h w in out`, those of heads `in heads
width`; its transposed convolution slides the kernel as it is, where torch turns it round. Boxes are `y x y x`.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from slotworks.convert.family import Family, Made, Options, checked, completed, expected_of, settings
from slotworks.convert.names import Names, carried, count, shape, table
from slotworks.convert.source import Source
from slotworks.errors import UserError
from slotworks.methods import SAViConfig

CONVOLUTIONS = """
    encoder.backbone.convs.{i}.* FrameEncoder_0/CNN_0/conv_{i}.*
"""
RESNET = """
    encoder.backbone.stem.weight <net>/init_conv.weight
    encoder.backbone.stem_norm.* <net>/init_bn.*
"""
RESNET_BLOCK = """
    encoder.backbone.blocks.<n>.conv1.weight <block>/conv1.weight
    encoder.backbone.blocks.<n>.conv2.weight <block>/conv2.weight
    encoder.backbone.blocks.<n>.norm1.*      <block>/bn1.*
    encoder.backbone.blocks.<n>.norm2.*      <block>/bn2.*
"""
RESNET_SHORTCUT = """
    encoder.backbone.blocks.<n>.shortcut.0.weight <block>/proj_conv.weight
    encoder.backbone.blocks.<n>.shortcut.1.*      <block>/proj_bn.*
"""
NAMES = """
    encoder.position.project.* FrameEncoder_0/PositionEmbedding_0/dense_pe_0.*
    encoder.norm.*             FrameEncoder_0/PositionEmbedding_0/MLP_0/LayerNorm_0.*
    encoder.mlp.0.*            FrameEncoder_0/PositionEmbedding_0/MLP_0/dense_mlp_0.*
    encoder.mlp.2.*            FrameEncoder_0/PositionEmbedding_0/MLP_0/dense_mlp_1.*
    initializer.mlp.0.*        CoordinateEncoderStateInit_0/MLP_0/dense_mlp_0.*
    initializer.mlp.2.*        CoordinateEncoderStateInit_0/MLP_0/dense_mlp_1.*
    video_slots.corrector.norm_features.* SlotAttention_0/LayerNorm_1.*
    video_slots.corrector.norm_slots.*    SlotAttention_0/LayerNorm_0.*
    video_slots.corrector.to_q.weight     SlotAttention_0/general_dense_q_0.weight
    video_slots.corrector.to_k.weight     SlotAttention_0/general_dense_k_0.weight
    video_slots.corrector.to_v.weight     SlotAttention_0/general_dense_v_0.weight
    video_slots.corrector.gru.@           SlotAttention_0/GRU_0.@
    video_slots.predictor.blocks.0.attention.to_q.*   TransformerBlock_0/MultiHeadDotProductAttention_0/query.*
    video_slots.predictor.blocks.0.attention.to_k.*   TransformerBlock_0/MultiHeadDotProductAttention_0/key.*
    video_slots.predictor.blocks.0.attention.to_v.*   TransformerBlock_0/MultiHeadDotProductAttention_0/value.*
    video_slots.predictor.blocks.0.attention.to_out.* TransformerBlock_0/MultiHeadDotProductAttention_0/out.*
    video_slots.predictor.blocks.0.norm_attention.*   TransformerBlock_0/LayerNorm_0.*
    video_slots.predictor.blocks.0.norm_mlp.*         TransformerBlock_0/LayerNorm_1.*
    video_slots.predictor.blocks.0.mlp.0.*            TransformerBlock_0/MLP_0/dense_mlp_0.*
    video_slots.predictor.blocks.0.mlp.2.*            TransformerBlock_0/MLP_0/dense_mlp_1.*
    decoder.position.project.* SpatialBroadcastDecoder_0/PositionEmbedding_0/dense_pe_0.*
    decoder.layers.{i}.*       SpatialBroadcastDecoder_0/CNN_0/conv_{i}.*
    decoder.last.*             SpatialBroadcastDecoder_0/last.*
"""
MARK = "SlotAttention_0/GRU_0/GRUCell_0/hn/kernel"
GRU = "SlotAttention_0/GRU_0"
DECODER = "SpatialBroadcastDecoder_0"
BOXES = "CoordinateEncoderStateInit_0/MLP_0/dense_mlp_0"


def is_of(source: Source) -> bool:
    """Whether there is a Slot Attention of SAVi in it."""
    return any(name.endswith(MARK) for name in source.tensors)


def convert(source: Source, options: Options) -> Made:
    """As `SAViConfig`: SAVi-S, -M or -L by their encoders. Strides, sizes of images and iterations are the recipe's."""
    said = str(source.path)
    mark = next(name for name in source.tensors if name.endswith(MARK))
    prefix = mark.removesuffix(MARK)
    theirs = {name.removeprefix(prefix): v for name, v in source.tensors.items() if name.startswith(prefix)}
    nets = (re.match(r"(FrameEncoder_0/\w+)/init_conv/kernel", name) for name in theirs)
    resnet = next((match[1] for match in nets if match), "")
    layers = count(theirs, rf"{DECODER}/CNN_0/conv_(\d+)/")
    facts: dict[str, Any] = {
        "slot_dim": shape(theirs, "SlotAttention_0/LayerNorm_0/scale", 1, source=said)[0],
        "qkv_dim": shape(theirs, "SlotAttention_0/general_dense_q_0/kernel", 3, source=said)[1:].numel(),
        "predictor_mlp_dim": shape(theirs, "TransformerBlock_0/MLP_0/dense_mlp_0/kernel", 2, source=said)[1],
        "encoder_hidden_dim": shape(
            theirs, "FrameEncoder_0/PositionEmbedding_0/MLP_0/dense_mlp_0/kernel", 2, source=said
        )[1],
        "decoder_channels": shape(theirs, f"{DECODER}/CNN_0/conv_0/kernel", 4, source=said)[3],
    }
    query = shape(theirs, "TransformerBlock_0/MultiHeadDotProductAttention_0/query/kernel", 3, source=said)
    facts["predictor_qkv_dim"] = query[1:].numel()
    inputs = shape(theirs, f"{BOXES}/kernel", 2, source=said)[0]
    facts["initializer"] = "boxes" if inputs == 4 else "centers"
    if resnet:
        names, size = _resnet_names(theirs, resnet), "large"
        facts["encoder_channels"] = shape(theirs, f"{resnet}/init_conv/kernel", 4, source=said)[3]
    else:
        names = table(CONVOLUTIONS, count=count(theirs, r"FrameEncoder_0/CNN_0/conv_(\d+)/"))
        facts["encoder_channels"] = shape(theirs, "FrameEncoder_0/CNN_0/conv_0/kernel", 4, source=said)[3]
        size = "medium" if facts["encoder_channels"] == 64 else "small"
    run = options.run(f"savi.movi_a_{size}", SAViConfig)
    given = options.given(image_size="image_size")
    if "image_size" in given:
        given["image_size"] = (given["image_size"],) * 2
    method = settings(run.method, source=source.path, **(facts | given))
    convolutions = count(names, r"encoder\.backbone\.convs\.(\d+)\.")
    for name, found in (("encoder_strides", convolutions), ("decoder_strides", layers)):
        own = getattr(method, name)
        if found and found != len(own):
            raise UserError(f"{said} has {found} layers, but {name} are {list(own)}; give one number for each layer.")
    assert isinstance(method, SAViConfig)
    torch_like = _torch_like(theirs, method, said)
    names |= table(NAMES, count=layers)
    weights = carried(torch_like, names, expected_of(method), source=said, family="SAVi (google-research)")
    made = Made(completed(run, method, source.path), weights, (resnet.rpartition("/")[2] or "CNN", "decoder"))
    return checked(made, source=said)


def _resnet_names(theirs: dict[str, Tensor], net: str) -> Names:
    """Stages and blocks count from one there, and all blocks through here."""
    names = table(RESNET, net=net)
    found = sorted({(int(m[1]), int(m[2])) for n in theirs if (m := re.match(rf"{net}/stage(\d+)/block(\d+)/", n))})
    for number, (stage, block) in enumerate(found):
        place = f"{net}/stage{stage}/block{block}"
        names |= table(RESNET_BLOCK, n=str(number), block=place)
        if f"{place}/proj_conv/kernel" in theirs:
            names |= table(RESNET_SHORTCUT, n=str(number), block=place)
    return names


def _torch_like(theirs: dict[str, Tensor], method: SAViConfig, said: str) -> dict[str, Tensor]:
    """Kernels as torch has them, `weight` and `bias` for names, and the GRU's four arrays."""
    found = {}
    for name, value in theirs.items():
        stem, _, kind = name.rpartition("/")
        if stem.startswith((f"{GRU}/", f"{DECODER}/Readout_0", f"{DECODER}/alpha_logits")):
            continue
        if kind == "kernel":
            found[f"{stem}.weight"] = _turn(stem, method)(value).contiguous()
        elif kind in ("scale", "bias"):
            found[f"{stem}.{'weight' if kind == 'scale' else 'bias'}"] = value.flatten()
        else:
            found[name] = value
    return found | _gru(theirs, said) | _last(theirs, said)


def _turn(stem: str, method: SAViConfig) -> Callable[[Tensor], Tensor]:
    match = re.fullmatch(rf"{DECODER}/CNN_0/conv_(\d+)", stem)
    strides = method.decoder_strides
    if match and int(match[1]) < len(strides) and strides[int(match[1])] == 2:
        return lambda value: value.permute(2, 3, 0, 1).flip(2, 3) if value.ndim == 4 else value
    if stem == BOXES:  # rows come first there
        order = [1, 0, 3, 2]
        return lambda value: value.T[:, order[: len(value)]] if value.ndim == 2 else value
    if stem.endswith("/out"):
        return lambda value: value.flatten(0, -2).T

    def turn(value: Tensor) -> Tensor:
        if value.ndim == 4:
            return value.permute(3, 2, 0, 1)
        return value.flatten(1).T if value.ndim > 1 else value

    return turn


def _gru(theirs: dict[str, Tensor], said: str) -> dict[str, Tensor]:
    """Its gates are apart there, and all but the candidate's have one bias."""
    cell = f"{GRU}/GRUCell_0"
    wanted = [f"{cell}/{way}{gate}/kernel" for way in "ih" for gate in "rzn"]
    wanted += [f"{cell}/i{gate}/bias" for gate in "rzn"] + [f"{cell}/hn/bias"]
    for name in wanted:
        if name not in theirs or theirs[name].ndim != (1 if name.endswith("bias") else 2):
            raise UserError(f"{said}: the tensor {name} is missing or has another shape.")
    last = theirs[f"{cell}/hn/bias"]
    return {
        f"{GRU}.weight_ih": torch.cat([theirs[f"{cell}/i{gate}/kernel"].T for gate in "rzn"]),
        f"{GRU}.weight_hh": torch.cat([theirs[f"{cell}/h{gate}/kernel"].T for gate in "rzn"]),
        f"{GRU}.bias_ih": torch.cat([theirs[f"{cell}/i{gate}/bias"] for gate in "rzn"]),
        f"{GRU}.bias_hh": torch.cat([torch.zeros(2 * len(last)), last]),
    }


def _last(theirs: dict[str, Tensor], said: str) -> dict[str, Tensor]:
    """Heads of the targets, one below the other, and then the one of the masks."""
    targets = count(theirs, rf"{DECODER}/Readout_0/Dense_(\d+)/")
    heads = [f"{DECODER}/Readout_0/Dense_{i}/Dense_0" for i in range(targets)]
    heads.append(f"{DECODER}/alpha_logits")
    for name in (f"{head}/{kind}" for head in heads for kind in ("kernel", "bias")):
        if name not in theirs:
            raise UserError(f"{said}: the tensor {name} is missing.")
    return {
        f"{DECODER}/last.weight": torch.cat([theirs[f"{head}/kernel"].T for head in heads])[:, :, None, None],
        f"{DECODER}/last.bias": torch.cat([theirs[f"{head}/bias"] for head in heads]),
    }


FAMILY = Family("savi", "SAVi of google-research", (), convert, layouts=("flax",), test=is_of)
