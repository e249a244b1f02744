"""Recipes: one file per method, one recipe per row of a table. `slotworks train slot_attention.tetrominoes`."""

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from slotworks import tables
from slotworks.errors import UserError, quote

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
        return own_function(name, "Run")
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


def own_function(name: str, returns: str) -> "Callable[[], Any]":
    """The function that `FILE.py:NAME` names.

    Args:
        name: the file and the function.
        returns: the name of the class that it gives an instance of.

    Raises:
        UserError: if there is no such file or function, or the file cannot be imported; when called, if it fails or
            gives something else.
    """
    path, _, wanted = name.rpartition(":")
    function = getattr(import_file(Path(path)), wanted, None)
    if not callable(function):
        raise UserError(f"{path} has no function {wanted!r} that returns a {returns}.")

    @wraps(function)
    def call() -> Any:
        with _explaining(Path(path)):
            found = function()
        if returns not in (kind.__name__ for kind in type(found).__mro__):
            raise UserError(f"{wanted} of {path} returns a value of the type {type(found).__name__}, not a {returns}.")
        return found

    return call


def import_file(path: Path) -> ModuleType:
    """Import a user's file, so that its recipes can be called and run folders can name its classes.

    Raises:
        UserError: if it is no Python file, or importing it fails: says in which line.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a Python file of your own.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; its name must end in .py.")
    before = sys.modules.pop(path.stem, None)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        with _explaining(path):
            spec.loader.exec_module(module)
    except UserError:
        del sys.modules[path.stem]
        if before is not None:
            sys.modules[path.stem] = before
        raise
    return module


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """What fails in a user's file becomes a sentence with the line of that file.

    Raises:
        UserError: in place of any other error.
    """
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:  # also of a file that this one imports
        place = f"{error.filename or path}, line {error.lineno}" if error.lineno else str(path)
        raise UserError(f"{place}: {error.msg} ({type(error).__name__}); correct it there.") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise UserError(f"{place}: {quote(error)}; correct it there.") from error
