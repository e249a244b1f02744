"""Weight initialisation of the original Slot Attention code (Keras defaults), which torch's defaults differ from."""

import math

import torch
from torch import nn


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


def glorot_vector(*shape: int) -> nn.Parameter:
    """A parameter `1 1 d` or `1 n d` drawn as Keras draws a kernel of that shape.

    `torch.nn.init.xavier_uniform_` takes `1 1 d` for a convolution and draws from a narrower range.
    """
    limit = math.sqrt(6 / (shape[-2] + shape[-1]))
    return nn.Parameter(torch.empty(shape).uniform_(-limit, limit))
