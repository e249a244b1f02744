"""The error that is meant for the user; in a file of its own because the report page must not import torch."""


class UserError(Exception):
    """A mistake the user can fix. The message is one sentence or two: what was given, what was expected, what to do.

    The command line prints the message alone and exits with code 2.
    """
