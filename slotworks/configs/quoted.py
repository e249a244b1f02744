"""Numbers of methods that have no recipe here, quoted with their source, to read beside the rows that have one.

`python -m slotworks.tables` writes them where a page asks for a table by its name: `<!-- quoted slate_implicit -->`.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Quoted:
    """A row that is only quoted."""

    method: str
    numbers: Mapping[str, str]  # as printed, by column
    source: str  # paper and table, and where the number there is from


TABLE_1 = "Locatello et al. 2020, table 1, which quotes it"
UNROLLED = "Chang et al. 2022, table of SLATE"

QUOTED: Mapping[str, tuple[Quoted, ...]] = {
    # FG-ARI
    "slot_attention_table_1": (
        Quoted(
            "IODINE", {"CLEVR6": "98.8 +- 0.0", "Multi-dSprites": "76.7 +- 5.6", "Tetrominoes": "99.2 +- 0.4"}, TABLE_1
        ),
        Quoted("MONet", {"CLEVR6": "96.2 +- 0.6", "Multi-dSprites": "90.4 +- 0.8"}, TABLE_1),
    ),
    # of recipes with another gradient: `--method.gradient implicit`
    "slate_implicit": (
        Quoted("SLATE, implicit gradient, CLEVR-Mirror", {"FID": "22.19", "MSE": "10.66"}, UNROLLED),
        Quoted("SLATE, implicit gradient, ShapeStacks", {"FID": "34.2", "MSE": "108.67"}, UNROLLED),
        Quoted("SLATE, implicit gradient, COCO", {"FID": "127.79", "MSE": "1659.15"}, UNROLLED),
        Quoted("SLATE, unrolled, COCO", {"FID": "147.48", "MSE": "1821.75"}, UNROLLED),
    ),
}
