"""Names on the command line to data sets."""

from pathlib import Path

from slotworks.types import DataConfig


def find_data(name: str, root: Path | None) -> DataConfig:
    """The data set of this name as `slotworks data list` prints it, optionally below another folder."""
    from slotworks.data import catalog

    row = catalog.find_row(name)
    return row.config(root=str(root)) if root else row.config()
