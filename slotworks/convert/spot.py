"""SPOT: `best_model.pt` or `checkpoint.pt.tar` of either stage, and back.

Names are those of gkakogeorgiou/spot at 13c5926f4839: `spot.py`, `slot_attn.py`, `transformer.py`. The released second
stage holds two vision transformers: the student's, whose last blocks were trained, and the frozen one.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slotworks.convert.family import Family, Made, Options, checked, completed, settings, side_of
from slotworks.convert.names import carried, count, shape, table
from slotworks.convert.networks import (
    OWN,
    block_weights,
    blocks_of,
    check_network,
    network_of,
    own_network,
    separate,
    their_network,
)
from slotworks.convert.source import Source
from slotworks.encoders.vit import load_network
from slotworks.errors import UserError
from slotworks.files import replacing
from slotworks.methods import Spot, SpotConfig, SpotStudent, SpotStudentConfig

NAMES = """
    feature_mlp.0.*                slot_attn.layer_norm.*
    feature_mlp.1.*                slot_attn.mlp.0.*
    feature_mlp.3.*                slot_attn.mlp.2.*
    slot_attention.norm_features.* slot_attn.slot_attention.norm_inputs.*
    slot_attention.norm_slots.*    slot_attn.slot_attention.norm_slots.*
    slot_attention.norm_mlp.*      slot_attn.slot_attention.norm_mlp.*
    slot_attention.to_q.weight     slot_attn.slot_attention.project_q.weight
    slot_attention.to_k.weight     slot_attn.slot_attention.project_k.weight
    slot_attention.to_v.weight     slot_attn.slot_attention.project_v.weight
    slot_attention.gru.@           slot_attn.slot_attention.gru.@
    slot_attention.mlp.0.*         slot_attn.slot_attention.mlp.0.*
    slot_attention.mlp.2.*         slot_attn.slot_attention.mlp.2.*
    decoder.begin                  bos_tokens
    decoder.embed.0.weight         input_proj.0.weight
    decoder.embed.1.*              input_proj.1.*
    decoder.project_slots.0.weight slot_proj.0.weight
    decoder.project_slots.1.*      slot_proj.1.*
    decoder.transformer.final_norm.* dec.layer_norm.*
    decoder.transformer.blocks.{i}.norm_self.*  dec.blocks.{i}.self_attn_layer_norm.*
    decoder.transformer.blocks.{i}.norm_cross.* dec.blocks.{i}.encoder_decoder_attn_layer_norm.*
    decoder.transformer.blocks.{i}.norm_mlp.*   dec.blocks.{i}.ffn_layer_norm.*
    decoder.transformer.blocks.{i}.mlp.0.*      dec.blocks.{i}.ffn.0.*
    decoder.transformer.blocks.{i}.mlp.2.*      dec.blocks.{i}.ffn.2.*
    decoder.transformer.blocks.{i}.self_attention.to_q.weight    dec.blocks.{i}.self_attn.proj_q.weight
    decoder.transformer.blocks.{i}.self_attention.to_k.weight    dec.blocks.{i}.self_attn.proj_k.weight
    decoder.transformer.blocks.{i}.self_attention.to_v.weight    dec.blocks.{i}.self_attn.proj_v.weight
    decoder.transformer.blocks.{i}.self_attention.to_out.weight  dec.blocks.{i}.self_attn.proj_o.weight
    decoder.transformer.blocks.{i}.cross_attention.to_q.weight   dec.blocks.{i}.encoder_decoder_attn.proj_q.weight
    decoder.transformer.blocks.{i}.cross_attention.to_k.weight   dec.blocks.{i}.encoder_decoder_attn.proj_k.weight
    decoder.transformer.blocks.{i}.cross_attention.to_v.weight   dec.blocks.{i}.encoder_decoder_attn.proj_v.weight
    decoder.transformer.blocks.{i}.cross_attention.to_out.weight dec.blocks.{i}.encoder_decoder_attn.proj_o.weight
