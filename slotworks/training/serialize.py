"""Settings to readable YAML and back, exactly.

A dataclass becomes a mapping with its fields and `kind: ClassName`. Reading looks the name up among the classes that
are already imported and derive from the field's declared class; a file can never cause an import.
"""

import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from slotworks.errors import QUOTE, UserError, quote, shorten
from slotworks.files import write_text
from slotworks.training.run import Run
from slotworks.yaml_text import LIMIT, read_yaml

T = TypeVar("T")

FORMAT = 1
"""The number of a run folder's layout, `format` in run.yaml. A file without one is of the first.

It grows when an older version could no longer read what a new one writes; `tests/test_old_runs.py` opens folders of
every number.
"""


def save_run(run: Run, path: Path) -> None:
    """Write a run as YAML, whole or not at all.

    Raises:
        ValueError: if a setting cannot be written as plain text.
        UserError: if the disk refuses.
    """
    write_text(path, f"format: {FORMAT}\n{to_yaml(run)}")


def load_run(path: Path | str) -> Run:
    """Read the run of a run folder, or of its `run.yaml`.

    Raises:
        UserError: if the file is missing, not a run or of a newer version: names the setting and what was expected.
    """
    path = Path(path)
    path = path / "run.yaml" if os.path.isdir(path) else path
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LIMIT + 1)  # what is longer is refused
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist; give the folder of a run, or its run.yaml.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason}); save it in that encoding.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    return from_plain(Run, _without_format(_plain(text, str(path)), path), source=str(path))


def _without_format(plain: Any, path: Path) -> Any:
    """The settings of a run.yaml, whose format is looked at before its fields: a newer one may have others."""
    if not isinstance(plain, dict):
        return plain
    number = plain.pop("format", 1)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise UserError(
            f"{path} has the format {quote(number)}; this slotworks reads up to {FORMAT}. Install a newer one."
        )
    return plain


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line: `betas: [0.9, 0.999]`."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def to_yaml(settings: Any) -> str:
    """A dataclass as YAML text."""
    return yaml.dump(to_plain(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def from_yaml(cls: type[T], text: str, *, source: str) -> T:
    """YAML text to an object of class `cls` or derived from it; `source` is the file's name for messages.

    Raises:
        UserError: as `from_plain`, and if the text is not YAML.
    """
    return from_plain(cls, _plain(text, source), source=source)


def _plain(text: str, source: str) -> Any:
    try:
        return read_yaml(text)
    except ValueError as error:
        raise UserError(f"{source} is not valid YAML: {error}.") from None


def to_plain(value: Any, where: str = "the settings") -> Any:
    """Dataclasses to mappings with `kind`, tuples to lists, paths to text; numbers, text, None stay."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: to_plain(getattr(value, f.name), f.name) for f in fields(value) if f.init}
        return {"kind": type(value).__name__, **named}
    if isinstance(value, dict):
        return {to_plain(key, where): to_plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, where) for item in value]
    if value is None or isinstance(value, bool):
        return value
    for plain in (int, float, str):  # also makes numpy's numbers plain
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, Path):
        return str(value)
    raise ValueError(f"{where} is a {type(value).__name__}, which run.yaml cannot hold; use numbers, text or lists.")


def from_plain(cls: type[T], plain: Any, *, source: str) -> T:
    """The reverse of `to_plain`: an object of class `cls` or derived from it.

    Raises:
        UserError: for an unknown class, an unknown field, a missing one that has no default, a value of the wrong
            type, or settings that the class itself refuses.
    """
    return _dataclass(cls, plain, "", source)


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their whole names, such as `optimizer.lr`."""
    found = {}
    for key, value in plain.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any], may_change: Sequence[str]) -> list[str]:
    """Which plain settings differ, in words; those that may change are not named."""
    old, new = flat(old), flat(new)
    return [
        f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in {**old, **new}
        if old.get(name, "absent") != new.get(name, "absent") and name not in may_change
    ]


def _dataclass(cls: type[T], plain: Any, where: str, source: str) -> T:
    here = where or "the file"
    if not isinstance(plain, dict) or "kind" not in plain:
        raise UserError(f"{source}: {here} should be a mapping with `kind` and the fields of a {cls.__name__}.")
    known: dict[str, type] = {
        c.__name__: c for c in (cls, *_subclasses(cls))
    }  # a class defined again replaces the older one
    kind = plain["kind"]
    if not isinstance(kind, str) or kind not in known:
        named = shorten(kind, QUOTE) if isinstance(kind, str) else quote(kind)
        raise UserError(
            f"{source}: {here} is of class {named}, which is not known here; import the module that defines it first. "
            f"Known: {', '.join(sorted(known))}."
        )
    chosen = known[kind]
    names = {f.name: f for f in fields(chosen) if f.init}
    prefix = f"{where}." if where else ""
    for name in plain:
        if name != "kind" and name not in names:
            shown = shorten(str(name), QUOTE)
            raise UserError(f"{source}: {kind} has no field {prefix}{shown}; its fields are {', '.join(names)}.")
    for name, field in names.items():
        needed = field.default is MISSING and field.default_factory is MISSING
        if name not in plain and needed:  # a field with a default may be younger than the file
            raise UserError(
                f"{source}: the field {prefix}{name} of {kind} is missing; its fields are {', '.join(names)}."
            )
    hints = typing.get_type_hints(chosen)
    values = {name: _value(hints[name], plain[name], f"{prefix}{name}", source) for name in names if name in plain}
    try:
        return chosen(**values)
    except (ValueError, ArithmeticError) as error:  # a class that divides by a setting before it looks at it
        raise UserError(f"{source}: {error}") from None


def _subclasses(cls: type) -> list[type]:
    found = []
    for subclass in cls.__subclasses__():
        found += [subclass, *_subclasses(subclass)]
    return found


def _value(hint: Any, value: Any, where: str, source: str) -> Any:
    """Turn a plain value into what the annotation says: the int 1 for a float, text such as 1e-4, lists to tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_dataclass(hint):
        return _dataclass(hint, value, where, source)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [option for option in args if option is not type(None)]
        for option in options[:-1]:
            try:
                return _value(option, value, where, source)
            except UserError:
                continue
        return _value(options[-1], value, where, source)
    if origin is typing.Literal and value in args:
        return value
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 without a dot as text
        except (TypeError, ValueError, OverflowError):
            pass
    elif hint in (int, bool, str) and type(value) is hint and not (isinstance(value, str) and "\0" in value):
        return value
    elif hint is Path and isinstance(value, str) and "\0" not in value:
        return Path(value)
    elif origin is dict and isinstance(value, dict):
        return {
            _value(args[0], key, where, source): _value(args[1], item, f"{where}.{key}", source)
            for key, item in value.items()
        }
    elif origin in (list, tuple, Sequence) and isinstance(value, list):
        if origin is not tuple or args[-1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) == len(value):
            items = [_value(arg, item, where, source) for arg, item in zip(args, value, strict=True)]
            return items if origin is list else tuple(items)
    elif hint in (Any, type(None)) and (hint is Any or value is None):
        return value
    expected = str(hint).replace("typing.", "") if origin else getattr(hint, "__name__", hint)
    raise UserError(f"{source}: {where} is {quote(value)}; expected {expected}.")
