# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases what was typed into terminals and printed on them: buffers on both sides, and the screens of consoles.

References
----------
Linux ``include/linux/tty.h``, ``include/linux/tty_buffer.h`` (a buffer's flags follow its characters),
``drivers/tty/n_tty.c``, ``include/linux/console_struct.h``, ``include/linux/serial_core.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.redact._survey import FILES, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.objects import Object
    from npdump.redact import Ground

WHAT = "buffers of terminals and screens of consoles"

FILE_OPERATIONS = ("tty_fops", "console_fops", "hung_up_tty_fops")
N_TTY = 0
"""The line discipline that every terminal begins with."""

MAX_BUFFERS = 1 << 16
MAX_CONSOLES = 63
"""Linux MAX_NR_CONSOLES."""


def erase(ground: Ground) -> Iterator[Object | tuple[int, int]]:
    """Yield the buffers."""
    found = _terminals(ground)
    for vaddr in found:
        with ground.missing("terminals"):
            tty = ground.kernel.at(vaddr, "tty_struct")
            yield from _of_discipline(ground, tty)
            yield from _of_port(ground, tty)
            if int(tty.write_buf):
                yield int(tty.write_buf), int(tty.write_cnt)
            yield from _of_serial(ground, tty)
    yield from _of_consoles(ground)


def _terminals(ground: Ground) -> list[int]:
    """Return all terminals that are open, and the other ends of pseudo terminals."""
    kernel = ground.kernel
    operations = [at for name in FILE_OPERATIONS if (at := ground.optional(name)) is not None]
    files = ground.columns(need(ground.survey, FILES), kernel.names.record("file"), "f_op", "private_data")
    private = files["private_data"][np.isin(files["f_op"], np.array(operations, np.uint64))]
    found: dict[int, None] = {}
    for at in private.tolist():
        with ground.missing("terminals"):
            if at:
                tty = kernel.at(at, "tty_file_private").tty
                found |= {int(tty): None}
                if int(tty.link):
                    found |= {int(tty.link): None}
    return list(found)


def _of_discipline(ground: Ground, tty: Object) -> Iterator[Object]:
    if not int(tty.ldisc) or not int(tty.disc_data):
        return
    if int(tty.ldisc.ops.num) != N_TTY:
        ground.miss("terminals whose line discipline is another one", 1)
        return
    data = ground.kernel.at(int(tty.disc_data), "n_tty_data")
    yield data.read_buf
    yield data.echo_buf


def _of_port(ground: Ground, tty: Object) -> Iterator[tuple[int, int]]:
    """Yield the buffers between driver and line discipline: those that wait, and those that were emptied."""
    if not int(tty.port):
        return
    port = tty.port
    for first in (int(port.buf.head), int(port.buf.free.first)):
        at, seen = first, 0
        while at and seen < MAX_BUFFERS:
            buffer = ground.kernel.at(at, "tty_buffer")
            yield buffer.data.address_, 2 * int(buffer.size)
            at, seen = int(buffer.next), seen + 1
    if "xmit_buf" in port.type_.target.members and int(port.xmit_buf):
        yield int(port.xmit_buf), ground.kernel.page_size


def _of_serial(ground: Ground, tty: Object) -> Iterator[tuple[int, int]]:
    operations = ground.optional("uart_ops")
    if operations is None or int(tty.ops) != operations or not int(tty.driver_data):
        return
    state = ground.kernel.at(int(tty.driver_data), "uart_state")
    # On newer kernels the port has it.
    if "xmit" in state.type_.members and int(state.xmit.buf):
        yield int(state.xmit.buf), ground.kernel.page_size


def _of_consoles(ground: Ground) -> Iterator[tuple[int, int]]:
    consoles = ground.optional("vc_cons")
    record = ground.kernel.names.find_record("vc")
    if consoles is None or record is None:
        return
    for i in range(MAX_CONSOLES):
        console = ground.kernel.at(consoles + i * record.nbytes, "vc")
        if int(console.d):
            with ground.missing("consoles"):
                yield int(console.d.vc_screenbuf), int(console.d.vc_screenbuf_size)