"""
STARTS = {
    "gaussian": "initializer.mu slot_attn.slot_mu\n initializer.log_sigma slot_attn.slot_log_sigma",
    "learned": "initializer.slots slot_attn.slots_init.weight",
}
UNREAD = (r"dec\.blocks\.\d+\.self_attn_mask$",)
RECIPES = {6: "voc", 7: "coco", 11: "movi_c", 24: "movi_e"}
"""The released trainings by their number of slots."""


def names_of(start: str, blocks: int) -> dict[str, str]:
    """The table for a decoder of so many blocks."""
    return table(NAMES, count=blocks) | table(STARTS[start])


def convert(source: Source, options: Options) -> Made:
    """As `SpotStudentConfig` where there are two vision transformers, else as `SpotConfig`."""
    said = str(source.path)
    theirs = {_newer(name): value for name, value in source.tensors.items()}
    student, frozen = _network(theirs, "encoder."), _network(theirs, "second_encoder.")
    theirs = {name: value for name, value in theirs.items() if not name.startswith(("encoder.", "second_encoder."))}
    start = "learned" if "slot_attn.slots_init.weight" in theirs else "gaussian"
    blocks = count(theirs, r"dec\.blocks\.(\d+)\.")
    if not blocks:
        raise UserError(f"{said} has no Transformer decoder; of SPOT's code only models with one are read.")
    slots = shape(theirs, "slot_attn.slots_init.weight", 2, source=said)[0] if start == "learned" else None
    orders = shape(theirs, "bos_tokens", 4, source=said)[0]
    side = side_of(shape(theirs, "dec.blocks.0.self_attn_mask", 2, source=said)[0], "the decoder", source.path)
    encoder = network_of(frozen or student, side, encoder=options.encoder, out=options.out, source=said)
    if frozen:
        depth = count(student, r"blocks\.(\d+)\.")
        encoder = replace(encoder, trained_blocks=depth - _same_blocks(student, frozen, depth))

    kind: type[SpotConfig] = SpotStudentConfig if frozen else SpotConfig
    recipe = RECIPES.get(options.num_slots or slots or 7, "coco") + ("_stage2" if frozen else "")
    run = options.run(f"spot.{recipe}", kind)
    changes: dict[str, Any] = {
        "encoder": encoder,
        "slot_dim": shape(theirs, "slot_attn.slot_attention.norm_slots.weight", 1, source=said)[0],
        "mlp_dim": shape(theirs, "slot_attn.slot_attention.mlp.0.weight", 2, source=said)[0],
        "initializer": start,
        "gradient": "bilevel" if start == "learned" else "unrolled",
        "decoder_blocks": blocks,
        "train_orders": "standard" if orders == 1 else "random",
        **options.given(slots=slots, encoder="", num_heads="decoder_heads"),
    }
    if orders == 1:
        changes["eval_orders"] = "standard"
    method = settings(run.method, source=source.path, **changes)
    extras = {"encoder": own_network(frozen or student, source=said)} if options.encoder == OWN else None
    blocks_here = blocks_of(extras["encoder"]) if extras else check_network(encoder, frozen or student, source=said)
    weights = carried(theirs, names_of(start, blocks), {}, source=said, family="SPOT", unread=UNREAD)
    weights["decoder.begin"] = weights["decoder.begin"].flatten(0, 2)
    for k, block in enumerate(blocks_here[len(blocks_here) - encoder.trained_blocks :]):
        number = len(blocks_here) - encoder.trained_blocks + k
        trained = block_weights(student, number, block, source=said)
        weights |= {f"encoder.blocks.{k}.{name}": value for name, value in trained.items()}
    return checked(
        Made(completed(run, method, source.path), weights, ("second stage" if frozen else "first stage",), extras),
        source=said,
    )


def _newer(name: str) -> str:
    """Older runs call the decoder `tf_dec`."""
    return name.replace("tf_dec.", "dec.", 1) if name.startswith("tf_dec.") else name


def _network(theirs: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return separate({name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)})


def _same_blocks(student: dict[str, Tensor], frozen: dict[str, Tensor], depth: int) -> int:
    """How many blocks, from the first on, were not trained."""
    for number in range(depth):
        own = {name: value for name, value in student.items() if name.startswith(f"blocks.{number}.")}
        if not all(name in frozen and torch.equal(value, frozen[name]) for name, value in own.items()):
            return number
    return depth


def write_back(method: Spot, out: Path) -> Path:
    """Write a run of SPOT as its code reads it, `{"model": ...}` of `torch.save`, with its vision transformers.

    Raises:
        UserError: the method has departures that SPOT's code does not know, or there is such a file.
    """
    config = method.config
    if os.path.lexists(out):
        raise UserError(f"{out} is there already; choose another name.")
    if config.initializer not in STARTS or method.components is not None or method.coordinates is not None:
        raise UserError(f"This run of {type(method).__name__} has parts that SPOT's code does not have.")
    if config.hidden_inputs:
        raise UserError("SPOT's code hides no inputs from its decoder; this run has method.hidden_inputs.")
    own = method.state_dict()
    state = {theirs: own[ours] for ours, theirs in names_of(config.initializer, config.decoder_blocks).items()}
    state["bos_tokens"] = state["bos_tokens"][:, None, None]
    patches = method.decoder.orders.shape[1]
    for i in range(config.decoder_blocks):
        state[f"dec.blocks.{i}.self_attn_mask"] = torch.ones(patches, patches, dtype=torch.bool).triu(diagonal=1)
    network, blocks = load_network(replace(config.encoder, trained_blocks=0))
    frozen = their_network(network, blocks)
    student = isinstance(method, SpotStudent)
    if student:
        state |= {f"second_encoder.{name}": value for name, value in frozen.items()}
        for k, block in enumerate(method.encoder.blocks, len(blocks) - len(method.encoder.blocks)):
            blocks[k] = block
    state |= {f"encoder.{name}": value for name, value in their_network(network, blocks).items()}
    with replacing(out) as beside:
        torch.save({"model": {name: value.detach().clone() for name, value in state.items()}}, beside)
    return out


FAMILY = Family(
    "spot",
    "SPOT, both stages",
    ("slot_attn.slot_attention.project_q.weight", "bos_tokens", "input_proj.0.weight"),
    convert,
)
