"""The repository of SlotDiffusion: its model on images and videos, the Slot Attention, SAVi, SLATE and STEVE of its
tables, and the discrete VAE and the VQ-VAE that are trained before.

Names are those of Wuziyi616/SlotDiffusion at eacfc9a83a3e, `slotdiffusion/img_based/models` and `video_based/models`;
its training program (nerv) saves a state dict, alone or as `state_dict`.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from slotworks.convert import parts
from slotworks.convert.family import Family, Made, Options, checked, completed, expected_of, settings
from slotworks.convert.names import Names, carried, count, shape, table
from slotworks.convert.source import Source
from slotworks.decoders import DenoiserConfig
from slotworks.encoders.vit import DINO_B8, DINO_B16, DINO_S8, DINO_S16, ViTConfig, fitted
from slotworks.errors import UserError
from slotworks.methods import (
    DVAEConfig,
    SAViConfig,
    SlateConfig,
    SlotAttentionConfig,
    SlotDiffusionConfig,
    SteveConfig,
    VideoSlotDiffusionConfig,
    VQVAEConfig,
)

FRONT = """
    front.position.project.* encoder_pos_embedding.dense.*
    front.feature_mlp.0.*    encoder_out_layer.0.*
    front.feature_mlp.1.*    encoder_out_layer.1.*
    front.feature_mlp.3.*    encoder_out_layer.3.*
    front.initializer.slots  init_latents
"""
OTHER_FRONT = """
    encoder.position.project.* encoder_pos_embedding.dense.*
    encoder.norm.*             encoder_out_layer.0.*
    encoder.mlp.0.*            encoder_out_layer.1.*
    encoder.mlp.2.*            encoder_out_layer.3.*
    initializer.slots          init_latents
"""
BROADCAST = """
    decoder.position.project.* decoder_pos_embedding.dense.*
    decoder.layers.{i}.*       decoder.{i}.0.*
"""
TOKENS = """
    decoder.project_slots.* trans_decoder.in_proj.*
    decoder.head.weight     trans_decoder.head.weight
    decoder.positions       trans_decoder.pos_emb.pe
    decoder.words.weight    trans_decoder.tok_emb.words
    decoder.begin           trans_decoder.tok_emb.begin
