# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases what is in pipes, and the pages that they keep for what comes next.

References
----------
Linux ``include/linux/pipe_fs_i.h``; ``fs/pipe.c``, which has file operations of their own for pipes without a name in
newer kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.redact._survey import FILES, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.redact import Ground

WHAT = "contents of pipes"

FILE_OPERATIONS = ("pipefifo_fops", "pipeanon_fops")
MAX_RING = 1 << 20


def erase(ground: Ground) -> Iterator[Runs]:
    """Yield the pages."""
    kernel = ground.kernel
    operations = [at for name in FILE_OPERATIONS if (at := ground.optional(name)) is not None]
    files = ground.columns(need(ground.survey, FILES), kernel.names.record("file"), "f_op", "private_data")
    pipes = np.unique(files["private_data"][np.isin(files["f_op"], np.array(operations, np.uint64))])
    pages: list[int] = []
    for vaddr in pipes.tolist():
        with ground.missing("pipes"):
            if vaddr:
                pages += _pages(ground, vaddr)
    yield ground.whole_blocks(ground.pages(np.array(pages, np.uint64)))


def _pages(ground: Ground, vaddr: int) -> list[int]:
    """Return the addresses of the struct pages of a pipe."""
    pipe = ground.kernel.at(vaddr, "pipe_inode_info")
    spare = pipe.tmp_page
    n_spare = spare.type_.n_elements
    found = [int(spare[i]) for i in range(n_spare)] if n_spare else [int(spare)]
    record, memory = ground.kernel.names.record("pipe_buffer"), ground.kernel.memory
    n = min(int(pipe.ring_size if "ring_size" in pipe.type_.members else pipe.buffers), MAX_RING)
    raw = np.frombuffer(memory.read(int(pipe.bufs), n * record.nbytes), np.uint8).reshape(n, record.nbytes)
    at = record.members["page"].offset
    found += np.ascontiguousarray(raw[:, at : at + memory.word.itemsize]).view(memory.word)[:, 0].tolist()
    return [page for page in found if page]
