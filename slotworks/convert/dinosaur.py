"""DINOSAUR of the object-centric learning framework (OCLF): a checkpoint of Lightning with its `CombinedModel`.

Names are those of amazon-science/object-centric-learning-framework at 0a97292cb0db: `ocl/conditioning.py`,
`ocl/perceptual_grouping.py`, `ocl/decoding.py`, put together as in `configs/experiment/projects/bridging/dinosaur`.
"""

from typing import Any

from torch import Tensor

from slotworks.convert.family import Family, Made, Options, checked, completed, expected_of, settings, side_of
from slotworks.convert.names import carried, count, shape, split_rows, table
from slotworks.convert.networks import OWN, check_network, network_of, own_network, separate
from slotworks.convert.source import Source
from slotworks.encoders.vit import ViTConfig, fitted
from slotworks.errors import UserError
from slotworks.methods import DinosaurConfig

NAMES = """
    feature_mlp.0.*               perceptual_grouping.positional_embedding.layers.1.0.*
    feature_mlp.1.*               perceptual_grouping.positional_embedding.layers.1.1.*
    feature_mlp.3.*               perceptual_grouping.positional_embedding.layers.1.3.*
    slot_attention.norm_features.* perceptual_grouping.slot_attention.norm_input.*
    slot_attention.norm_slots.*   perceptual_grouping.slot_attention.norm_slots.*
    slot_attention.to_q.weight    perceptual_grouping.slot_attention.to_q.weight
    slot_attention.to_k.weight    perceptual_grouping.slot_attention.to_k.weight
    slot_attention.to_v.weight    perceptual_grouping.slot_attention.to_v.weight
    slot_attention.gru.@          perceptual_grouping.slot_attention.gru.@
    slot_attention.norm_mlp.*     perceptual_grouping.slot_attention.ff_mlp.module.0.*
    slot_attention.mlp.0.*        perceptual_grouping.slot_attention.ff_mlp.module.1.*
    slot_attention.mlp.2.*        perceptual_grouping.slot_attention.ff_mlp.module.3.*
"""
MLP = """
    decoder.position              object_decoder.pos_embed
    decoder.hidden.{i}.*          object_decoder.decoder.{2i}.*
"""
MLP_LAST = """
    decoder.to_features.*         object_decoder.decoder.features.*
    decoder.to_mask.*             object_decoder.decoder.mask.*
"""
TRANSFORMER = """
    decoder.begin                 object_decoder.bos_token
    decoder.embed.0.weight        object_decoder.inp_transform.0.weight
    decoder.embed.1.*             object_decoder.inp_transform.1.*
    decoder.project_slots.0.weight object_decoder.cond_transform.0.weight
    decoder.project_slots.1.*     object_decoder.cond_transform.1.*
    decoder.transformer.blocks.{i}.self_attention.to_q.*    object_decoder.decoder.layers.{i}.self_attn.q_*
    decoder.transformer.blocks.{i}.self_attention.to_k.*    object_decoder.decoder.layers.{i}.self_attn.k_*
    decoder.transformer.blocks.{i}.self_attention.to_v.*    object_decoder.decoder.layers.{i}.self_attn.v_*
    decoder.transformer.blocks.{i}.self_attention.to_out.*  object_decoder.decoder.layers.{i}.self_attn.out_proj.*
    decoder.transformer.blocks.{i}.cross_attention.to_q.*   object_decoder.decoder.layers.{i}.multihead_attn.q_*
    decoder.transformer.blocks.{i}.cross_attention.to_k.*   object_decoder.decoder.layers.{i}.multihead_attn.k_*
    decoder.transformer.blocks.{i}.cross_attention.to_v.*   object_decoder.decoder.layers.{i}.multihead_attn.v_*
    decoder.transformer.blocks.{i}.cross_attention.to_out.* object_decoder.decoder.layers.{i}.multihead_attn.out_proj.*
    decoder.transformer.blocks.{i}.norm_self.*              object_decoder.decoder.layers.{i}.norm1.*
    decoder.transformer.blocks.{i}.norm_cross.*             object_decoder.decoder.layers.{i}.norm2.*
    decoder.transformer.blocks.{i}.norm_mlp.*               object_decoder.decoder.layers.{i}.norm3.*
    decoder.transformer.blocks.{i}.mlp.0.*                  object_decoder.decoder.layers.{i}.linear1.*
    decoder.transformer.blocks.{i}.mlp.2.*                  object_decoder.decoder.layers.{i}.linear2.*
"""
STARTS = {
    "gaussian": "initializer.mu conditioning.slots_mu\n initializer.log_sigma conditioning.slots_logsigma",
    "per_slot": "initializer.mu conditioning.slots_mu\n initializer.log_sigma conditioning.slots_logsigma",
    "learned": "initializer.slots conditioning.slots",
}
UNREAD = (r"losses\.", r"training_metrics\.", r"evaluation_metrics\.", r"object_decoder\.mask$")
NETWORK = "feature_extractor.model."


