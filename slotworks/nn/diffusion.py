"""Gaussian diffusion: the noise, what a network is asked for, its loss, and sampling with a scheduler of `diffusers`.

    z_t = sqrt(a_t) z + sqrt(1 - a_t) e,   e ~ N(0, I),   a_t = product over s <= t of (1 - beta_s)

Ho et al. 2020 (arXiv 2006.11239). A network says the noise e ("epsilon"), the data z ("sample") or the velocity
sqrt(a_t) e - sqrt(1 - a_t) z ("v_prediction", Salimans & Ho 2022); each of the three gives the other two. The names are
those of `diffusers`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.errors import needs_extra
from slotworks.nn.noise import batch_noise, batch_uniform

Prediction = Literal["epsilon", "sample", "v_prediction"]
Solver = Literal["singlestep", "multistep", "ddim"]


def scaled_linear_alphas(num_timesteps: int, beta_start: float, beta_end: float) -> Float[Tensor, " t"]:
    """`a_t` for betas whose roots grow linearly: latent diffusion's schedule, which its code calls linear.

    >>> [round(float(a), 6) for a in scaled_linear_alphas(1000, 0.0015, 0.0195)[[0, 499, 999]]]
    [0.9985, 0.115844, 0.000142]
    """
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64)
    return (1 - roots.square()).cumprod(0).float()


def unet_blocks(unet: Any) -> list[nn.Module]:
    """Where a U-Net of `diffusers` has nearly all of its weights: the blocks of its levels, in their order."""
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]


def add_noise(
    clean: Float[Tensor, "b *z"], noise: Float[Tensor, "b *z"], alpha: Float[Tensor, "..."]
) -> Float[Tensor, "b *z"]:
    """`z_t`. Equation 5 of SlotDiffusion lacks the second root; its equations 4 and 7 and its code have it."""
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def target_of(
    clean: Float[Tensor, "b *z"], noise: Float[Tensor, "b *z"], alpha: Float[Tensor, "..."], prediction: Prediction
) -> Float[Tensor, "b *z"]:
    """What a network should say."""
    if prediction == "epsilon":
        return noise
    return clean if prediction == "sample" else alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def clean_of(
    said: Float[Tensor, "b *z"], mixed: Float[Tensor, "b *z"], alpha: Float[Tensor, "..."], prediction: Prediction
) -> Float[Tensor, "b *z"]:
    """The data that a network means by what it says about `mixed`, `z_t`."""
    if prediction == "epsilon":
        return (mixed - (1 - alpha).sqrt() * said) / alpha.sqrt()
    return said if prediction == "sample" else alpha.sqrt() * mixed - (1 - alpha).sqrt() * said


def noisier_timesteps(uniform: Float[Tensor, " b"], num_timesteps: int, power: float) -> Int64[Tensor, " b"]:
    """Timesteps t of T with t / T = 1 - (1 - u) ** power, of uniform u in [0, 1): above 1 more of them are noisy."""
    time = uniform if power == 1 else 1 - (1 - uniform) ** power
    return (time * num_timesteps).long().clamp(max=num_timesteps - 1)


def denoising_loss(
    clean: Float[Tensor, "b *z"],
    num_timesteps: int,
    noisy: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    predict: Callable[[Tensor, Int64[Tensor, " b"]], Tensor],
    *,
    time_power: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean squared error of what `predict` says, at a random timestep for each sample.

    Args:
        clean: the data z, one row per sample.
        num_timesteps: T.
        noisy: z, noise and timesteps from 0 to z_t and the target.
        predict: the network: z_t and timesteps to what it says.
        time_power: t / T = 1 - (1 - u) ** power for a uniform u; 1 is uniform over all, more means more noise.
    """
    noise = batch_noise(tuple(clean.shape), clean.device, clean.dtype)
    timestep = noisier_timesteps(batch_uniform((len(clean),), clean.device), num_timesteps, time_power)
    mixed, target = noisy(clean, noise, timestep)
    return F.mse_loss(predict(mixed, timestep).float(), target)


def starting_noise(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None, *, shared: bool = False
) -> Float[Tensor, "b *z"]:
    """Standard normal noise from a generator of any device; `shared`: one draw for the whole batch."""
    place = device if generator is None else generator.device
    drawn = torch.randn((1, *shape[1:]) if shared else shape, generator=generator, device=place)
    return drawn.expand(shape).to(device)


