"""What a metric is: its name, its unit and which way is better; and one of masks, with its arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float64, Int64
from torch import Tensor

Unit = Literal["share", "dB", "square", "distance", "index"]
"""`share`: of something, printed in percent; `dB`; `square`: a squared error in the units of what is compared;
`distance`: between features, without a unit; `index`: as it is, at most 1."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of a record."""

    name: str  # in records; with `*` for several of a kind, as `iou_*` for each class
    label: str = ""  # as papers print it; by default the name
    unit: Unit = "share"
    better: Literal["higher", "lower", "neither"] = "higher"
    about: str = ""  # what it asks and where it ends, in a sentence for the report

    def described(self) -> dict[str, str]:
        """What a table says of it, and a record of one that the package does not have."""
        return {key: getattr(self, key) for key in ("name", "label", "unit", "better", "about")}


@dataclass(frozen=True)
class Counts:
    """What metrics of masks see of a batch: pixels of each true id in each slot, after the rules of a protocol."""

    table: Int64[Tensor, "b n m"]  # column 0 is the background
    objects: Bool[Tensor, "b m"]  # ids that count; the background only if the protocol says so


@dataclass(frozen=True, kw_only=True)
class MaskMetric(Metric):
    """A metric of masks that a protocol may name beside those of the package: a value for each image, NaN: no count."""

    score: Callable[[Counts], Float64[Tensor, " b"]]
