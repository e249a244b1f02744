"""The loss of set prediction: predicted objects against true ones in the best order."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, smooth_l1_loss

from slotworks.guidance.assignment import best_partners
from slotworks.types import UserError

NUM_COORDINATES = 3


def matched_huber(
    pred: Float[Tensor, "b n c"], true: Float[Tensor, "b m c"], *, coordinate_scale: float = 1.0
) -> Float[Tensor, " b"]:
    """Huber loss of each image between its predicted objects and the true ones, matched for the smallest sum.

    Locatello et al. 2020, supplement, section 5.4, as in the released code: a pair costs the mean of the Huber loss
    (0.5 e^2 below 1, then |e| - 0.5) over the numbers of a vector, an image the *sum* over its pairs. Rows that pad the
    true set are matched, too: so the last number learns to say what is no object.

    Args:
        pred: predicted vectors.
        true: true vectors, zeros for padding; padded further to as many rows as were predicted.
        coordinate_scale: factor on the coordinates (the first three numbers) of both, the range [0, scale] of the
            supplement's section 3.2: larger ones weigh more.

    Raises:
        UserError: if there are more true rows than predicted ones.
    """
    (_, n, width), m = pred.shape, true.shape[1]
    if m > n:
        raise UserError(
            f"Images hold up to {m} objects but the method predicts {n}; set method.num_slots to {m} or more, or lower "
            "data.max_objects."
        )
    true = pad(true, (0, 0, 0, n - m))
    if coordinate_scale != 1:
        scale = pred.new_ones(width)
        scale[:NUM_COORDINATES] = coordinate_scale
        pred, true = pred * scale, true * scale
    shape = (len(pred), n, n, width)
    cost = smooth_l1_loss(pred[:, :, None].expand(shape), true[:, None].expand(shape), reduction="none").mean(-1)
    partner = best_partners(-cost)  # b n
    return cost.gather(2, partner[..., None])[..., 0].sum(1)
