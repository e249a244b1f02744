"""Errors that are meant for the user; in a file of its own because the report page must not import torch."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake the user can fix. The message is one sentence or two: what was given, what was expected, what to do.

    The command line prints the message alone and exits with code 2.
    """


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around the import of an optional library: says how to install it where it is missing or does not fit.

    with needs_extra("vision"):
        from transformers import AutoModel

    Raises:
        UserError: if the import fails. A torchvision built for another torch breaks transformers and diffusers with a
            RuntimeError, so that is caught, too.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        hint = "; a torchvision that does not fit this torch has to go first" if "torchvision" in reason else ""
        raise UserError(
            f"An optional library is missing or does not work here ({reason}); install it with "
            f"`pip install 'slotworks[{extra}]'`{hint}."
        ) from error