"""
UNREAD = (
    r"(encoder|decoder)_pos_embedding\.grid$",
    r"encoder\.dino\.",
    parts.MASK,
    r"(dm_decoder\.vae\.vqvae\.)?loss\.",
)
UNREAD += (r"dm_decoder\.\w+$", r"dm_decoder\.model_ema\.")
UNET, AVERAGE, AUTOENCODER = "dm_decoder.model.diffusion_model.", "dm_decoder.model_ema.", "dm_decoder.vae.vqvae."
PREDICTOR = "predictor.transformer_encoder."
NAME = "the SlotDiffusion repository"


def _prefixed(theirs: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in theirs.items() if name.startswith(prefix)}


def _slots(theirs: dict[str, Tensor], said: str, *, ours: str) -> tuple[Names, dict[str, Any]]:
    """The table of Slot Attention and the predictor, and what they tell of the settings."""
    names = table(
        parts.NESTED_ATTENTION, ours=f"{ours}.corrector." if ours else "slot_attention.", theirs="slot_attention."
    )
    facts: dict[str, Any] = {
        "slot_dim": shape(theirs, "init_latents", 3, source=said)[2],
        "mlp_dim": shape(theirs, "slot_attention.mlp.1.weight", 2, source=said)[0],
        "initializer": "learned",
    }
    if ours:
        more, layers = parts.predictor_names(theirs, ours=f"{ours}.predictor.", its=PREDICTOR)
        names, facts = names | more, facts | {"predictor_blocks": layers}
    return names, facts


def _number(theirs: dict[str, Tensor], said: str) -> int:
    return shape(theirs, "init_latents", 3, source=said)[1]


def _side(theirs: dict[str, Tensor], part: str, said: str) -> tuple[int, int]:
    """Height and width of the positions of a part, which are stored."""
    grid = shape(theirs, f"{part}_pos_embedding.grid", 4, source=said)
    return grid[1], grid[2]


def _is_video(theirs: dict[str, Tensor]) -> bool:
    if any(name.startswith("predictor.") and not name.startswith(PREDICTOR) for name in theirs):
        raise UserError("The checkpoint has another predictor than the Transformer of the released configurations.")
    return any(name.startswith(PREDICTOR) for name in theirs)


def convert_diffusion(source: Source, options: Options) -> Made:
    """As `SlotDiffusionConfig` or `VideoSlotDiffusionConfig`, with the U-Net's average where one was kept."""
    said, theirs = str(source.path), parts.with_separate_rows(source.tensors)
    video, slots = _is_video(theirs), _number(theirs, said)
    with_vit = any(name.startswith("encoder.dino.") for name in theirs)
    names, facts = _slots(theirs, said, ours="video_slots" if video else "")
    names |= table(FRONT)
    kind: type[SlotDiffusionConfig] = VideoSlotDiffusionConfig if video else SlotDiffusionConfig
    recipe = {6: "voc"}.get(slots, "coco") if with_vit else {4: "celeba"}.get(slots, "clevrtex")
    run = options.run(f"slot_diffusion.{'movi_d' if video else recipe}", kind)
    assert isinstance(run.method, SlotDiffusionConfig)
    rows, columns = _side(theirs, "encoder", said)
    if rows != columns:
        raise UserError(f"{said} was trained on images that are not square, which SlotDiffusion here does not take.")
    if with_vit:
        # `last_hidden_state` there, which is behind the last norm
        encoder = replace(_dino(theirs, said), features="normed")
        if options.encoder:
            encoder = fitted(replace(encoder, model=options.encoder))
        facts |= {"encoder": replace(encoder, image_size=rows * encoder.patch_size)}
        size = rows * encoder.patch_size
    else:
        more, stages = parts.resnet_names(theirs, ours="front.encoder.", its="encoder.")
        names |= more
        width = shape(theirs, "encoder.conv1.weight", 4, source=said)[0]
        facts |= {"encoder": None, "resnet_width": width, "resnet_strides": (1,) + (2,) * (stages - 1)}
        size = rows * 2 ** (stages - 1)
    if video:
        facts["predictor_dim"] = shape(theirs, f"{PREDICTOR}layers.0.linear1.weight", 2, source=said)[0]

    unet = _prefixed(theirs, UNET)
    measures = parts.denoiser_of(unet, run.method.denoiser, source=said) | _schedule(theirs, said)
    denoiser = settings_of_denoiser(run.method.denoiser, source, measures)
    vae = _prefixed(theirs, AUTOENCODER)
    autoencoder = parts.autoencoder_of(vae, source=said) if vae else None
    encoder_option = {"encoder": ""} if with_vit else {}
    method = settings(
        run.method,
        source=source.path,
        image_size=size,
        denoiser=denoiser,
        autoencoder=autoencoder,
        **facts,
        **options.given(slots=slots, **encoder_option),
    )
    expected = expected_of(method)
    names |= {n: UNET + parts.unet_name(n.removeprefix("decoder.unet."), denoiser) for n in expected if ".unet." in n}
    if autoencoder:
        mark = "decoder.autoencoder.net."
        its = {n: parts.autoencoder_name(n.removeprefix(mark), autoencoder) for n in expected if n.startswith(mark)}
        names |= {ours: AUTOENCODER + name for ours, name in its.items()}
    found = ("U-Net", *(("VQ-VAE",) if vae else ()))
    averaged, theirs = _averaged(theirs)
    found += ("average of the U-Net",) if averaged else ()
    weights = carried(theirs, names, expected, source=said, family=NAME, unread=UNREAD)
    weights["decoder.ready"] = torch.ones_like(expected["decoder.ready"])
    return checked(Made(completed(run, method, source.path), weights, found), source=said)


def _dino(theirs: dict[str, Tensor], said: str) -> ViTConfig:
    """The DINO in it, by its measures; images are normalised around a half there."""
    width, _, patch, _ = shape(theirs, "encoder.dino.embeddings.patch_embeddings.projection.weight", 4, source=said)
    known = {(one.feature_dim, one.patch_size): one for one in (DINO_B8, DINO_B16, DINO_S8, DINO_S16)}
    if (width, patch) not in known:
        raise UserError(f"{said} has a DINO {width} wide with patches of {patch} pixels, which is not known here.")
    half = (0.5, 0.5, 0.5)
    return replace(known[width, patch], mean=half, std=half, position_offset=0.0)


