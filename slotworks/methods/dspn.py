"""Deep Set Prediction Networks: image -> one vector -> the set whose own code is nearest to it, found by descent.

Zhang, Hare and Prügel-Bennett 2019, "Deep Set Prediction Networks", arXiv 1906.06565; settings from its released code
(`clevr-state`, `RNFSEncoder`). A set encoder turns a set into a vector. Prediction goes the other way: from a learned
start, the set is moved along the gradient of the distance between its code and the code of the image, T times; training
differentiates through these steps. Differences:

- Coordinates are in [-1, 1] inside, as in the released code, and in [0, 1] outside, as everywhere here.
- The released code takes the mean of the inner loss over the *batch*, too, with rate 800 and 32 images: a set then
  moves by 800 / 32 times its own gradient. We take the gradient of each image alone, with rate 25: the same for 32
  images, and independent of how many there are.
- "T = 30" in the published tables is the model trained with T = 10 that runs longer: `test_iterations=30`.

There are no slots: what `encode` returns in their place are the elements of the set.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, smooth_l1_loss

from slotworks.encoders import ImageCode
from slotworks.guidance import matched_huber
from slotworks.nn.fspool import FSPool
from slotworks.nn.init import glorot_
from slotworks.nn.precision import without_autocast
from slotworks.types import Batch, Method, MethodConfig, SlotOutput


@dataclass(frozen=True)
class DSPNConfig(MethodConfig):
    """Hyperparameters of DSPN; the defaults are CLEVR10's."""

    loss_weights: dict[str, float] = field(default_factory=lambda: {"representation": 0.1})
    """by term; a term not named here weighs 1"""
    image_size: tuple[int, int] = (128, 128)  # height and width in pixels
    num_slots: int = 10  # elements of the set
    num_iterations: int = 10  # T in training: steps of the inner descent
    test_iterations: int | None = None  # T outside of training; None: as in training
    inner_lr: float = 25.0  # rate of the inner descent, for the gradient of one image
    latent_dim: int = 512  # numbers in a code
    hidden_dim: int = 512  # of the set encoder
    encoder_width: int = 64  # channels of the first stage of the ResNet that makes the code of an image
    encoder_blocks: tuple[int, ...] = (3, 4, 6, 3)  # of its stages: ResNet-34, for 128 pixels; three stages for 64
    categories: tuple[int, ...] = (2, 2, 3, 8)  # classes of each property, in the order of the data set
    stepwise_loss: bool = False  # a loss after every step, summed, instead of the last only
    coordinate_scale: float = 2.0  # sets have coordinates as wide as this around 0: [-1, 1] in the released code
    autoencode_steps: int = 0  # first training steps, which descend on the codes of true sets (not in the paper)

    def build(self) -> "DSPN":
        """Make the method with fresh weights."""
        return DSPN(self)

    @property
    def same_loss_since(self) -> int:
        """The step from which on sets are found from codes of images."""
        return self.autoencode_steps


