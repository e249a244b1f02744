"""Ctrl-C and SIGTERM ask a run to stop; they do not break it off."""

import os
import signal
import threading
from typing import Any


class Interrupt:
    """The first Ctrl-C or SIGTERM sets `asked`, so that the loop saves and returns; a second one ends at once.

    `asked` is 0, or the number of the signal.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        os.write(2, b"\nStopping after this step; a second Ctrl-C ends at once, without saving.\n")
