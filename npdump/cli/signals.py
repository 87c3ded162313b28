# SPDX-License-Identifier: GPL-2.0-or-later
"""What SIGINT, SIGTERM and SIGHUP do: the command ends with a line, and leaves nothing that looks whole and isn't."""

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import NoReturn

__all__ = ["Interrupted", "quit_at_once", "raise_interrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asks the process to end.

    Attributes
    ----------
    number : int
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        notes: list[str] = getattr(self, "__notes__", [])
        return ": ".join(["interrupted" if self.number == signal.SIGINT else _ended_by(self.number), *notes])


def _ended_by(number: int) -> str:
    return f"ended by {signal.Signals(number).name}"


def quit_at_once() -> None:
    """Have signals end the process where it stands: while modules are loaded there is nothing to clean up."""
    _handle(_quit)


def raise_interrupted() -> None:
    """Have signals raise `Interrupted`."""
    _handle(_raise)


def _handle(handler: object) -> None:
    for number in _SIGNALS:
        # Whoever starts npdump may have it ignore some, as nohup(1) does.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)  # type: ignore[arg-type]


def _quit(number: int, frame: FrameType | None) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"npdump: {Interrupted(number)}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    quit_at_once()  # who can't wait for the cleaning up asks once more
    raise Interrupted(number)
