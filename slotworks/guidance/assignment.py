"""The Hungarian method for a batch (Kuhn 1955)."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from slotworks.matching import best_pairs


def best_partners(score: Float[Tensor, "b n m"]) -> Int64[Tensor, "b n"]:
    """For each row its column: one to one, with the largest sum of scores; -1 for rows that are left over.

    Runs on the CPU, about 10 microseconds for each 7 x 256 table.
    """
    columns = np.full(score.shape[:2], -1, np.int64)
    for found, table in zip(columns, score.detach().cpu().numpy(), strict=True):
        rows, partners = best_pairs(table)
        found[rows] = partners
    return torch.from_numpy(columns).to(score.device)
