"""Tables of names for networks that several families have: SLATE's discrete VAE, Transformer and Slot Attention,
SlotDiffusion's ResNet-18, Slot Attention and predictor, the U-Net and the VQ-VAE of latent diffusion.

In the tables `<ours>` and `<theirs>` stand for what comes before a part's names here and there.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from slotworks.convert.names import Names, count, shape, split_rows, table
from slotworks.decoders import DenoiserConfig, VQConfig
from slotworks.errors import UserError

# ---- SLATE and what follows it: singhgautam/slate 06f63c532996, singhgautam/steve b8de3e6ab336 -----------------------

DVAE = """
    <ours>encoder.{i}.conv.weight <theirs>encoder.{i}.m.weight
"""
DVAE_DECODER = """
    <ours>first.conv.weight <theirs>decoder.0.m.weight
    <ours>decoder.0.conv.weight <theirs>decoder.1.m.weight
    <ours>decoder.1.conv.weight <theirs>decoder.2.m.weight
    <ours>decoder.2.conv.weight <theirs>decoder.3.m.weight
    <ours>decoder.3.conv.weight <theirs>decoder.4.m.weight
    <ours>decoder.5.conv.weight <theirs>decoder.6.m.weight
    <ours>decoder.6.conv.weight <theirs>decoder.7.m.weight
    <ours>decoder.7.conv.weight <theirs>decoder.8.m.weight
    <ours>decoder.8.conv.weight <theirs>decoder.9.m.weight
"""
DVAE_ENDS = """
    <ours>encoder.7.*  <theirs>encoder.7.*
    <ours>decoder.10.* <theirs>decoder.11.*
"""
TRANSFORMER = """
    <ours>final_norm.* <theirs>layer_norm.*
    <ours>blocks.{i}.norm_self.*  <theirs>blocks.{i}.self_attn_layer_norm.*
    <ours>blocks.{i}.norm_cross.* <theirs>blocks.{i}.encoder_decoder_attn_layer_norm.*
    <ours>blocks.{i}.norm_mlp.*   <theirs>blocks.{i}.ffn_layer_norm.*
    <ours>blocks.{i}.mlp.0.*      <theirs>blocks.{i}.ffn.0.*
    <ours>blocks.{i}.mlp.2.*      <theirs>blocks.{i}.ffn.2.*
    <ours>blocks.{i}.self_attention.to_q.weight    <theirs>blocks.{i}.self_attn.proj_q.weight
    <ours>blocks.{i}.self_attention.to_k.weight    <theirs>blocks.{i}.self_attn.proj_k.weight
    <ours>blocks.{i}.self_attention.to_v.weight    <theirs>blocks.{i}.self_attn.proj_v.weight
    <ours>blocks.{i}.self_attention.to_out.weight  <theirs>blocks.{i}.self_attn.proj_o.weight
    <ours>blocks.{i}.cross_attention.to_q.weight   <theirs>blocks.{i}.encoder_decoder_attn.proj_q.weight
    <ours>blocks.{i}.cross_attention.to_k.weight   <theirs>blocks.{i}.encoder_decoder_attn.proj_k.weight
    <ours>blocks.{i}.cross_attention.to_v.weight   <theirs>blocks.{i}.encoder_decoder_attn.proj_v.weight
    <ours>blocks.{i}.cross_attention.to_out.weight <theirs>blocks.{i}.encoder_decoder_attn.proj_o.weight
"""
SLOT_ATTENTION = """
    <ours>norm_features.* <theirs>norm_inputs.*
    <ours>norm_slots.*    <theirs>norm_slots.*
    <ours>norm_mlp.*      <theirs>norm_mlp.*
    <ours>to_q.weight     <theirs>project_q.weight
    <ours>to_k.weight     <theirs>project_k.weight
    <ours>to_v.weight     <theirs>project_v.weight
    <ours>gru.@           <theirs>gru.@
    <ours>mlp.0.*         <theirs>mlp.0.*
    <ours>mlp.2.*         <theirs>mlp.2.*
"""
MASK = r".*blocks\.\d+\.self_attn_mask$"
"""The causal mask, which is computed here."""


def dvae_names(theirs: Mapping[str, Tensor], *, ours: str, its: str) -> tuple[Names, str]:
    """The table of SLATE's discrete VAE, and which block it has: `norm`, SLATE's, or `bias`, STEVE's."""
    convolutions = table(DVAE, count=7, ours=ours, theirs=its) | table(DVAE_DECODER, ours=ours, theirs=its)
    block = "bias" if f"{its}encoder.0.m.bias" in theirs else "norm"
    names = dict(convolutions)
    for our, their in convolutions.items():
        layer, inner = our.removesuffix(".conv.weight"), their.removesuffix(".m.weight")
        if block == "bias":
            names[f"{layer}.conv.bias"] = f"{inner}.m.bias"
        else:
            names |= {f"{layer}.norm.{kind}": f"{inner}.{kind}" for kind in ("weight", "bias")}
    return names | table(DVAE_ENDS, ours=ours, theirs=its), block


