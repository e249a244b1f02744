"""Names on the command line to data sets and user modules."""

import importlib.util
import sys
from pathlib import Path

from slotworks.types import DataConfig, UserError


def find_data(name: str, root: Path | None) -> DataConfig:
    """The data set of this name as `slotworks data list` prints it, optionally below another folder."""
    from slotworks.data import catalog

    row = catalog.find_row(name)
    return row.config(root=str(root)) if root else row.config()


def import_file(path: Path | None) -> None:
    """Import a user's file, so that its classes are known when a run folder names them."""
    if path is None:
        return
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the Python file that defines the run's classes.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[path.stem])
