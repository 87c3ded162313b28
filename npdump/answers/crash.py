# SPDX-License-Identifier: GPL-2.0-or-later
"""What crashed: the reason and the call trace in a kernel's log, and a signature that tells crashes apart.

The signature is the same for the same crash on another boot, another CPU or at other addresses (KASLR): it is made of
the reason without its numbers and of the functions in the trace.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from npdump.kernel.crash import PANIC_STARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Crash", "find_crash"]

_FRAME = re.compile(
    rb"^\s*(?:\[[<\da-f ]*[\da-f]+>?\]\s*)*(?P<doubt>\?\s+)?\.?(?P<name>[A-Za-z_][\w.$]*)\+0x[\da-f]+/0x[\da-f]+"
)
"""A line of a call trace as each machine prints it; those with a question mark may be stale."""

_AT = re.compile(
    rb"(?:RIP: 0010:|EIP: (?:0060:)?|\bpc : |\bepc : |\bNIP \[[\da-f]+\] |PC is at )(?P<name>[A-Za-z_][\w.$]*)\+0x"
)
_SUFFIX = re.compile(r"\.(?:cold|constprop|isra|part|llvm|localalias)(?:\.\d+)*|\.\d+$")
_NUMBER = re.compile(r"0x[\da-fA-F]+|\b[\da-fA-F]{8,16}\b|\b\d+\b")
_PANIC = PANIC_STARTS[0]
_NOT_THE_CRASH = re.compile(r"(?:dump_stack|dump_backtrace|show_stack|v?panic|__warn|die|oops_end|nmi_panic)(?:_|$)")
"""Functions that print the trace, or stop the machine, whatever happened."""

MAX_FRAMES = 8
"""Functions in a signature: below these, traces of one crash differ in how the kernel was entered."""

_MAX_GAP = 60
"""Lines between the reason and its trace: registers and lists of modules are printed in between."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A crash as the log tells it.

    Attributes
    ----------
    reason : str
        The first line that tells of it, without what comes before in the line.
    frames : tuple of str
        Functions, the innermost first, without what printed the trace.
    signature : str
        16 hexadecimal digits.
    reason_line : int
        Which line of the log has the reason.
    trace_lines : tuple of int
        Which lines are the trace.
    """

    reason: str
    frames: tuple[str, ...]
    signature: str
    reason_line: int
    trace_lines: tuple[int, ...]


def find_crash(lines: Sequence[bytes]) -> Crash | None:
    """Find the crash that ended a log.

    Parameters
    ----------
    lines : sequence of bytes
        The log's lines without times.

    Returns
    -------
    Crash or None
        None if nothing in the log tells of one.

    Examples
    --------
    >>> log = [b"Kernel panic - not syncing: Oops 17", b" panic+0x1/0x2", b" f.cold+0x7/0x90", b" ? g+0x1/0x2"]
    >>> crash = find_crash(log)
    >>> crash.reason, crash.frames
    ('Kernel panic - not syncing: Oops 17', ('f',))
    """
    at = _reason_line(lines)
    if at is None:
        return None
    reason = _reason(lines[at])
    trace = _trace(lines, at)
    names = []
    if trace and (found := next((match for line in lines[at : trace[0]] if (match := _AT.search(line))), None)):
        names.append(found["name"])
    for i in trace:
        match = _FRAME.match(lines[i])
        if match and not match["doubt"]:
            names.append(match["name"])
    functions = [_SUFFIX.sub("", name.decode("ascii", "replace")) for name in names]
    frames = [name for name in functions if not _NOT_THE_CRASH.match(name)]
    frames = [name for i, name in enumerate(frames) if i == 0 or name != frames[i - 1]]
    text = "\n".join([_NUMBER.sub("N", reason), *frames[:MAX_FRAMES]])
    signature = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return Crash(reason, tuple(frames), signature, at, tuple(trace))


def _reason_line(lines: Sequence[bytes]) -> int | None:
    """Return the line that says why: the first fatal error of those that led to the panic."""
    panic = next((i for i in range(len(lines) - 1, -1, -1) if _PANIC in lines[i]), None)
    causes = [i for i, line in enumerate(lines) if any(start in line for start in PANIC_STARTS[1:])]
    if panic is None:
        return causes[-1] if causes else None
    # An oops and the panic that it leads to are printed together, but for what other CPUs say.
    near = [i for i in causes if panic - 4 * _MAX_GAP < i < panic and b"Trigger a crash" not in lines[i]]
    return near[0] if near else panic


def _reason(line: bytes) -> str:
    at = min((line.find(start) for start in PANIC_STARTS if start in line), default=0)
    return line[at:].partition(b"\n")[0].decode("utf-8", "replace").strip()


def _trace(lines: Sequence[bytes], at: int) -> list[int]:
    """Return the lines of the first call trace after a line."""
    found: list[int] = []
    for i in range(at, len(lines)):
        if _FRAME.match(lines[i]):
            found.append(i)
        elif (found and not lines[i].strip().startswith((b"<", b"---"))) or (not found and i - at > _MAX_GAP):
            break
    return found