def make_solver(
    name: str, num_timesteps: int, beta_start: float, beta_end: float, *, prediction: Prediction = "sample"
) -> Any:
    """A scheduler of `diffusers` for betas as in `scaled_linear_alphas`.

    "singlestep" is DPM-Solver++ of order 3 (Lu et al. 2022), where 20 steps are orders 3, 3, 3, 3, 3, 3, 2 on a uniform
    grid of times that ends at the smallest noise of training: SlotDiffusion's sampler, but for its times, which are not
    rounded to whole timesteps. "multistep" is DPM-Solver++ of order 2, down to no noise; "ddim" is Song et al. 2021.
    """
    with needs_extra("diffusion"):
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
        from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
    options: dict[str, Any] = {
        "num_train_timesteps": num_timesteps,
        "beta_start": beta_start,
        "beta_end": beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
    }
    if name == "singlestep":
        return DPMSolverSinglestepScheduler(
            **options, solver_order=3, lower_order_final=True, final_sigmas_type="sigma_min"
        )
    if name == "multistep":
        return DPMSolverMultistepScheduler(**options)
    if name == "ddim":
        return DDIMScheduler(**options, clip_sample=False, set_alpha_to_one=False)
    raise ValueError(f"solver is {name!r}; choose singlestep, multistep or ddim.")


def run_solver(
    scheduler: Any,
    noise: Float[Tensor, "b *z"],
    predict: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b *z"]:
    """From noise to data.

    Args:
        scheduler: of `diffusers`; its timesteps are set here.
        noise: standard normal.
        predict: z_t and one timestep to what the scheduler's `prediction_type` says.
        steps: how often the network is asked, 1 or more.
        generator: for schedulers that draw noise on the way.

    Raises:
        ValueError: for less than one step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; sampling takes 1 or more.")
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        said = predict(scheduler.scale_model_input(latents, timestep), timestep)
        options = {} if generator is None else {"generator": generator}
        latents = scheduler.step(said, timestep, latents, **options).prev_sample
    return latents


@contextmanager
def fixed_context(unet: Any, context: Float[Tensor, "b n e"] | None) -> Iterator[None]:
    """Inside, every cross-attention of a U-Net of `diffusers` reads keys and values computed once, of this context.

    The context that the U-Net is given is then not looked at; give it the same. Cross-attentions with more than
    queries, keys and values (norms of the keys, added projections) are left as they are; so are all without a context.
    """
    before: dict[Any, Any] = {}
    for name, module in unet.named_modules():
        if context is None:
            break
        plain = name.endswith("attn2") and not any(
            getattr(module, part, None) is not None for part in ("norm_cross", "norm_q", "norm_k", "add_k_proj")
        )
        if plain:
            before[module] = module.processor
            module.processor = _FixedContext(module, context)
    try:
        yield
    finally:
        for module, processor in before.items():
            module.processor = processor


class _FixedContext:
    """Computes one cross-attention from keys and values that are already there."""

    def __init__(self, attention: Any, context: Tensor):
        self.key, self.value = (self._split(attention, to(context)) for to in (attention.to_k, attention.to_v))

    def __call__(self, attention: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        query = self._split(attention, attention.to_q(hidden_states))
        out = F.scaled_dot_product_attention(query, self.key, self.value, scale=attention.scale)
        out = attention.to_out[0](out.transpose(1, 2).flatten(2))
        return attention.to_out[1](out) / attention.rescale_output_factor

    @staticmethod
    def _split(attention: Any, x: Tensor) -> Tensor:
        return x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)


def speed_up_attention(unet: Any) -> None:
    """Let a U-Net of `diffusers` compute its attention by plain products where that is faster than torch's kernel.

    That is in training, in bfloat16 on a CPU, with at most 256 x 256 weights for each head: a quarter less time for a
    step of the miniatures. Everything else goes to the kernel. Attentions with a processor of their own keep it.
    """
    with needs_extra("diffusion"):
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
    for module in unet.modules():
        if type(getattr(module, "processor", None)) is AttnProcessor2_0:
            module.processor = _Faster(AttnProcessor(), module.processor)


class _Faster:
    """Computes one attention by one of two processors of `diffusers`."""

    def __init__(self, plain: Any, fused: Any):
        self.plain, self.fused = plain, fused

    def __call__(
        self, attention: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *rest: Any, **kw: Any
    ) -> Tensor:
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        few = hidden_states.shape[1] * keys.shape[1] <= 256**2
        slow = hidden_states.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        chosen = self.plain if few and slow else self.fused
        return chosen(attention, hidden_states, encoder_hidden_states, *rest, **kw)
