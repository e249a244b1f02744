"""SLATE and STEVE of their authors: `best_model.pt` or `checkpoint.pt.tar`.

Names are those of singhgautam/slate at 06f63c532996 (`slate.py`, `slot_attn.py`, `dvae.py`, `transformer.py`) and
singhgautam/steve at b8de3e6ab336 (`steve.py`, `dvae.py`, `transformer.py`, `utils.py`).
"""

import torch
from torch import Tensor

from slotworks.convert import parts
from slotworks.convert.family import Family, Made, Options, checked, completed, expected_of, settings, side_of
from slotworks.convert.names import carried, count, shape, table
from slotworks.convert.source import Source
from slotworks.errors import UserError
from slotworks.methods import SlateConfig, SteveConfig

SLATE = """
    token_mlp.0.*                slot_attn.layer_norm.*
    token_mlp.1.0.*              slot_attn.mlp.0.*
    token_mlp.1.2.*              slot_attn.mlp.2.*
    initializer.mu               slot_attn.slot_mu
    initializer.log_sigma        slot_attn.slot_log_sigma
    decoder.positions            positional_encoder.pe
    decoder.project_slots.weight slot_proj.weight
    decoder.head.weight          out.weight
    decoder.words.weight         dictionary.words
    decoder.begin                dictionary.begin
"""
STEVE = """
    encoder.convs.0.*            steve_encoder.cnn.0.m.*
    encoder.convs.2.*            steve_encoder.cnn.1.m.*
    encoder.convs.4.*            steve_encoder.cnn.2.m.*
    encoder.convs.6.*            steve_encoder.cnn.3.*
    encoder.position.project.*   steve_encoder.pos.projection.*
    encoder.norm.*               steve_encoder.layer_norm.*
    encoder.mlp.0.*              steve_encoder.mlp.0.*
    encoder.mlp.2.*              steve_encoder.mlp.2.*
    initializer.mu               steve_encoder.savi.slot_mu
    initializer.log_sigma        steve_encoder.savi.slot_log_sigma
    slots.predictor.final_norm.* steve_encoder.savi.predictor.layer_norm.*
    slots.predictor.blocks.{i}.norm_attention.*        steve_encoder.savi.predictor.blocks.{i}.attn_layer_norm.*
    slots.predictor.blocks.{i}.norm_mlp.*              steve_encoder.savi.predictor.blocks.{i}.ffn_layer_norm.*
    slots.predictor.blocks.{i}.mlp.0.*                 steve_encoder.savi.predictor.blocks.{i}.ffn.0.*
    slots.predictor.blocks.{i}.mlp.2.*                 steve_encoder.savi.predictor.blocks.{i}.ffn.2.*
    slots.predictor.blocks.{i}.attention.to_q.weight   steve_encoder.savi.predictor.blocks.{i}.attn.proj_q.weight
    slots.predictor.blocks.{i}.attention.to_k.weight   steve_encoder.savi.predictor.blocks.{i}.attn.proj_k.weight
    slots.predictor.blocks.{i}.attention.to_v.weight   steve_encoder.savi.predictor.blocks.{i}.attn.proj_v.weight
    slots.predictor.blocks.{i}.attention.to_out.weight steve_encoder.savi.predictor.blocks.{i}.attn.proj_o.weight
    decoder.begin                steve_decoder.bos
    decoder.positions            steve_decoder.pos.pe
    decoder.words.weight         steve_decoder.dict.dictionary.weight
    decoder.project_slots.weight steve_encoder.slot_proj.weight
    decoder.head.weight          steve_decoder.head.weight
"""
UNREAD = (parts.MASK, r"steve_encoder\.pos\.pe$")