def convert(source: Source, options: Options) -> Made:
    """As `DinosaurConfig`, with the MLP or the Transformer decoder.

    Measures come from the tensors; of slots that share one Gaussian neither their number nor that of the iterations
    and heads stands in the file: they are those of the recipe, or are given.
    """
    said = str(source.path)
    theirs = {name.removeprefix("models."): value for name, value in source.tensors.items()}
    network = separate(
        {name.removeprefix(NETWORK): value for name, value in theirs.items() if name.startswith(NETWORK)}
    )
    theirs = {name: value for name, value in theirs.items() if not name.startswith(NETWORK)}
    kind = "mlp" if "object_decoder.decoder.0.weight" in theirs else "transformer"
    theirs, names = (_mlp if kind == "mlp" else _transformer)(theirs, said)
    start, slots = _start(theirs, said)
    names |= table(NAMES) | table(STARTS[start])

    width = shape(theirs, "perceptual_grouping.positional_embedding.layers.1.0.weight", 1, source=said)[0]
    slot_dim = shape(theirs, "perceptual_grouping.slot_attention.norm_slots.weight", 1, source=said)[0]
    patches = theirs["object_decoder.pos_embed"].shape[1] if kind == "mlp" else _patches(theirs, said)
    side = side_of(patches, "the decoder", source.path)
    encoder = _encoder(network, width, side, options, said)
    small = slot_dim < 256  # MOVi-C in the released configurations
    recipe = ("movi_c_" if small else "coco_") + kind
    run = options.run(f"dinosaur.{recipe}", DinosaurConfig)
    changes: dict[str, Any] = {
        "encoder": encoder,
        "slot_dim": slot_dim,
        "initializer": start,
        "feature_mlp_dim": len(theirs["perceptual_grouping.positional_embedding.layers.1.1.bias"]),
        "mlp_dim": len(theirs["perceptual_grouping.slot_attention.ff_mlp.module.1.bias"]),
        "decoder": kind,
        **options.given(slots=slots, encoder="", **({"num_heads": "decoder_heads"} if kind == "transformer" else {})),
    }
    if kind == "mlp":
        layers = count(names, r"decoder\.hidden\.(\d+)\.")
        changes["decoder_dims"] = tuple(len(theirs[f"object_decoder.decoder.{2 * i}.bias"]) for i in range(layers))
    else:
        changes["decoder_blocks"] = count(names, r"decoder\.transformer\.blocks\.(\d+)\.")
    method = settings(run.method, source=source.path, **changes)
    extras = {"encoder": own_network(network, source=said)} if options.encoder == OWN else None
    if network and extras is None:
        check_network(encoder, network, source=said)
    weights = carried(theirs, names, expected_of(method), source=said, family="OCLF's DINOSAUR", unread=UNREAD)
    made = Made(completed(run, method, source.path), weights, (kind,), extras)
    return checked(made, source=said)


def _mlp(theirs: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The last layer has the features' rows and then one for the mask."""
    if "object_decoder.inp_transform.weight" in theirs:
        raise UserError(f"{source} projects slots before its MLP decoder, which no DINOSAUR of the paper does.")
    last = 2 * (count(theirs, r"object_decoder\.decoder\.(\d+)\.weight") - 1)
    theirs = dict(theirs)
    for kind in ("weight", "bias"):
        value = theirs.pop(f"object_decoder.decoder.{last}.{kind}", None)
        if value is None:
            raise UserError(f"{source} lacks the tensor object_decoder.decoder.{last}.{kind}.")
        theirs[f"object_decoder.decoder.features.{kind}"] = value[:-1]
        theirs[f"object_decoder.decoder.mask.{kind}"] = value[-1:]
    return theirs, table(MLP, count=last // 2) | table(MLP_LAST)


def _transformer(theirs: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Queries, keys and values are in one matrix."""
    theirs = split_rows(theirs, r".*_attn\.(?P<part>in_proj)_\w+", "qkv")
    return theirs, table(TRANSFORMER, count=count(theirs, r"object_decoder\.decoder\.layers\.(\d+)\."))


def _patches(theirs: dict[str, Tensor], source: str) -> int:
    return shape(theirs, "object_decoder.mask", 2, source=source)[0]


def _start(theirs: dict[str, Tensor], source: str) -> tuple[str, int | None]:
    """How slots start, and how many there are where that is in the file."""
    if "conditioning.slots" in theirs:
        return "learned", shape(theirs, "conditioning.slots", 3, source=source)[1]
    slots = shape(theirs, "conditioning.slots_mu", 3, source=source)[1]
    return ("per_slot", slots) if slots > 1 else ("gaussian", None)


def _encoder(network: dict[str, Tensor], width: int, side: int, options: Options, source: str) -> ViTConfig:
    if network:
        return network_of(network, side, encoder=options.encoder, out=options.out, source=source)
    if options.encoder is None or options.encoder == OWN:
        raise UserError(f"{source} holds no vision transformer; name the one it was trained on with --encoder.")
    named = fitted(ViTConfig(options.encoder))
    return fitted(ViTConfig(options.encoder, side * named.patch_size, named.patch_size, width))


FAMILY = Family(
    "dinosaur",
    "DINOSAUR of OCLF",
    (
        "models.perceptual_grouping.slot_attention.norm_input.weight",
        "models.object_decoder.pos_embed|models.object_decoder.bos_token",
    ),
    convert,
)
