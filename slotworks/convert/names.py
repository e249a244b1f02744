"""Tables of names, ours and a checkpoint's, and how tensors are carried over by them."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from slotworks.errors import UserError, shorten
from slotworks.training.checkpoint import check_weights

Names = dict[str, str]
"""Our name of a tensor -> theirs."""

KINDS = {".*": ("weight", "bias"), ".@": ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
_INDEX = re.compile(r"\{(\d*)i(\+\d+)?\}")


def table(lines: str, *, count: int = 0, **words: str) -> Names:
    """Two names a line, ours and theirs.

    `.*` at the end stands for weight and bias, `.@` for the four arrays of a GRU. A line with `{i}` stands for `count`
    lines; `{2i+1}` is a number made of it. `<here>` is replaced by the word that is given for it.

    >>> table("<here>.{i}.* b.{2i+1}.*", count=1, here="a")
    {'a.0.weight': 'b.1.weight', 'a.0.bias': 'b.1.bias'}
    """
    found: Names = {}
    for word, value in words.items():
        lines = lines.replace(f"<{word}>", value)
    for line in filter(None, map(str.strip, lines.splitlines())):
        for i in range(count) if _INDEX.search(line) else (0,):
            ours, theirs = _INDEX.sub(lambda part, i=i: _number(part, i), line).split()
            kinds = KINDS.get(ours[-2:])
            pairs = [(f"{ours[:-1]}{kind}", f"{theirs[:-1]}{kind}") for kind in kinds] if kinds else [(ours, theirs)]
            found |= dict(pairs)
    return found


def _number(part: re.Match[str], i: int) -> str:
    return str(int(part[1] or 1) * i + int(part[2] or 0))


def carried(
    theirs: Mapping[str, Tensor],
    names: Names,
    expected: Mapping[str, Tensor],
    *,
    source: str,
    family: str,
    unread: Iterable[str] = (),
) -> dict[str, Tensor]:
    """The tensors of a checkpoint under our names, in the shapes of `expected` where only axes of length 1 differ.

    Args:
        theirs: by their names.
        names: the table.
        expected: the state dict of our method; which of these there must be.
        source: the file's name, for messages.
        family: whose checkpoint it is, for messages.
        unread: patterns of their names that mean nothing here, such as buffers that are computed.

    Raises:
        UserError: naming a tensor that is missing or unknown, or holds NaN or infinity.
    """
    missing = [their for our, their in names.items() if their not in theirs]
    if missing:
        raise UserError(f"{source} lacks {_list(missing)}, so it is no complete checkpoint of {family}.")
    known = {*names.values()}
    patterns = [re.compile(pattern) for pattern in unread]
    extra = [name for name in theirs if name not in known and not any(one.match(name) for one in patterns)]
    if extra:
        raise UserError(f"{source} has {_list(extra)}, which {family} as it is known here does not have.")
    check_weights({name: theirs[name] for name in names.values()}, source=source)  # a causal mask may hold infinity
    found = {}
    for ours, name in names.items():
        value = theirs[name]
        shape = expected[ours].shape if ours in expected else value.shape
        same = [n for n in value.shape if n != 1] == [n for n in shape if n != 1]
        found[ours] = value.reshape(shape) if same else value
    return found


def _list(names: list[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"the tensor {shorten(names[0], 120)}{more}"


def split_rows(theirs: Mapping[str, Tensor], pattern: str, parts: Iterable[str]) -> dict[str, Tensor]:
    """The same with tensors that hold several layers, one below the other, taken apart in equal pieces.

    Args:
        theirs: by name.
        pattern: matches the whole names; a group called `part` marks what is replaced.
        parts: what it is replaced by, in the order of the rows.

    Raises:
        UserError: if rows cannot be shared out.
    """
    found, parts = {}, list(parts)
    for name, value in theirs.items():
        match = re.fullmatch(pattern, name)
        if match is None:
            found[name] = value
            continue
        if not value.ndim or value.shape[0] % len(parts):
            raise UserError(f"{name} has the shape {tuple(value.shape)}; its rows should be {len(parts)} layers.")
        start, end = match.span("part")
        for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
            found[name[:start] + part + name[end:]] = piece
    return found


def count(theirs: Iterable[str], pattern: str) -> int:
    """How many different numbers stand in the group of `pattern` in the names it matches at their beginning."""
    return len({match[1] for name in theirs if (match := re.match(pattern, name))})


def shape(theirs: Mapping[str, Tensor], name: str, ndim: int, *, source: str) -> torch.Size:
    """The shape of a tensor that settings are read from.

    Raises:
        UserError: if it is missing or has another number of axes.
    """
    if name not in theirs or theirs[name].ndim != ndim:
        said = f"has the shape {tuple(theirs[name].shape)}" if name in theirs else "is missing"
        raise UserError(f"{source}: the tensor {name} {said}; it should have {ndim} axes.")
    return theirs[name].shape
