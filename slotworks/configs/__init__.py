"""Recipes: one file per method, one recipe per row of a table. `slotworks train slot_attention.tetrominoes`."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from slotworks import tables
from slotworks.errors import UserError

if TYPE_CHECKING:
    from slotworks.configs.recipe import Recipe
    from slotworks.training import Run


def recipes() -> "dict[str, Recipe]":
    """Every recipe of the package by name, as they stand in the files: `{"slot_attention.tetrominoes": ..., ...}`."""
    return {
        f"{method.name}.{name}": row
        for method in pkgutil.iter_modules(__path__)
        for name, row in _of(method.name).items()
    }


def find(name: str) -> "Callable[[], Run]":
    """The recipe of this name; `my_runs.py:ablation_3` takes the function `ablation_3` from a file of your own.

    Raises:
        UserError: if there is none; names the nearest.
    """
    if ":" in name:
        path, function = name.rsplit(":", 1)
        module = import_file(Path(path))
        if not hasattr(module, function):
            raise UserError(f"{path} has no function {function!r} that returns a Run.")
        return getattr(module, function)
    if function := _packaged(name):
        return function
    near = tables.nearest(name, (known["name"] for known in tables.read()["recipes"]))
    raise UserError(f"There is no recipe {name!r}. Nearest: {near}. `slotworks recipes` lists all.")


def is_recipe(name: str) -> bool:
    """Whether this names a recipe, and not for example a run folder."""
    return ":" in name or _packaged(name) is not None


def _packaged(name: str) -> "Callable[[], Run] | None":
    method, _, row = name.partition(".")
    if method not in {module.name for module in pkgutil.iter_modules(__path__)}:
        return None
    return _of(method).get(row)  # not all files are imported for one


def _of(method: str) -> "dict[str, Recipe]":
    from slotworks.configs.recipe import Recipe

    module = importlib.import_module(f"{__name__}.{method}")
    return {name: value for name, value in vars(module).items() if isinstance(value, Recipe)}


def import_file(path: Path) -> ModuleType:
    """Import a user's file, so that its recipes can be called and run folders can name its classes."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a Python file of your own.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