def settings_of_denoiser(config: DenoiserConfig, source: Source, measures: dict[str, Any]) -> DenoiserConfig:
    """The U-Net's settings with its measures; groups and heads that do not divide narrow networks are their greatest.

    Raises:
        UserError: they do not fit together.
    """
    try:
        return replace(config, **measures)
    except ValueError as error:
        raise UserError(f"The U-Net of {source.path} does not fit: {error}") from None


def _schedule(theirs: dict[str, Tensor], said: str) -> dict[str, Any]:
    """Timesteps and variances, which are stored; their roots have to grow linearly."""
    if "dm_decoder.betas" not in theirs:
        return {}
    betas = theirs["dm_decoder.betas"].double()
    if betas.ndim != 1 or len(betas) < 2:
        raise UserError(f"{said}: dm_decoder.betas has the shape {tuple(betas.shape)}; expected one number a timestep.")
    first, last = round(betas[0].item(), 7), round(betas[-1].item(), 7)
    roots = torch.linspace(first**0.5, last**0.5, len(betas), dtype=torch.float64)
    if not torch.allclose(roots.square(), betas, rtol=1e-4, atol=1e-8):
        raise UserError(f"{said} has another schedule of noise than the released one, whose roots grow linearly.")
    return {"num_timesteps": len(betas), "beta_start": first, "beta_end": last}


def _averaged(theirs: dict[str, Tensor]) -> tuple[bool, dict[str, Tensor]]:
    """The U-Net with the moving average of its weights, whose names have no dots, where there is one."""
    average = _prefixed(theirs, AVERAGE)
    if not average:
        return False, theirs
    changed = dict(theirs)
    for name in _prefixed(theirs, UNET):
        short = f"diffusion_model{name}".replace(".", "")
        if short not in average:
            raise UserError(f"The checkpoint has no average of {UNET}{name}, but of other weights of its U-Net.")
        changed[UNET + name] = average[short]
    return True, changed


def convert_slots(source: Source, options: Options) -> Made:
    """Slot Attention or, with a predictor, SAVi: broadcast decoder, ResNet-18."""
    said, theirs = str(source.path), parts.with_separate_rows(source.tensors)
    video = _is_video(theirs)
    names, facts = _slots(theirs, said, ours="video_slots" if video else "")
    resnet, _ = parts.resnet_names(theirs, ours="encoder.backbone.", its="encoder.")
    layers = count(theirs, r"decoder\.(\d+)\.0\.")
    names |= table(OTHER_FRONT) | resnet | table(BROADCAST, count=layers)
    names |= table("decoder.last.* decoder.<last>.*", last=str(layers))
    (rows, columns), broadcast = _side(theirs, "encoder", said), _side(theirs, "decoder", said)
    size = (4 * rows, 4 * columns)
    doublings = (size[0] // broadcast[0]).bit_length() - 1
    channels = shape(theirs, "decoder.0.0.weight", 4, source=said)[1]
    strides = (2,) * doublings + (1,) * (layers - doublings)
    facts["image_size"] = size
    slots = _number(theirs, said)
    if video:
        run = options.run("savi.movi_d_unconditional", SAViConfig)
        hidden = shape(theirs, f"{PREDICTOR}layers.0.linear1.weight", 2, source=said)[0]
        facts |= {"decoder_channels": channels, "decoder_strides": strides, "predictor_mlp_dim": hidden}
    else:
        recipe = "slot_attention.celeba" if slots == 4 else "slot_attention.clevrtex"
        run = options.run(recipe, SlotAttentionConfig)
        facts |= {"channels": channels, "decoder_strides": strides}
    method = settings(run.method, source=source.path, **facts, **options.given(slots=slots))
    weights = carried(theirs, names, expected_of(method), source=said, family=NAME, unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("decoder",)), source=said)