def convert_slate(source: Source, options: Options) -> Made:
    """As `SlateConfig`; the numbers of slots, iterations and heads are those of the recipe, or given."""
    said, theirs = str(source.path), dict(source.tensors)
    words = theirs.pop("dictionary.dictionary.weight")
    if words.ndim != 2 or len(words) < 2:
        raise UserError(f"{said}: dictionary.dictionary.weight has the shape {tuple(words.shape)}; expected two axes.")
    theirs |= {"dictionary.begin": words[0], "dictionary.words": words[1:]}
    vae, block = parts.dvae_names(theirs, ours="dvae.", its="dvae.")
    transformer, blocks = parts.transformer_names(theirs, ours="decoder.transformer.", its="tf_dec.")
    attention = table(parts.SLOT_ATTENTION, ours="slot_attention.", theirs="slot_attn.slot_attention.")
    names = table(SLATE) | vae | transformer | attention
    patches = shape(theirs, "positional_encoder.pe", 3, source=said)[1] - 1
    size = 4 * side_of(patches, "its position embedding", source.path)
    run = options.run("slate.shapes3d" if size == 64 else "slate.clevr_mirror", SlateConfig)
    method = settings(
        run.method,
        source=source.path,
        image_size=size,
        vocab_size=len(words) - 1,
        model_dim=words.shape[1],
        dvae_block=block,
        dvae_channels=shape(theirs, "dvae.encoder.0.m.weight", 4, source=said)[0],
        decoder_blocks=blocks,
        slot_dim=shape(theirs, "slot_attn.slot_mu", 3, source=said)[2],
        mlp_dim=shape(theirs, "slot_attn.slot_attention.mlp.0.weight", 2, source=said)[0],
        **options.given(num_heads="decoder_heads"),
    )
    weights = carried(theirs, names, expected_of(method), source=said, family="SLATE", unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("dVAE",)), source=said)


def convert_steve(source: Source, options: Options) -> Made:
    """As `SteveConfig`; the numbers of slots, iterations and heads are those of the recipe, or given."""
    said, theirs = str(source.path), dict(source.tensors)
    vae, block = parts.dvae_names(theirs, ours="dvae.", its="dvae.")
    transformer, blocks = parts.transformer_names(theirs, ours="decoder.transformer.", its="steve_decoder.tf.")
    predictors = count(theirs, r"steve_encoder\.savi\.predictor\.blocks\.(\d+)\.")
    attention = table(parts.SLOT_ATTENTION, ours="slots.corrector.", theirs="steve_encoder.savi.")
    names = table(STEVE, count=predictors) | vae | transformer | attention
    patches = shape(theirs, "steve_decoder.pos.pe", 3, source=said)[1] - 1
    size = 4 * side_of(patches, "its position embedding", source.path)
    words, width = shape(theirs, "steve_decoder.dict.dictionary.weight", 2, source=said)
    run = options.run("steve.movi_d", SteveConfig)
    method = settings(
        run.method,
        source=source.path,
        image_size=size,
        vocab_size=words,
        model_dim=width,
        dvae_block=block,
        dvae_channels=shape(theirs, "dvae.encoder.0.m.weight", 4, source=said)[0],
        decoder_blocks=blocks,
        cnn_channels=shape(theirs, "steve_encoder.cnn.0.m.weight", 4, source=said)[0],
        cnn_stride=1 if size == 64 else 2,  # as the released code decides it
        slot_dim=shape(theirs, "steve_encoder.savi.slot_mu", 3, source=said)[2],
        mlp_dim=shape(theirs, "steve_encoder.savi.mlp.0.weight", 2, source=said)[0],
        predictor_blocks=predictors,
        **options.given(num_heads="decoder_heads"),
    )
    theirs["steve_encoder.pos.projection.weight"] = _rows_first(theirs, said)
    weights = carried(theirs, names, expected_of(method), source=said, family="STEVE", unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("dVAE",)), source=said)


def _rows_first(theirs: dict[str, Tensor], said: str) -> Tensor:
    """Weights of the four distances to the sides: columns come before rows there, after them here."""
    width = shape(theirs, "steve_encoder.pos.projection.bias", 1, source=said)[0]
    value = theirs.get("steve_encoder.pos.projection.weight", torch.empty(0))
    if value.numel() != 4 * width:
        raise UserError(f"{said}: steve_encoder.pos.projection.weight has the shape {tuple(value.shape)}.")
    return value.reshape(width, 4)[:, [1, 0, 3, 2]]


FAMILIES = (
    Family(
        "slate",
        "SLATE",
        ("dictionary.dictionary.weight", "slot_attn.slot_mu", "tf_dec.layer_norm.weight"),
        convert_slate,
    ),
    Family("steve", "STEVE", ("steve_encoder.savi.slot_mu", "steve_decoder.bos"), convert_steve),
)
