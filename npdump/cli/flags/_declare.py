# SPDX-License-Identifier: GPL-2.0-or-later
"""How options are declared, and what reads their values."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from npdump.cli.options import Options

    class Group(Protocol):
        """What a module of this package is: options that the manual page shows together."""

        @property
        def TITLE(self) -> str: ...

        @property
        def FLAGS(self) -> tuple[Flag, ...]: ...

        @property
        def RULES(self) -> tuple[Rule, ...]: ...


MAX_DUMP_LEVEL = 31


# Plain classes: a NamedTuple or a dataclass takes longer to make than the whole command line to read.
class Flag:
    """An option: its names, what :meth:`argparse.ArgumentParser.add_argument` takes, and whose it is.

    Attributes
    ----------
    names : tuple of str
    declaration : dict
    command : str or None
        The one command that takes it; None if that isn't for the parser to say.
    """

    __slots__ = ("command", "declaration", "names")

    def __init__(self, names: tuple[str, ...], declaration: dict[str, Any], command: str | None) -> None:
        self.names, self.declaration, self.command = names, declaration, command

    @property
    def dest(self) -> str:
        """Field of `Options` that has its value."""
        return str(self.declaration.get("dest") or self.names[0].lstrip("-").replace("-", "_"))


def flag(*names: str, command: str | None = None, **declaration: Any) -> Flag:
    """Declare an option, with the words of :meth:`argparse.ArgumentParser.add_argument`."""
    return Flag(names, declaration, command)


class Rule:
    """What is wrong together though it is right one by one.

    Attributes
    ----------
    is_broken : callable
        Tells it from the options.
    text : str
        The message; ``{codec}`` in it stands for the compression.
    """

    __slots__ = ("is_broken", "text")

    def __init__(self, is_broken: Callable[[Options], object], text: str) -> None:
        self.is_broken, self.text = is_broken, text


def usage_error(text: str) -> Exception:
    """Make the error of a command line that is wrong."""
    from npdump.errors import UsageError

    return UsageError(f"{text}; see npdump --help")


def integer(low: int, high: int) -> Callable[[str], int]:
    """Make an argparse type for whole numbers from `low` to `high`, both included."""

    def convert(text: str) -> int:
        if re.fullmatch(r"-?[0-9]{1,12}", text) and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")

    return convert


def levels(text: str) -> tuple[int, ...]:
    """Read a dump level, or a list of them with commas."""
    return tuple(map(integer(0, MAX_DUMP_LEVEL), text.split(",")))


def size(text: str) -> int:
    """Read a number of bytes as Linux's memparse() does: decimal, octal or hexadecimal, with a letter."""
    match = re.fullmatch(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})([KMGTPE]?)", text, re.IGNORECASE)
    digits = match[1] if match else "0"
    is_octal = re.fullmatch("0[0-7]+", digits) is not None
    nbytes = int(digits, 8 if is_octal else 0 if digits[:1] != "0" or digits[1:2] in ("x", "X") else 10)
    if match and match[2]:
        nbytes <<= 10 * ("KMGTPE".index(match[2].upper()) + 1)
    if not nbytes:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 512M")
    return nbytes


def address(text: str) -> int:
    """Read an address as strtoul(3) with base 0 does."""
    digits = text.lower().removeprefix("0x")
    base = 16 if digits != text.lower() else 8 if re.fullmatch("0[0-7]+", text) else 10
    try:
        value = int(digits, base)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64 or not digits.isalnum():
        raise argparse.ArgumentTypeError(f"{text!r} is not an address, such as 0xffffffff81000000")
    return value
