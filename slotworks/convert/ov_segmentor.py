"""The weights that Jazzcharles/OVSegmentor publishes: `{"model": state dict}` of its `MultiLabelContrastive`.

The image tower has the names of GroupViT, the text tower those of `transformers`' BERT. The average tower of the second
stage is left out: what is converted is used as it is.
"""

import torch

from slotworks.convert.clippy import HEAD, vit_names
from slotworks.convert.family import Family, Made, Options, checked, completed, settings, side_of
from slotworks.convert.names import Names, carried, count, shape, split_rows, table
from slotworks.convert.source import Source
from slotworks.encoders.text import TextConfig
from slotworks.encoders.trained_vit import TrainedViTConfig
from slotworks.methods import OVSegmentorConfig

IMAGE, TEXT = "img_encoder.", "text_encoder.transformer."
HEADS = 8  # of the image tower, whatever its width: configs/default.yml
UNREAD = (
    r"img_encoder_momentum\.",
    r"logit_scale_mask$",
    r"text_encoder\.transformer\.pooler\.",
    r"text_encoder\.transformer\.embeddings\.position_ids$",
    r"multimodal_groupingblock\.blocks\.0\.assign\.",  # a part of the code that takes no part
)


def _looking(ours: str, theirs: str) -> Names:
    return table(
        """
        <here>.attention.to_q.* <there>.attn.q_proj.*
        <here>.attention.to_k.* <there>.attn.k_proj.*
        <here>.attention.to_v.* <there>.attn.v_proj.*
        <here>.attention.to_out.* <there>.attn.proj.*
        <here>.norm_mlp.* <there>.norm2.*
        <here>.norm_out.* <there>.norm_post.*
        <here>.mlp.0.* <there>.mlp.fc1.*
        <here>.mlp.2.* <there>.mlp.fc2.*
        """,
        here=ours,
        there=theirs,
    )


def _projection(ours: str, theirs: str) -> Names:
    return table(
        """
        <here>.first.* <there>.linear_hidden.0.*
        <here>.norm.* <there>.linear_hidden.1.*
        <here>.norm.running_mean <there>.linear_hidden.1.running_mean
        <here>.norm.running_var <there>.linear_hidden.1.running_var
        <here>.norm.num_batches_tracked <there>.linear_hidden.1.num_batches_tracked
        <here>.last.* <there>.linear_out.*
        """,
        here=ours,
        there=theirs,
    )


def names_of(method: OVSegmentorConfig) -> Names:
    """Their name of each tensor but for those of the text tower."""
    first, network = method.first_layers, "image.vit.network."
    found = vit_names(network, IMAGE, "layers.0.blocks", first)
    found |= vit_names(network, IMAGE, "layers.1.blocks", method.vit.num_layers - first, first)
    found |= _looking("image.grouping.look", f"{IMAGE}layers.0.downsample.pre_assign_attn")
    found |= _looking("completion.look", "multimodal_groupingblock.blocks.0.pre_assign_attn")
    found |= _projection("project_image", "img_projector") | _projection("project_text", "text_projector")
    found |= _projection("project_answer", "bridge_projector")
    return found | table(
        """
        log_scale logit_scale
        image.tokens <image>layers.0.group_token
        <network>embeddings.cls_token cls_token
        <network>embeddings.position_embeddings <image>pos_embed
        <network>embeddings.patch_embeddings.projection.* <image>patch_embed.proj.*
        <network>layernorm.* <image>norm.*
        image.grouping.norm_tokens.* <there>norm_tokens.*
        image.grouping.norm_mixed.* <there>norm_post_tokens.*
        image.grouping.norm_patches.* <there>norm_x.*
        image.grouping.mix.0.* <there>mlp_inter.fc1.*
        image.grouping.mix.2.* <there>mlp_inter.fc2.*
        image.grouping.to_q.* <there>assign.q_proj.*
        image.grouping.to_k.* <there>assign.k_proj.*
        image.grouping.to_v.* <there>assign.v_proj.*
        image.grouping.to_out.* <there>assign.proj.*
        image.grouping.norm_out.* <there>norm_new_x.*
        image.grouping.mlp.0.* <there>mlp_channels.fc1.*
        image.grouping.mlp.2.* <there>mlp_channels.fc2.*
        completion.norm_words.* <words>norm_tokens.*
        completion.norm_groups.* <words>norm_x.*
        completion.norm_self.* <words>post_attn.norm1.*
        completion.attention.to_q.* <words>post_attn.attn.q.*
        completion.attention.to_k.* <words>post_attn.attn.k.*
        completion.attention.to_v.* <words>post_attn.attn.v.*
        completion.attention.to_out.* <words>post_attn.attn.proj.*
        completion.norm_mlp.* <words>post_attn.norm2.*
        completion.mlp.0.* <words>post_attn.mlp.fc1.*
        completion.mlp.2.* <words>post_attn.mlp.fc2.*
        completion.norm_out.* <words>norm_new_x.*
        """,
        image=IMAGE,
        network=network,
        there=f"{IMAGE}layers.0.downsample.",
        words="multimodal_groupingblock.blocks.0.",
    )


