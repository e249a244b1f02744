"""Noise."""
import torch
def batch_noise(shape, device=None, dtype=None):
    return torch.randn(shape, device=device, dtype=dtype)