def transformer_names(theirs: Iterable[str], *, ours: str, its: str) -> tuple[Names, int]:
    """The table of SLATE's Transformer decoder, and how many blocks it has."""
    blocks = count(theirs, rf"{re.escape(its)}blocks\.(\d+)\.")
    return table(TRANSFORMER, count=blocks, ours=ours, theirs=its), blocks


# ---- SlotDiffusion: Wuziyi616/SlotDiffusion eacfc9a83a3e -------------------------------------------------------------

RESNET = """
    <ours>stem.weight <theirs>conv1.weight
    <ours>stem_norm.* <theirs>bn1.*
    <ours>blocks.{2i}.conv1.weight   <theirs>layer{i+1}.0.conv1.weight
    <ours>blocks.{2i}.conv2.weight   <theirs>layer{i+1}.0.conv2.weight
    <ours>blocks.{2i}.norm1.*        <theirs>layer{i+1}.0.bn1.*
    <ours>blocks.{2i}.norm2.*        <theirs>layer{i+1}.0.bn2.*
    <ours>blocks.{2i+1}.conv1.weight <theirs>layer{i+1}.1.conv1.weight
    <ours>blocks.{2i+1}.conv2.weight <theirs>layer{i+1}.1.conv2.weight
    <ours>blocks.{2i+1}.norm1.*      <theirs>layer{i+1}.1.bn1.*
    <ours>blocks.{2i+1}.norm2.*      <theirs>layer{i+1}.1.bn2.*
"""
SHORTCUTS = """
    <ours>blocks.{2i+2}.shortcut.0.weight <theirs>layer{i+2}.0.downsample.0.weight
    <ours>blocks.{2i+2}.shortcut.1.*      <theirs>layer{i+2}.0.downsample.1.*
"""
NESTED_ATTENTION = """
    <ours>norm_features.* <theirs>norm_inputs.*
    <ours>norm_slots.*    <theirs>project_q.0.*
    <ours>to_q.weight     <theirs>project_q.1.weight
    <ours>to_k.weight     <theirs>project_k.weight
    <ours>to_v.weight     <theirs>project_v.weight
    <ours>gru.@           <theirs>gru.@
    <ours>norm_mlp.*      <theirs>mlp.0.*
    <ours>mlp.0.*         <theirs>mlp.1.*
    <ours>mlp.2.*         <theirs>mlp.3.*
"""
PREDICTOR = """
    <ours>blocks.{i}.norm_attention.*   <theirs>layers.{i}.norm1.*
    <ours>blocks.{i}.norm_mlp.*         <theirs>layers.{i}.norm2.*
    <ours>blocks.{i}.mlp.0.*            <theirs>layers.{i}.linear1.*
    <ours>blocks.{i}.mlp.2.*            <theirs>layers.{i}.linear2.*
    <ours>blocks.{i}.attention.to_out.* <theirs>layers.{i}.self_attn.out_proj.*
    <ours>blocks.{i}.attention.to_q.*   <theirs>layers.{i}.self_attn.q_*
    <ours>blocks.{i}.attention.to_k.*   <theirs>layers.{i}.self_attn.k_*
    <ours>blocks.{i}.attention.to_v.*   <theirs>layers.{i}.self_attn.v_*
"""
IN_PROJ = r".*self_attn\.(?P<part>in_proj)_\w+"


def resnet_names(theirs: Iterable[str], *, ours: str, its: str) -> tuple[Names, int]:
    """The table of a ResNet-18, and how many stages it has."""
    stages = count(theirs, rf"{re.escape(its)}layer(\d)\.")
    names = table(RESNET, count=stages, ours=ours, theirs=its)
    return names | table(SHORTCUTS, count=max(stages - 1, 0), ours=ours, theirs=its), stages


def predictor_names(theirs: Iterable[str], *, ours: str, its: str) -> tuple[Names, int]:
    """The table of torch's Transformer, with queries, keys and values apart, and how many layers it has."""
    layers = count(theirs, rf"{re.escape(its)}layers\.(\d+)\.")
    return table(PREDICTOR, count=layers, ours=ours, theirs=its), layers