def convert(source: Source, options: Options) -> Made:
    """As a run of OVSegmentor's first stage, which is what it takes to segment; the recipe is `ov_segmentor.voc`."""
    said = str(source.path)
    theirs = split_rows(source.tensors, r"img_encoder\.layers\.\d\.blocks\.\d+\.attn\.(?P<part>qkv)\.\w+", "qkv")
    theirs = split_rows(theirs, r"multimodal_groupingblock\..*\.post_attn\.attn\.(?P<part>qkv)\.\w+", "qkv")
    run = options.run("ov_segmentor.voc", OVSegmentorConfig)
    assert isinstance(run.method, OVSegmentorConfig)
    width, _, patch, _ = shape(theirs, f"{IMAGE}patch_embed.proj.weight", 4, source=said)
    positions = theirs.get(f"{IMAGE}pos_embed", torch.zeros(0)).flatten(0, -2)  # with an axis of length 1, or without
    side = side_of(len(positions), "pos_embed", source.path)
    # Without a CLS token, of which ours has one that takes no part.
    theirs = theirs | {f"{IMAGE}pos_embed": torch.cat([positions.new_zeros(1, width), positions])[None]}
    theirs["cls_token"] = positions.new_zeros(1, 1, width)
    first, late = (count(theirs, rf"img_encoder\.layers\.{n}\.blocks\.(\d+)\.") for n in (0, 1))
    vocabulary, text_width = shape(theirs, f"{TEXT}embeddings.word_embeddings.weight", 2, source=said)
    layers = count(theirs, r"text_encoder\.transformer\.encoder\.layer\.(\d+)\.")
    hidden = shape(theirs, f"{TEXT}encoder.layer.0.intermediate.dense.weight", 2, source=said)[0]
    model, heads = options.encoder or run.method.text.model, max(text_width // HEAD, 1)
    given = run.method.vit
    tokens = theirs[f"{IMAGE}layers.0.group_token"].flatten(0, -2) if f"{IMAGE}layers.0.group_token" in theirs else []
    method = settings(
        run.method,
        source=source.path,
        vit=TrainedViTConfig("", side * patch, patch, width, first + late, HEADS, given.mean, given.std),
        text=TextConfig("bert", model, (), vocabulary, text_width, layers, heads, hidden, text_width),
        stage_1=None,
        first_layers=first,
        num_tokens=len(tokens),
        num_groups=shape(theirs, f"{IMAGE}layers.0.downsample.mlp_inter.fc2.weight", 2, source=said)[0],
        project_dim=shape(theirs, "img_projector.linear_hidden.1.weight", 1, source=said)[0],
        embed_dim=shape(theirs, "img_projector.linear_out.bias", 1, source=said)[0],
        **options.given(encoder=""),
    )
    expected = method.build().state_dict()
    names = names_of(method)
    names |= {name: name.replace("text.network.", TEXT) for name in expected if name.startswith("text.network.")}
    weights = carried(theirs, names, expected, source=said, family="OVSegmentor", unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("image tower", "text tower")), source=said)


FAMILY = Family(
    "ov_segmentor",
    "OVSegmentor",
    (f"{IMAGE}layers.0.group_token", f"{TEXT}embeddings.word_embeddings.weight", "bridge_projector.linear_out.bias"),
    convert,
)
