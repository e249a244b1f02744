"""Parts by name: those of the package, those that installed packages announce, and those of one's own modules.

discovery               a task of the package
gap                     one of an installed package, which announces it under the group `slotworks.tasks`
my_package.tasks:GAP    what a module that can be imported calls GAP
my_tasks.py:GAP         the same of a file
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from slotworks.errors import UserError, nearest, quote

T = TypeVar("T")

_FILES: dict[tuple[Path, int], ModuleType] = {}
"""Files that were imported, with the time of their last change: a file that stays the same is carried out once."""


def find(kind: str, name: str, known: Mapping[str, T | str], of: type[T], *, importing: bool = True) -> T:
    """The part of this name.

    Args:
        kind: what it is called in messages, such as `task` or `data set`; see `announced`.
        name: as at the top of this file.
        known: the parts of the package by name; one that is a string says where it is, as `module:name`.
        of: the class that it is of.
        importing: False where a file named it, such as a run folder, which never says what to import: a module of
            one's own then has to be imported already. What an installed package announces may be named anywhere.

    Raises:
        UserError: if there is none, it cannot be imported, or it is something else.
    """
    found: Any = known.get(name)
    if ":" in name:
        found = _own(kind, name, importing)
    elif isinstance(found, str):
        found = _own(kind, found, importing=True)
    elif found is None:
        if not (points := announced(kind).select(name=name)):
            near = nearest(name, [*known, *announced(kind).names])
            raise UserError(
                f"There is no {kind} {name!r}. Nearest: {near}. One of your own is named as module:NAME or "
                "file.py:NAME."
            )
        try:
            found = next(iter(points)).load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"The {kind} {name} of an installed package cannot be imported ({error}).") from error
    if not isinstance(found, of):
        what = found.__name__ if isinstance(found, type) else type(found).__name__
        raise UserError(f"{name} is {what}, no {kind}; expected an instance of {of.__module__}.{of.__name__}.")
    return found


def announced(kind: str) -> EntryPoints:
    """What installed packages announce: entry points of the group `slotworks.tasks`, `slotworks.data_sets`, ..."""
    return entry_points(group=f"slotworks.{kind.replace(' ', '_')}s")


def _own(kind: str, name: str, importing: bool) -> Any:
    """What a module or a file holds under a name."""
    place, _, attribute = name.rpartition(":")
    is_file = place.endswith(".py") or "/" in place
    module = sys.modules.get(_module_name(Path(place)) if is_file else place)
    if importing and (is_file or module is None):
        try:
            module = import_file(Path(place)) if is_file else importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise UserError(f"The {kind} {name} cannot be imported: {error}.") from error
    if module is None:
        raise UserError(
            f"The {kind} {name} is your own, and a file never says what to import: name it again with this command, "
            f"or import {place} first (--module)."
        )
    if not hasattr(module, attribute):
        raise UserError(f"{place} has no {attribute!r}; {kind} {name} was asked for.")
    return getattr(module, attribute)


def imported_files() -> list[Path]:
    """The files of one's own that were imported, for a process that is to know the same classes."""
    return [path for path, _ in _FILES]


def import_file(path: Path) -> ModuleType:
    """Import a user's file, so that what it defines can be used and run folders can name its classes.

    Raises:
        UserError: if it is no Python file, or importing it fails: says in which line.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a Python file of your own.")
    key = (path.resolve(), path.stat().st_mtime_ns)
    name = _module_name(path)
    if key not in _FILES:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path} is not a Python file; its name must end in .py.")
        before = sys.modules.pop(name, None)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where its dataclasses look for it
        try:
            with _explaining(path):
                spec.loader.exec_module(module)
        except UserError:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
            raise
        _FILES[key] = module
    sys.modules[name] = _FILES[key]
    return _FILES[key]


def _module_name(path: Path) -> str:
    """What the module of a file is called: its stem, unless a library, imported or not, has that name."""
    stem = path.stem
    if stem in sys.modules:
        taken = sys.modules[stem] not in _FILES.values()
    else:
        spec = None if "." in stem else importlib.util.find_spec(stem)
        taken = spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path.resolve())
    return f"own.{stem}" if taken else stem


def own_function(kind: str, name: str, returns: str) -> "Callable[[], Any]":
    """The function that `FILE.py:NAME` or `MODULE:NAME` names; it gives an instance of the class called `returns`.

    Raises:
        UserError: if there is no such function, or the file cannot be imported; when called, if it fails or gives
            something else.
    """
    place, _, wanted = name.rpartition(":")
    function = _own(kind, name, importing=True)
    if not callable(function):
        raise UserError(f"{place} has no function {wanted!r} that returns a {returns}.")

    @wraps(function)
    def call() -> Any:
        with _explaining(Path(place)):
            found = function()
        if returns not in (base.__name__ for base in type(found).__mro__):
            raise UserError(f"{wanted} of {place} returns a value of the type {type(found).__name__}, not a {returns}.")
        return found

    return call


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
