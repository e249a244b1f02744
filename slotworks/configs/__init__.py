"""Recipes: one file per method, one recipe per row of a table. `slotworks train slot_attention.tetrominoes`."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from slotworks import parts
from slotworks.errors import UserError, nearest
from slotworks.parts import announced

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

    See `slotworks.parts` for others that are not of the package.

    Raises:
        UserError: if there is none; names the nearest.
    """
    if function := _packaged(name):
        return function
    if is_recipe(name):
        if ":" in name:
            return parts.own_function("recipe", name, "Run")
        return parts.find("recipe", name, {}, Callable)  # pyright: ignore[reportArgumentType]  (it can be asked for)
    raise UserError(f"There is no recipe {name!r}. Nearest: {nearest(name, recipes())}. `slotworks recipes` lists all.")


def is_recipe(name: str) -> bool:
    """Whether this names a recipe, and not for example a run folder."""
    return ":" in name or _packaged(name) is not None or bool(announced("recipe").select(name=name))


def _packaged(name: str) -> "Callable[[], Run] | None":
    method, _, row = name.partition(".")
    if method not in {module.name for module in pkgutil.iter_modules(__path__)}:
        return None
    return _of(method).get(row)  # not all files are imported for one


def _of(method: str) -> "dict[str, Recipe]":
    from slotworks.configs.recipe import Recipe

    module = importlib.import_module(f"{__name__}.{method}")
    return {name: value for name, value in vars(module).items() if isinstance(value, Recipe)}
