"""Initial weights of the original codes, Keras' and flax' among them; whether weights fit."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def glorot_(module: nn.Module) -> nn.Module:
    """Glorot-uniform kernels, zero biases, orthogonal recurrent kernels, for every layer inside `module`.

    Glorot and Bengio 2010, Eq. 16, with Keras' fans: a GRU's input kernel is one `d x 3d` matrix and its recurrent
    kernel is orthogonal as one `d x 3d` matrix. torch initialises the three gates apart. Norms are left alone.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.GRUCell):
            nn.init.xavier_uniform_(layer.weight_ih)
            nn.init.orthogonal_(layer.weight_hh)
            nn.init.zeros_(layer.bias_ih)
            nn.init.zeros_(layer.bias_hh)
    return module


@torch.no_grad()
def lecun_(module: nn.Module) -> nn.Module:
    """LeCun-normal kernels, zero biases, orthogonal recurrent kernels for every layer inside `module`: flax' defaults.

    Normal of variance 1 / fan-in cut off at two standard deviations. A GRU has these for each of its gates apart.
    Norms are left alone.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            inputs = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
            _lecun_normal(layer.weight, fan_in=inputs[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.GRUCell):
            for gate in layer.weight_ih.chunk(3):
                _lecun_normal(gate, fan_in=gate.shape[1])
            for gate in layer.weight_hh.chunk(3):
                nn.init.orthogonal_(gate)
            nn.init.zeros_(layer.bias_ih)
            nn.init.zeros_(layer.bias_hh)
    return module


def _lecun_normal(weight: torch.Tensor, *, fan_in: int) -> None:
    std = fan_in**-0.5 / 0.87962566103423978  # the standard deviation that is left after cutting off
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


@torch.no_grad()
def he_glorot_(mlp: nn.Module) -> nn.Module:
    """A network of two linear layers as in SLATE's and STEVE's code: He-uniform, then Glorot-uniform, zero biases."""
    first, last = (layer for layer in mlp.modules() if isinstance(layer, nn.Linear))
    nn.init.kaiming_uniform_(first.weight, nonlinearity="relu")
    nn.init.xavier_uniform_(last.weight)
    nn.init.zeros_(first.bias)
    nn.init.zeros_(last.bias)
    return mlp


def torch_(module: nn.Module) -> nn.Module:
    """torch's own initial weights for every linear layer, convolution and GRU inside `module`. Norms are left alone."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.GRUCell):
            layer.reset_parameters()
    return module


def glorot_vector(*shape: int) -> nn.Parameter:
    """A parameter `1 1 d` or `1 n d` drawn as Keras draws a kernel of that shape.

    `torch.nn.init.xavier_uniform_` takes `1 1 d` for a convolution and draws from a narrower range.
    """
    limit = math.sqrt(6 / (shape[-2] + shape[-1]))
    return nn.Parameter(torch.empty(shape).uniform_(-limit, limit))


def unlike(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Names of weights that only one of two networks has, or that have another shape there; empty if they fit."""
    return [n for n in {**own, **given} if n not in own or n not in given or own[n].shape != given[n].shape]
