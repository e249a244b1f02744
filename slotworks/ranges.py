"""The ranges of numbers in settings, by the name of the field: one table for every method and every data set."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from slotworks.errors import UserError, quote

Number = int | float
Range = tuple[Number, Number]
"""Smallest and largest allowed value, both included."""

LARGE = 2**31 - 1
COUNT: Range = (1, LARGE)
NOT_NEGATIVE: Range = (0, LARGE)
SHARE: Range = (0, 1)
ABOVE_ZERO: Range = (math.ulp(0.0), math.inf)
MAX_SLOTS = 256  # a palette picture, in which masks are written, has so many values


def whole_number(text: str) -> int | None:
    """What digits say, from 0 to `LARGE`; None for anything else, such as the digits of other scripts.

    >>> whole_number("12"), whole_number("-1"), whole_number("\u00b2")
    (12, None, None)
    """
    small = text.isascii() and text.isdigit() and len(text.lstrip("0")) <= len(str(LARGE))
    return int(text.lstrip("0") or "0") if small else None


COUNTS = """
    accumulate basnet_width batch_size box_size categories center_layers channels clip_length clip_stride cnn_channels
    cnn_stride columns context_dim decoded_patches decoder_blocks decoder_channels decoder_dim decoder_dims
    decoder_heads decoder_kernel_size decoder_layers decoder_mask_pool decoder_strides dims dvae_channels embed_dim
    encoder_channels encoder_hidden_dim encoder_kernel_size encoder_strides encoder_width epochs feature_components
    feature_dim feature_mlp_dim feature_side first_iterations first_layers frames_per_video head_dim hidden_dim
    hidden_dims images_per_pass input_size kmeans_restarts latent_dim latent_size layers map_size map_stride max_caption
    max_classes max_iterations max_objects max_tokens mlp_dim model_dim norm_groups num_codes num_depths
    num_eigenvectors num_frames num_groups num_heads num_images num_iterations num_layers num_neighbors num_parts
    num_steps num_support num_timesteps num_tokens num_train_images patch_size per_class per_slot_dim points_per_image
    predictor_blocks predictor_dim predictor_heads predictor_mlp_dim predictor_qkv_dim project_dim prompts_per_pass
    qkv_dim rates resnet_norm_groups resnet_strides resnet_width restarts rows saliency_size seeds short_clips slot_dim
    slot_heads smooth splices steps superpixel_scale test_iterations text_dim text_heads text_layers top_k unet_dims
    vae_batch vae_dims vae_steps vocab_size
"""
NOT_NEGATIVES = """
    attention_from attentions autoencode_steps crf_iterations crops decoder_mask_shuffle decoder_shuffle dilate
    encoder_blocks erode frozen_stages held_out init_noise_steps low_level_dim min_area min_objects modulated_timestep
    num_test num_train num_val power refinement superpixels tau_steps test_size timestep train_size trained_blocks
    val_size vocabulary
"""
SHARES = """
    appearing areas both_share classes_share drawn_share dropout empty_share erased_share hidden_inputs light
    looks_above mask_ratio max_share predictor_dropout shadow test_fraction top_p val_fraction word_dropout
"""
RANGES: dict[str, Range] = {
    "num_slots": (1, MAX_SLOTS),
    "port": (1, 2**16 - 1),
    **dict.fromkeys(("image_size", "mask_size"), (1, 2**15)),  # pixels
    **dict.fromkeys(("seed", "noise_seed", "noise_seeds", "frame_seed"), (0, 2**63 - 1)),
    **dict.fromkeys(("layer", "modulated_layer"), (-(2**15), 2**15)),  # below 0: counted from the last
    **dict.fromkeys(("eps", "tau_start", "tau_end", "inner_lr", "mask_posterior"), ABOVE_ZERO),
    **dict.fromkeys(COUNTS.split(), COUNT),
    **dict.fromkeys(NOT_NEGATIVES.split(), NOT_NEGATIVE),
    **dict.fromkeys(SHARES.split(), SHARE),
}
"""Fields and options with a range, of classes of this package and of a user's own."""


def check_numbers(settings: Any, where: str, own: Mapping[str, Range] | None = None) -> None:
    """Refuse settings with a number outside its range, also in the dataclasses and tuples they hold.

    Args:
        settings: a dataclass.
        where: what it is called in a message, for example `method`.
        own: ranges that take the place of those in `RANGES`.

    Raises:
        ValueError: naming the setting, its value and what it may be.
    """
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if is_dataclass(value):
            check_numbers(value, f"{where}.{name}", own)
        else:
            check_number(f"{where}.{name}", value, (own or {}).get(name) or RANGES.get(name))


def check_number(name: str, value: Any, allowed: Range | None) -> None:
    """Refuse NaN, and a number outside its range, also in a tuple or mapping; what is no number passes.

    Args:
        name: for the message.
        value: a number, a tuple or mapping of such, or anything else.
        allowed: None for any number.

    Raises:
        ValueError: naming it, its value and what it may be.
    """
    if isinstance(value, tuple | list):
        for item in value:
            check_number(name, item, allowed)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_number(f"{name}[{key!r}]", item, allowed)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return
    elif value != value:
        raise ValueError(f"{name} is {value}; it must be a number.")
    elif allowed and not allowed[0] <= value <= allowed[1]:
        raise ValueError(f"{name} is {quote(value)}; it must be {_bound(value, *allowed)}.")


def _bound(value: Number, low: Number, high: Number) -> str:
    if value < low and high >= LARGE:
        return "above 0" if (low, high) == ABOVE_ZERO else f"{low} or more"
    return f"from {low} to {high}"


def check_options(where: str = "", /, **options: Any) -> None:
    """The same for arguments that a user gives to a function, by their names in `RANGES`; None passes.

    Args:
        where: what stands before the names in a message.
        options: by name.

    Raises:
        UserError: for the first number outside its range.
    """
    for name, value in options.items():
        try:
            check_number(f"{where}{name}", value, RANGES.get(name))
        except ValueError as error:
            raise UserError(str(error)) from None