def convert_tokens(source: Source, options: Options) -> Made:
    """SLATE or, with a predictor, STEVE, with the discrete VAE trained before."""
    said, theirs = str(source.path), parts.with_separate_rows(source.tensors)
    video, slots = _is_video(theirs), _number(theirs, said)
    names, facts = _slots(theirs, said, ours="slots" if video else "")
    resnet, _ = parts.resnet_names(theirs, ours="encoder.backbone.", its="encoder.")
    vae, block = parts.dvae_names(theirs, ours="dvae.", its="dvae.")
    transformer, blocks = parts.transformer_names(theirs, ours="decoder.transformer.", its="trans_decoder.tf_dec.")
    names |= table(OTHER_FRONT) | resnet | vae | transformer | table(TOKENS)
    words = theirs.pop("trans_decoder.tok_emb.weight")
    if words.ndim != 2 or len(words) < 2:
        raise UserError(
            f"{said}: trans_decoder.tok_emb.weight has the shape {tuple(words.shape)}; expected words, width."
        )
    theirs |= {"trans_decoder.tok_emb.words": words[:-1], "trans_decoder.tok_emb.begin": words[-1]}
    rows, columns = _side(theirs, "encoder", said)
    if rows != columns:
        raise UserError(f"{said} was trained on images that are not square, which SLATE and STEVE here do not take.")
    facts |= {
        "image_size": 4 * rows,
        "vocab_size": len(words) - 1,
        "dvae_block": block,
        "dvae_channels": shape(theirs, "dvae.encoder.0.m.weight", 4, source=said)[0],
        "model_dim": words.shape[1],
        "decoder_blocks": blocks,
    }
    if video:
        run = options.run("steve.movi_d_stage2", SteveConfig)
    else:
        run = options.run("slate.celeba_stage2" if slots == 4 else "slate.clevrtex_stage2", SlateConfig)
    method = settings(run.method, source=source.path, **facts, **options.given(slots=slots, num_heads="decoder_heads"))
    weights = carried(theirs, names, expected_of(method), source=said, family=NAME, unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("dVAE",)), source=said)


def convert_dvae(source: Source, options: Options) -> Made:
    """The discrete VAE alone, which SLATE and STEVE are trained on."""
    said, theirs = str(source.path), source.tensors
    names, block = parts.dvae_names(theirs, ours="dvae.", its="")
    run = options.run("dvae.clevrtex", DVAEConfig)
    facts = {
        "vocab_size": shape(theirs, "encoder.7.weight", 4, source=said)[0],
        "dvae_channels": shape(theirs, "encoder.0.m.weight", 4, source=said)[0],
        "dvae_block": block,
    }
    method = settings(run.method, source=source.path, **facts, **_only_size(options))
    weights = carried(theirs, names, expected_of(method), source=said, family=NAME, unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("dVAE",)), source=said)


def convert_vqvae(source: Source, options: Options) -> Made:
    """The VQ-VAE alone, which SlotDiffusion is trained on."""
    said, theirs = str(source.path), source.tensors
    run = options.run("vqvae.clevrtex", VQVAEConfig)
    assert isinstance(run.method, VQVAEConfig)
    networks = parts.autoencoder_of(theirs, source=said)
    method = settings(run.method, source=source.path, autoencoder=networks, **_only_size(options))
    expected = expected_of(method)
    mark = "autoencoder.net."
    names = {n: parts.autoencoder_name(n.removeprefix(mark), networks) for n in expected if n.startswith(mark)}
    weights = carried(theirs, names, expected, source=said, family=NAME, unread=UNREAD)
    return checked(Made(completed(run, method, source.path), weights, ("VQ-VAE",)), source=said)


def _only_size(options: Options) -> dict[str, Any]:
    """The one option of an autoencoder."""
    given = options.given(image_size="image_size")
    if wrong := given.keys() - {"image_size"}:
        raise UserError(f"{sorted(wrong)[0]} means nothing for an autoencoder, which has no slots; leave it out.")
    return given


_SLOTS = ("init_latents", "slot_attention.project_q.0.weight")
FAMILIES = (
    Family("slot-diffusion", "SlotDiffusion", (*_SLOTS, f"{UNET}out.2.weight"), convert_diffusion),
    Family(
        "slot-diffusion-savi",
        "Slot Attention and SAVi of SlotDiffusion's repository",
        (*_SLOTS, "decoder_pos_embedding.dense.weight"),
        convert_slots,
    ),
    Family(
        "slot-diffusion-steve",
        "SLATE and STEVE of SlotDiffusion's repository",
        (*_SLOTS, "trans_decoder.tok_emb.weight"),
        convert_tokens,
    ),
    Family(
        "slot-diffusion-dvae",
        "the discrete VAE of SlotDiffusion's repository",
        ("encoder.0.m.weight", "encoder.7.weight", "decoder.11.weight"),
        convert_dvae,
    ),
    Family(
        "slot-diffusion-vqvae",
        "the VQ-VAE of SlotDiffusion's repository",
        ("quantize.embedding.weight", "quant_conv.weight", "encoder.down.0.block.0.conv1.weight"),
        convert_vqvae,
    ),
)
