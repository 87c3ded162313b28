# SPDX-License-Identifier: GPL-2.0-or-later
"""npdump with workers that die: ``python tests/dying.py WHEN ARGUMENT...``

WHEN is "encoding" (the worker that has a batch in the middle is killed while it compresses it, as soon as another
worker can't go on without that batch), "writing" (it's killed when half of that batch is in the file), "all" (every
worker is killed at its second batch) or "memory" (every worker runs out of memory there). With "longer" a worker dies
as with "writing", and the batch is not compressed when it's done over; with "all-longer" the other worker dies then.
"""

import multiprocessing
import os
import signal
import sys

import numpy as np

from npdump.cli import main
from npdump.encode import encoder
from npdump.writers import _kdump_pages

VICTIM = 6
"""Number of the batch whose worker dies."""
MAX_BUFFERS = 64

parent = os.getpid()
is_done = multiprocessing.Value("b", False)
n_behind = multiprocessing.Semaphore(0)
"""How many batches behind the victim are compressed and wait for their place."""
number_in = multiprocessing.Array("i", MAX_BUFFERS)
"""Which batch each shared buffer holds."""

prepare = _kdump_pages.PageJob.prepare
make_encoder = _kdump_pages.PageJob.make_encoder
write = _kdump_pages.PageJob.write
n_prepared = n_encoded = 0
number_of = {}
"""The batches of this worker, by their data's identity."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def once() -> bool:
    """Return True at the first call in any process."""
    with is_done.get_lock():
        was_done, is_done.value = is_done.value, True
    return not was_done


def counting_prepare(self, batch):
    global n_prepared
    prepared = prepare(self, batch)
    number_in[prepared.order.buffer] = n_prepared
    n_prepared += 1
    return prepared


def dying_while_encoding(encode, order):
    number = number_in[order.buffer]
    if number == VICTIM and once():
        # Only two batches go to a worker at a time.
        n_behind.acquire()
        n_behind.acquire()
        die()
    encoded = encode(order)
    if number > VICTIM:
        n_behind.release()
    return encoded


def all_dying(encode, order):
    global n_encoded
    n_encoded += 1
    if n_encoded == 2 and os.getpid() != parent:
        if when == "memory":
            raise MemoryError
        die()
    return encode(order)


def encode_plainly(encode, order):
    return encode(order)


def encode_longer(encode, order):
    if number_in[order.buffer] != VICTIM or not is_done.value:
        return encode(order)
    if when == "all-longer" and os.getpid() != parent:
        die()
    pages = job._buffers[order.buffer][order.rows]
    sizes = np.full(len(pages), pages.shape[1], np.uint32)
    return encoder.Encoded(sizes, np.zeros_like(sizes), pages.tobytes())


def make_dying_encoder(self):
    global job
    job = self
    encode, disturb = make_encoder(self), DISTURB[when]

    def encode_order(order):
        encoded = disturb(encode, order)
        number_of[id(encoded.data)] = number_in[order.buffer]
        return encoded

    return encode_order


def dying_while_writing(self, data, offset):
    if number_of[id(data)] == VICTIM and once():
        self._sink.write(offset, data[: len(data) // 2])
        die()
    write(self, data, offset)


DISTURB = {
    "encoding": dying_while_encoding,
    "writing": encode_plainly,
    "all": all_dying,
    "memory": all_dying,
    "longer": encode_longer,
    "all-longer": encode_longer,
}
when, *arguments = sys.argv[1:]
_kdump_pages.PageJob.prepare = counting_prepare
_kdump_pages.PageJob.make_encoder = make_dying_encoder
if when in ("writing", "longer", "all-longer"):
    _kdump_pages.PageJob.write = dying_while_writing
sys.exit(main.main(arguments))
