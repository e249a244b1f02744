"""LPIPS as a training loss: the distance of two images in the features of a frozen VGG (Zhang et al. 2018)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.errors import needs_extra
from slotworks.nn.precision import without_autocast


class PerceptualLoss(nn.Module):
    """Mean LPIPS with VGG of `torchmetrics`, with gradients to the images.

    The network is loaded when it is first used, its weights fetched; it follows the images to their device, is no
    parameter and is not saved.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: tuple[Any, ...] = ()  # in a tuple, it is no submodule

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": ()}

    def forward(self, pred: Float[Tensor, "b 3 h w"], true: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Distance of images in [0, 1], computed in float32.

        Raises:
            UserError: if the extra `perceptual` is missing.
        """
        if not self._network:
            with needs_extra("perceptual"):
                from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

                network = LearnedPerceptualImagePatchSimilarity(net_type="vgg").net
            self._network = (network.requires_grad_(False),)
        network = self._network[0].to(pred.device)
        with without_autocast(pred.device):
            return network(pred.float(), true.float(), normalize=True).mean()
