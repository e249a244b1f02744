"""What libraries report while they read published networks: kept quiet, and errors in a line."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Without the reports of transformers: a missing pooler is no news, an error comes as one sentence."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message, at most 200 characters."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:200].rstrip(" .:")
