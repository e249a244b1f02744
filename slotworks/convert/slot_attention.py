"""Slot Attention of google-research: a checkpoint of TensorFlow 2, for object discovery or for set prediction.

Names are those of google-research/google-research at 0c1bbe5fc971, `slot_attention/model.py`, as `tf.train.Checkpoint`
writes them. Keras stores kernels `in out` and `h w in out`, those of transposed convolutions `h w out in`, and a GRU's
gates as update, reset, candidate, where torch has reset, update, candidate.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from slotworks.convert.family import Family, Made, Options, checked, completed, expected_of, settings
from slotworks.convert.names import carried, count, shape, table
from slotworks.convert.source import Source
from slotworks.errors import UserError
from slotworks.methods import SetPredictionConfig, SlotAttentionConfig

NAMES = """
    encoder.convs.{i}.*        encoder_cnn/{i}.*
    encoder.position.project.* encoder_pos/dense.*
    encoder.norm.*             layer_norm.*
    encoder.mlp.0.*            mlp/0.*
    encoder.mlp.2.*            mlp/1.*
    initializer.mu             slot_attention/slots_mu
    initializer.log_sigma      slot_attention/slots_log_sigma
    slot_attention.norm_features.* slot_attention/norm_inputs.*
    slot_attention.norm_slots.*    slot_attention/norm_slots.*
    slot_attention.norm_mlp.*      slot_attention/norm_mlp.*
    slot_attention.to_q.weight     slot_attention/project_q.weight
    slot_attention.to_k.weight     slot_attention/project_k.weight
    slot_attention.to_v.weight     slot_attention/project_v.weight
    slot_attention.gru.@           slot_attention/gru.@
    slot_attention.mlp.0.*         slot_attention/mlp/0.*
    slot_attention.mlp.2.*         slot_attention/mlp/1.*
"""
DECODER = """
    decoder.position.project.* decoder_pos/dense.*
    decoder.layers.{i}.*       decoder_cnn/{i}.*
    decoder.last.*             decoder_cnn/<last>.*
"""
HEAD = """
    head.mlp.0.* mlp_classifier/0.*
    head.mlp.2.* mlp_classifier/1.*
