"""The weights that ArrowLuo/SegCLIP publishes, `segclip.bin`, a plain state dict with the names of OpenAI's CLIP."""

from typing import Any

from torch import Tensor

from slotworks.convert.family import Family, Made, Options, checked, completed, settings, side_of
from slotworks.convert.names import Names, carried, count, shape, split_rows, table
from slotworks.convert.source import Source
from slotworks.encoders.text import TextConfig
from slotworks.methods import SegCLIPConfig

VISUAL, GROUPING = "clip.visual.", "clip.visual.transformer.semantic_layer2."
PAINTER = "vis_mae_decoder."
HEAD = 64  # width of an attention head in the towers; narrower ones have one
UNREAD = (r"vis_mae_decoder\.decoder_pos_embed",)  # sines and cosines


def clip_names(ours: str, theirs: str, number: int, start: int = 0) -> Names:
    """Blocks of CLIP in `transformers`, from `start` on, and in OpenAI's code, with queries, keys and values apart."""
    found: Names = {}
    for i in range(number):
        found |= table(
            """
            <here>.self_attn.q_proj.* <there>.attn.q.*
            <here>.self_attn.k_proj.* <there>.attn.k.*
            <here>.self_attn.v_proj.* <there>.attn.v.*
            <here>.self_attn.out_proj.* <there>.attn.out_proj.*
            <here>.layer_norm1.* <there>.ln_1.*
            <here>.layer_norm2.* <there>.ln_2.*
            <here>.mlp.fc1.* <there>.mlp.c_fc.*
            <here>.mlp.fc2.* <there>.mlp.c_proj.*
            """,
            here=f"{ours}.{start + i}",
            there=f"{theirs}.{i}",
        )
    return found


def names_of(method: SegCLIPConfig, vision: str, text: str) -> Names:
    """Their name of each tensor; `vision` and `text` are where `transformers` keeps the towers."""
    late = method.num_layers - method.first_layers
    found = clip_names(f"{vision}encoder.layers", f"{VISUAL}transformer.layers0", method.first_layers)
    found |= clip_names(f"{vision}encoder.layers", f"{VISUAL}transformer.layers2", late, method.first_layers)
    found |= clip_names("mask_layers", f"{VISUAL}transformer.layers_mae2", late)
    found |= clip_names(f"{text}encoder.layers", "clip.transformer.resblocks", method.text.num_layers)
    found |= table(
        """
        grouping.blocks.{i}.attention.to_q.* <there>cross_att.{i}.attn.q.*
        grouping.blocks.{i}.attention.to_k.* <there>cross_att.{i}.attn.k.*
        grouping.blocks.{i}.attention.to_v.* <there>cross_att.{i}.attn.v.*
        grouping.blocks.{i}.attention.to_out.* <there>cross_att.{i}.attn.out_proj.*
        grouping.blocks.{i}.norm_x.* <there>cross_att.{i}.ln_x.*
        grouping.blocks.{i}.norm_memory.* <there>cross_att.{i}.ln_k.*
        grouping.blocks.{i}.norm_mlp.* <there>cross_att.{i}.ln_2.*
        grouping.blocks.{i}.mlp.0.* <there>cross_att.{i}.mlp.c_fc.*
        grouping.blocks.{i}.mlp.2.* <there>cross_att.{i}.mlp.c_proj.*
        """,
        count=method.center_layers,
        there=GROUPING,
    )
    found |= table(
        """
        painter.blocks.{i}.layernorm_before.* <there>decoder_blocks.{i}.norm1.*
        painter.blocks.{i}.attention.q_proj.* <there>decoder_blocks.{i}.attn.q.*
        painter.blocks.{i}.attention.k_proj.* <there>decoder_blocks.{i}.attn.k.*
        painter.blocks.{i}.attention.v_proj.* <there>decoder_blocks.{i}.attn.v.*
        painter.blocks.{i}.attention.o_proj.* <there>decoder_blocks.{i}.attn.proj.*
        painter.blocks.{i}.layernorm_after.* <there>decoder_blocks.{i}.norm2.*
        painter.blocks.{i}.mlp.fc1.* <there>decoder_blocks.{i}.mlp.fc1.*
        painter.blocks.{i}.mlp.fc2.* <there>decoder_blocks.{i}.mlp.fc2.*
        """,
        count=method.decoder_layers,
        there=PAINTER,
    )
    return found | table(
        """
        log_scale clip.logit_scale
        <vision>embeddings.class_embedding <visual>class_embedding
        <vision>embeddings.patch_embedding.weight <visual>conv1.weight
        <vision>embeddings.position_embedding.weight <visual>positional_embedding
        <vision>pre_layrnorm.* <visual>ln_pre.*
        <vision>post_layernorm.* <visual>ln_post.*
        vision.visual_projection.weight <visual>proj
        <text>embeddings.token_embedding.weight clip.token_embedding.weight
        <text>embeddings.position_embedding.weight clip.positional_embedding
        <text>final_layer_norm.* clip.ln_final.*
        text.network.text_projection.weight clip.text_projection
        grouping.centers <there>semantic_center
        grouping.norm.* <there>norm.*
        grouping.norm_centers.* <there>cross_ln.*
        grouping.norm_keys.* <there>k_ln.*
        grouping.to_k.weight <there>k_conv.weight
        grouping.to_v.weight <there>v_conv.weight
        grouping.out.0.* <there>proj_o.ln.*
        grouping.out.1.* <there>proj_o.mlp.fc1.*
        grouping.out.3.* <there>proj_o.mlp.fc2.*
        spread.* <visual>transformer.reconstruct_layer2.rec_proj_a.a_fc.*
        painter.embed.* <painter>decoder_embed.*
        painter.mask_token <painter>mask_token
        painter.norm.* <painter>decoder_norm.*
        painter.predict.* <painter>decoder_pred.*
        """,
        vision=vision,
        text=text,
        visual=VISUAL,
        there=GROUPING,
        painter=PAINTER,
    )


def apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values as layers of their own, and projections that multiply from the right turned over."""
    found = split_rows(tensors, r"vis_mae_decoder\.decoder_blocks\.\d+\.attn\.(?P<part>qkv)\.\w+", "qkv")
    for kind in ("weight", "bias"):
        pattern = rf"clip\..*\.attn\.(?P<part>in_proj_{kind})"
        found = split_rows(found, pattern, [f"{letter}.{kind}" for letter in "qkv"])
    for name in (f"{VISUAL}proj", "clip.text_projection"):
        if name in found and found[name].ndim == 2:
            found[name] = found[name].mT.contiguous()
    return found


def convert(source: Source, options: Options) -> Made:
    """As a run of SegCLIP; the recipe is `seg_clip.voc` where none is given."""
    said, theirs = str(source.path), apart(source.tensors)
    run = options.run("seg_clip.voc", SegCLIPConfig)
    assert isinstance(run.method, SegCLIPConfig)
    width, _, patch, _ = shape(theirs, f"{VISUAL}conv1.weight", 4, source=said)
    side = side_of(shape(theirs, f"{VISUAL}positional_embedding", 2, source=said)[0] - 1, "positions", source.path)
    first, late = (count(theirs, rf"clip\.visual\.transformer\.{name}\.(\d+)\.") for name in ("layers0", "layers2"))
    vocabulary, text_width = shape(theirs, "clip.token_embedding.weight", 2, source=said)
    layers = count(theirs, r"clip\.transformer\.resblocks\.(\d+)\.")
    hidden = shape(theirs, "clip.transformer.resblocks.0.mlp.c_fc.weight", 2, source=said)[0]
    embed = shape(theirs, "clip.text_projection", 2, source=said)[0]
    tokens = shape(theirs, "clip.positional_embedding", 2, source=said)[0]
    model, heads = options.encoder or run.method.text.model, max(text_width // HEAD, 1)
    text = TextConfig("clip", model, (), vocabulary, text_width, layers, heads, hidden, embed, tokens)
    sizes: dict[str, Any] = {
        "model": "",
        "text": text,
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_dim": width,
        "num_layers": first + late,
        "num_heads": max(width // HEAD, 1),
        "first_layers": first,
        "num_groups": shape(theirs, f"{GROUPING}semantic_center", 2, source=said)[0],
        "center_layers": count(theirs, r"clip\.visual\.transformer\.semantic_layer2\.cross_att\.(\d+)\."),
        "decoder_layers": count(theirs, r"vis_mae_decoder\.decoder_blocks\.(\d+)\."),
    }
    method = settings(run.method, source=source.path, **sizes, **options.given(encoder=""))
    expected = method.build().state_dict()
    vision = next(n for n in expected if n.endswith("embeddings.class_embedding")).removesuffix(
        "embeddings.class_embedding"
    )
    texts = next(n for n in expected if n.endswith("token_embedding.weight")).removesuffix(
        "embeddings.token_embedding.weight"
    )
    weights = carried(theirs, names_of(method, vision, texts), expected, source=said, family="SegCLIP", unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("image tower", "text tower")), source=said)


FAMILY = Family(
    "seg_clip",
    "SegCLIP",
    (f"{GROUPING}semantic_center", f"{VISUAL}conv1.weight", "clip.token_embedding.weight"),
    convert,
)