def with_separate_rows(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the queries, keys and values of torch's attention apart."""
    return split_rows(theirs, IN_PROJ, "qkv")


# ---- latent diffusion: the U-Net and the VQ-VAE as SlotDiffusion's repository has them -------------------------------


def _by_rules(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def denoiser_of(theirs: Mapping[str, Tensor], config: DenoiserConfig, *, source: str) -> dict[str, object]:
    """Measures of a U-Net, by its own names: fields of `DenoiserConfig`.

    Raises:
        UserError: blocks and levels do not fit together.
    """
    blocks = count(theirs, r"input_blocks\.(\d+)\.")
    levels = 1 + sum(name.endswith(".0.op.weight") for name in theirs)
    layers, rest = divmod(blocks - levels, levels)
    if rest or layers < 1:
        raise UserError(f"{source}: {blocks} input blocks on {levels} levels are no U-Net that is known here.")
    first = [1 + level * (layers + 1) for level in range(levels)]
    dims = tuple(shape(theirs, f"input_blocks.{k}.0.out_layers.3.weight", 4, source=source)[0] for k in first)
    attended = [f"input_blocks.{k}.1.proj_in.weight" in theirs for k in first]
    start = attended.index(True) if True in attended else levels
    if not all(attended[start:]):
        raise UserError(f"{source}: its U-Net has attention on the levels {attended}; expected from one level on.")
    return {"dims": dims, "layers": layers, "attention_from": start}


def unet_name(name: str, config: DenoiserConfig) -> str:
    """Their name of a tensor that has this one in a U-Net of `diffusers`."""
    layers, levels = config.layers, len(config.dims)

    def place(match: re.Match[str]) -> str:
        level, kind, k = int(match["level"]), match["kind"], int(match["k"])
        if match["way"] == "down":  # what halves the side comes after the level's blocks
            block = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else k)
            return f"input_blocks.{block}.{int(kind == 'attentions')}"
        if kind == "upsamplers":
            attended = levels - 1 - level >= config.attention_from
            return f"output_blocks.{level * (layers + 1) + layers}.{1 + attended}"
        return f"output_blocks.{level * (layers + 1) + k}.{int(kind == 'attentions')}"

    name = re.sub(r"^(?P<way>down|up)_blocks\.(?P<level>\d+)\.(?P<kind>[a-z]+)\.(?P<k>\d+)", place, name)
    residual = r"((?:input|output|middle)_blocks?[\d.]+)\."
    return _by_rules(
        name,
        (
            (r"^time_embedding\.linear_1", "time_embed.0"),
            (r"^time_embedding\.linear_2", "time_embed.2"),
            (r"^conv_in", "input_blocks.0.0"),
            (r"^conv_norm_out", "out.0"),
            (r"^conv_out", "out.2"),
            (r"^mid_block\.resnets\.0", "middle_block.0"),
            (r"^mid_block\.resnets\.1", "middle_block.2"),
            (r"^mid_block\.attentions\.0", "middle_block.1"),
            (r"^(input_blocks\.\d+\.0)\.conv\.(weight|bias)$", r"\1.op.\2"),
            (residual + r"norm1\.(weight|bias)$", r"\1.in_layers.0.\2"),
            (residual + r"conv1\.", r"\1.in_layers.2."),
            (residual + r"time_emb_proj\.", r"\1.emb_layers.1."),
            (residual + r"norm2\.(weight|bias)$", r"\1.out_layers.0.\2"),
            (residual + r"conv2\.", r"\1.out_layers.3."),
            (residual + r"conv_shortcut\.", r"\1.skip_connection."),
        ),
    )


def autoencoder_of(theirs: Mapping[str, Tensor], *, source: str) -> VQConfig:
    """Measures of a VQ-VAE, by its own names.

    Raises:
        UserError: it is none that is known here.
    """
    levels = count(theirs, r"encoder\.down\.(\d+)\.")
    dims = [shape(theirs, f"encoder.down.{k}.block.0.conv2.weight", 4, source=source)[0] for k in range(levels)]
    codes, width = shape(theirs, "quantize.embedding.weight", 2, source=source)
    return VQConfig(
        dims=tuple(dims),
        layers=count(theirs, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_dim=width,
        num_codes=codes,
        attention="encoder.mid.attn_1.q.weight" in theirs,
    )


def autoencoder_name(name: str, config: VQConfig) -> str:
    """Their name of a tensor that has this one in `VQModel` of `diffusers`; they count its levels from the finest."""
    last = len(config.dims) - 1
    name = re.sub(r"up_blocks\.(\d+)\.", lambda match: f"up.{last - int(match[1])}.", name)
    return _by_rules(
        name,
        (
            (r"down_blocks\.(\d+)\.", r"down.\1."),
            (r"(down|up)\.(\d+)\.resnets\.", r"\1.\2.block."),
            (r"down\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
            (r"up\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
            (r"mid_block\.resnets\.0", "mid.block_1"),
            (r"mid_block\.resnets\.1", "mid.block_2"),
            (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
            (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
            (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
            (r"conv_norm_out", "norm_out"),
            (r"conv_shortcut", "nin_shortcut"),
        ),
    )
