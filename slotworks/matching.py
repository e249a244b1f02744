"""Which rows go with which columns of a table of scores: one to one, with the largest sum."""

import numpy as np
from jaxtyping import Int, Shaped


def best_pairs(score: Shaped[np.ndarray, "n m"]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Rows and columns of a one-to-one matching with the largest total score (Kuhn 1955); rows ascend, k = min(n, m).

    Where several matchings are equally good, which one is returned is not defined; the total is.
    """
    from scipy.optimize import linear_sum_assignment  # imported here: takes half a second

    return linear_sum_assignment(score, maximize=True)
