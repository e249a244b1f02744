"""The weights that kahnchana/clippy publishes, `clippy_5k.pt`: `{"state_dict": ...}` of its fork of open_clip.

The image tower has the names of timm, the text tower those of a Sentence-T5 in `sentence_transformers`.
"""

import torch

from slotworks.convert.family import Family, Made, Options, checked, completed, settings, side_of
from slotworks.convert.names import Names, carried, count, shape, table
from slotworks.convert.networks import separate
from slotworks.convert.source import Source
from slotworks.encoders.text import TextConfig
from slotworks.encoders.trained_vit import TrainedViTConfig
from slotworks.methods import CLIPpyConfig

VISUAL, TEXT = "visual.trunk.", "text.0.auto_model."
OURS = "vit.network."
HEAD = 64  # width of an attention head in every tower of this kind; narrower ones have one


def vit_names(ours: str, theirs: str, block: str, count: int, first: int = 0) -> Names:
    """Blocks of `transformers`' ViT and of timm's, with queries, keys and values apart."""
    lines = """
        <here>.{i}.layernorm_before.* <there>.{i}.norm1.*
        <here>.{i}.attention.q_proj.* <there>.{i}.attn.q.*
        <here>.{i}.attention.k_proj.* <there>.{i}.attn.k.*
        <here>.{i}.attention.v_proj.* <there>.{i}.attn.v.*
        <here>.{i}.attention.o_proj.* <there>.{i}.attn.proj.*
        <here>.{i}.layernorm_after.* <there>.{i}.norm2.*
        <here>.{i}.mlp.fc1.* <there>.{i}.mlp.fc1.*
        <here>.{i}.mlp.fc2.* <there>.{i}.mlp.fc2.*
    """
    found = table(lines, count=count, here=f"{ours}layers", there=f"{theirs}{block}")
    if not first:
        return found
    moved = {f"{ours}layers.{i}.": f"{ours}layers.{i + first}." for i in range(count)}
    return {next(name.replace(a, b, 1) for a, b in moved.items() if name.startswith(a)): v for name, v in found.items()}


def convert(source: Source, options: Options) -> Made:
    """As a run of CLIPpy; the recipe is `clippy.voc` where none is given."""
    said = str(source.path)
    theirs = {name.removeprefix(VISUAL): v for name, v in source.tensors.items() if name.startswith(VISUAL)}
    theirs = {f"{VISUAL}{name}": v for name, v in separate(theirs).items()}
    theirs |= {name: v for name, v in source.tensors.items() if not name.startswith(VISUAL)}
    run = options.run("clippy.voc", CLIPpyConfig)
    assert isinstance(run.method, CLIPpyConfig)
    width, _, patch, _ = shape(theirs, f"{VISUAL}patch_embed.proj.weight", 4, source=said)
    side = side_of(shape(theirs, f"{VISUAL}pos_embed", 3, source=said)[1] - 1, "pos_embed", source.path)
    depth = count(theirs, r"visual\.trunk\.blocks\.(\d+)\.")
    vit = TrainedViTConfig(
        "", side * patch, patch, width, depth, max(width // HEAD, 1), run.method.vit.mean, run.method.vit.std
    )
    vocabulary, text_width = shape(theirs, f"{TEXT}shared.weight", 2, source=said)
    layers = count(theirs, r"text\.0\.auto_model\.encoder\.block\.(\d+)\.")
    hidden = shape(theirs, f"{TEXT}encoder.block.0.layer.1.DenseReluDense.wi.weight", 2, source=said)[0]
    heads = shape(theirs, f"{TEXT}encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 2, source=said)
    embed = shape(theirs, "text.2.linear.weight", 2, source=said)[0]
    model = options.encoder or run.method.text.model
    text = TextConfig("t5", model, (), vocabulary, text_width, layers, heads[1], hidden, embed)
    method = settings(run.method, source=source.path, vit=vit, text=text, pool_cls=True, **options.given(encoder=""))
    names = vit_names(OURS, VISUAL, "blocks", depth) | table(
        """
        log_scale logit_scale
        <here>embeddings.cls_token <there>cls_token
        <here>embeddings.position_embeddings <there>pos_embed
        <here>embeddings.patch_embeddings.projection.* <there>patch_embed.proj.*
        <here>layernorm.* <there>norm.*
        text.dense.weight text.2.linear.weight
        """,
        here=OURS,
        there=VISUAL,
    )
    expected = method.build().state_dict()
    names |= {name: name.replace("text.network.", TEXT) for name in expected if name.startswith("text.network.")}
    if f"{TEXT}encoder.embed_tokens.weight" not in theirs:
        theirs[f"{TEXT}encoder.embed_tokens.weight"] = theirs[f"{TEXT}shared.weight"]  # one and the same
    weights = carried(theirs, names, expected, source=said, family="CLIPpy")
    weights = {name: torch.clone(value) for name, value in weights.items()}
    return checked(Made(completed(run, method, source.path), weights, ("image tower", "text tower")), source=said)


FAMILY = Family(
    "clippy",
    "CLIPpy",
    (f"{VISUAL}cls_token", f"{TEXT}shared.weight", "text.2.linear.weight"),
    convert,
)