class DSPN(Method):
    """A set predicted by descending on the code of an image."""

    config: DSPNConfig

    def __init__(self, config: DSPNConfig):
        super().__init__()
        self.config = config
        width = 3 + sum(config.categories) + 1
        self.image_encoder = ImageCode(config.latent_dim, width=config.encoder_width, blocks=config.encoder_blocks)
        self.set_encoder = SetEncoder(width, config.latent_dim, config.hidden_dim)
        self.start = nn.Parameter(torch.rand(config.num_slots, width - 1))  # coordinates and properties
        self.start_presence = nn.Parameter(torch.full((config.num_slots,), 0.5))

    def encode(self, image: Float[Tensor, "b 3 h w"], *, num_iterations: int | None = None) -> SlotOutput:
        """Images in [0, 1] to sets; `slots` are their elements and the maps are uniform, for there is no attention."""
        if num_iterations is None and not self.training:
            num_iterations = self.config.test_iterations
        elements = self.descend(self.image_encoder(image), num_iterations)[-1]
        return SlotOutput(elements, elements.new_full((*elements.shape[:2], 1), 1 / elements.shape[1]), grid=(1, 1))

    def predict_set(self, slots: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Elements with coordinates in about [0, 1]."""
        scale = self.config.coordinate_scale
        return torch.cat([(slots[..., :3] + scale / 2) / scale, slots[..., 3:]], dim=-1)

    def descend(self, code: Float[Tensor, "b z"], num_iterations: int | None = None) -> list[Float[Tensor, "b n c"]]:
        """The sets after each step of the inner descent, the learned start first (algorithm 1).

        Gradients are taken in evaluation, too; they are differentiated themselves only where gradients are enabled.
        """
        train = torch.is_grad_enabled()
        with without_autocast(code.device):
            code = code if code.dtype == torch.float64 else code.float()
            elements = self.start.expand(len(code), -1, -1)
            presence = self.start_presence.clamp(0, 1).expand(len(code), -1)
            sets = [_join(elements, presence)]
            count = self.config.num_iterations if num_iterations is None else num_iterations
            for _ in range(count):
                with torch.enable_grad():
                    if not train:
                        elements, presence = elements.detach().requires_grad_(), presence.detach().requires_grad_()
                    distance = smooth_l1_loss(self.set_encoder(_join(elements, presence)), code, reduction="none")
                    moves = torch.autograd.grad(distance.mean(1).sum(), (elements, presence), create_graph=train)
                elements = elements - self.config.inner_lr * moves[0]
                presence = (presence - self.config.inner_lr * moves[1]).clamp(0, 1)
                if not train:
                    elements, presence = elements.detach(), presence.detach()
                sets.append(_join(elements, presence))
        return sets

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`set`, the matched Huber loss, a mean over the elements, and `representation`, how far codes are apart.

        The second term, of the codes of true sets and of images, makes the image's code one that the set encoder can
        tell apart (the released code weighs it with 0.1). In the first `autoencode_steps` it alone trains the image
        encoder, and sets are predicted from the codes of the true ones, as in the paper's auto-encoder.
        """
        objects = batch["objects"]
        present = objects[..., -1:]
        scale = self.config.coordinate_scale
        true = torch.cat([(scale * objects[..., :3] - scale / 2) * present, objects[..., 3:]], dim=-1)
        missing = self.config.num_slots - true.shape[1]
        padded = nn.functional.pad(true, (0, 0, 0, max(missing, 0)))
        code, true_code = self.image_encoder(batch["image"]), self.set_encoder(padded)
        sets = self.descend(true_code if step < self.config.autoencode_steps else code)
        losses = [
            matched_huber(elements, true).mean() / self.config.num_slots
            for elements in (sets[1:] if self.config.stepwise_loss else sets[-1:])
        ]
        return {"set": torch.stack(losses).sum(), "representation": smooth_l1_loss(true_code, code.to(true_code.dtype))}


class SetEncoder(nn.Module):
    """A set to a vector: every pair of elements through a shared MLP, then featurewise sort pooling over the pairs.

    Args:
        dim: numbers of an element, presence included.
        latent_dim: numbers of the code.
        hidden_dim: width of the MLP.
    """

    def __init__(self, dim: int, latent_dim: int = 512, hidden_dim: int = 512):
        super().__init__()
        self.pair = nn.Linear(2 * dim, hidden_dim)
        self.out = nn.Linear(hidden_dim, latent_dim)
        self.pool = FSPool(latent_dim)
        glorot_(self)

    def forward(self, elements: Float[Tensor, "b n c"]) -> Float[Tensor, "b z"]:
        """The code, the same for any order of the elements."""
        left, right = self.pair.weight.chunk(2, dim=1)  # the first and the second of a pair
        hidden = linear(elements, left, self.pair.bias)[:, :, None] + linear(elements, right)[:, None]
        pairs = self.out(hidden.relu()).flatten(1, 2)
        return self.pool(pairs) / pairs.shape[1]


def _join(elements: Float[Tensor, "b n c"], presence: Float[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
    return torch.cat([elements, presence[..., None]], dim=-1)