"""
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
MARK = "slot_attention/slots_mu"


def is_of(source: Source) -> bool:
    """Whether there is a Slot Attention of Keras in it, and an autoencoder or a classifier around."""
    return any(name.endswith(f"{MARK}{VALUE}") for name in source.tensors)


def convert(source: Source, options: Options) -> Made:
    """As `SlotAttentionConfig` or, with a classifier, as `SetPredictionConfig`.

    Neither the size of the images nor the numbers of slots and iterations nor strides are in the file.
    """
    said, theirs = str(source.path), _network(source)
    sets = "mlp_classifier/0/kernel" in theirs
    run = options.run(_recipe(theirs), SetPredictionConfig if sets else SlotAttentionConfig)
    method: Any = run.method
    layers = count(theirs, r"decoder_cnn/(\d+)/")
    facts: dict[str, Any] = {
        "slot_dim": shape(theirs, MARK, 3, source=said)[2],
        "channels": shape(theirs, "encoder_cnn/0/kernel", 4, source=said)[3],
        "mlp_dim": shape(theirs, "slot_attention/mlp/0/kernel", 2, source=said)[1],
        "norm_eps": 1e-3,  # Keras
    }
    given = options.given(image_size="image_size")
    if "image_size" in given:
        given["image_size"] = (given["image_size"],) * 2
    if sets:
        facts["head_dim"] = shape(theirs, "mlp_classifier/0/kernel", 2, source=said)[1]
        outputs = shape(theirs, "mlp_classifier/1/kernel", 2, source=said)[1]
        if outputs != 3 + sum(method.categories) + 1:
            raise UserError(f"{said} predicts {outputs} numbers for an object; CLEVR's are 19.")
    method = settings(method, source=source.path, **facts, **given)
    if not sets and layers != len(method.decoder_strides) + 1:
        raise UserError(
            f"{said} has a decoder of {layers} layers, the settings have {len(method.decoder_strides) + 1}; give "
            "decoder_strides, one number for each layer but the last."
        )
    strides = () if sets else (*method.decoder_strides, 1)
    torch_like = _torch_like(theirs, strides, said)
    convolutions = count(theirs, r"encoder_cnn/(\d+)/")
    names = table(NAMES, count=convolutions)
    names |= table(HEAD) if sets else table(DECODER, count=layers - 1, last=str(layers - 1))
    weights = carried(torch_like, names, expected_of(method), source=said, family="Slot Attention (google-research)")
    made = Made(completed(run, method, source.path), weights, ("classifier" if sets else "decoder",))
    return checked(made, source=said)


def _recipe(theirs: dict[str, Tensor]) -> str:
    if "mlp_classifier/0/kernel" in theirs:
        return "set_prediction.clevr10"
    return "slot_attention.clevr6" if "decoder_cnn/5/kernel" in theirs else "slot_attention.multi_dsprites"


def _network(source: Source) -> dict[str, Tensor]:
    """The variables of the network alone, by short names: `encoder_cnn/0/kernel`."""
    mark = next(name for name in source.tensors if name.endswith(f"{MARK}{VALUE}"))
    prefix = mark.removesuffix(f"{MARK}{VALUE}")
    found = {}
    for name, value in source.tensors.items():
        if name.startswith(prefix) and name.endswith(VALUE) and ".OPTIMIZER_SLOT" not in name:
            short = name.removeprefix(prefix).removesuffix(VALUE)
            found[re.sub(r"layer_with_weights-(\d+)", r"\1", short)] = value
    return found


def _torch_like(theirs: dict[str, Tensor], strides: tuple[int, ...], said: str) -> dict[str, Tensor]:
    """Kernels as torch has them, `weight` and `bias` for names, and the GRU's four arrays."""
    ends: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "/gamma": (".weight", lambda value: value),
        "/beta": (".bias", lambda value: value),
        "/bias": (".bias", lambda value: value),
    }
    found = {}
    for name, value in theirs.items():
        stem, _, kind = name.rpartition("/")
        if stem == "slot_attention/gru":
            if value.ndim != 2 or value.shape[1] % 3 or (kind == "bias" and len(value) != 2):
                raise UserError(f"{said}: {name} has the shape {tuple(value.shape)}, which is that of no GRU of Keras.")
            found |= _gates(kind, value)
        elif kind == "kernel" and stem.startswith("decoder_cnn/") and value.ndim == 4:
            index = int(stem.rpartition("/")[2])
            # All are transposed there; with stride 1 that is a convolution with the kernel turned round.
            doubles = index < len(strides) and strides[index] == 2
            turned = value.permute(3, 2, 0, 1) if doubles else value.flip(0, 1).permute(2, 3, 0, 1)
            found[f"{stem}.weight"] = turned.contiguous()
        elif kind == "kernel":
            turned = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.mT if value.ndim == 2 else value
            found[f"{stem}.weight"] = turned.contiguous()
        elif f"/{kind}" in ends:
            found[f"{stem}{ends[f'/{kind}'][0]}"] = value
        else:
            found[name] = value
    return found


def _gates(kind: str, value: Tensor) -> dict[str, Tensor]:
    update, reset, candidate = value.chunk(3, dim=-1)
    ordered = torch.cat([reset, update, candidate], dim=-1)
    gru = "slot_attention/gru"
    if kind == "bias":
        return {f"{gru}.bias_ih": ordered[0], f"{gru}.bias_hh": ordered[1]}
    return {f"{gru}.weight_{'ih' if kind == 'kernel' else 'hh'}": ordered.T.contiguous()}


FAMILY = Family("slot-attention", "Slot Attention of google-research", (), convert, layouts=("tensorflow",), test=is_of)
