"""The image cut into a grid of equal blocks, whatever it shows: what any score of masks has to be compared with.

Objects are blobs, and neighbouring pixels are mostly one object's, so blocks that never saw the image share foreground
pixels out much as objects do: FG-ARI calls four quadrants half right on drawn scenes of two or three large shapes.
ARI, mBO and mIoU do not. Not a row of a paper's table.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.nn.clustering import segments_as_slots
from slotworks.types import MethodConfig, SlotOutput, Untrained


@dataclass(frozen=True)
class BlocksConfig(MethodConfig):
    """Settings of the grid."""

    rows: int = 2  # of blocks
    columns: int = 2  # of blocks
    image_size: int = 32  # of the data, in pixels; any works

    def build(self) -> "Blocks":
        """Make the method."""
        return Blocks(self)


class Blocks(Untrained):
    """Block `k` is slot `k`, row by row. It has no weights; a slot is its block's mean colour."""

    refusal = "Blocks train nothing; measure them"
    config: BlocksConfig

    def __init__(self, config: BlocksConfig):
        if config.rows < 1 or config.columns < 1:
            raise ValueError(f"rows is {config.rows} and columns {config.columns}; a grid has one of each or more.")
        super().__init__(config)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images of any size: `attn` is one-hot, pixel by pixel. Borders between blocks are rounded down."""
        rows, columns = self.config.rows, self.config.columns
        height, width = image.shape[-2:]
        down = torch.arange(height, device=image.device) * rows // height
        across = torch.arange(width, device=image.device) * columns // width
        labels = (down[:, None] * columns + across).flatten().expand(image.shape[0], -1)
        return segments_as_slots(labels, image.flatten(2).mT, rows * columns, (height, width))
