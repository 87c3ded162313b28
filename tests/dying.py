"""npdump with workers that die: ``python tests/dying.py WHEN ARGUMENT...``

WHEN is "encoding" (the worker that has a batch in the middle is killed while it compresses it, as soon as another
worker can't go on without that batch), "writing" (it's killed when half of that batch is in the file), "all" (every
worker is killed at its second batch) or "memory" (every worker runs out of memory there).
"""

import multiprocessing
import os
import signal
import sys

from npdump import cli, encoding
from npdump.writers import kdump

BATCH_NPAGES = 512
VICTIM = 6
"""Number of the batch whose worker dies."""

parent = os.getpid()
is_done = multiprocessing.Value("b", False)
n_behind = multiprocessing.Semaphore(0)
"""How many batches behind the victim are compressed and wait for their place."""

encode, write = encoding.BatchEncoder.__call__, kdump._PageJob.write
n_encoded = 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def once() -> bool:
    """Return True at the first call in any process."""
    with is_done.get_lock():
        was_done, is_done.value = is_done.value, True
    return not was_done


def dying_while_encoding(self, batch):
    number = batch.rank // BATCH_NPAGES
    if number == VICTIM and once():
        # Only two batches go to a worker at a time.
        n_behind.acquire()
        n_behind.acquire()
        die()
    encoded = encode(self, batch)
    if number > VICTIM:
        n_behind.release()
    return encoded


def dying_while_writing(self, batch, offset):
    if batch.rank // BATCH_NPAGES == VICTIM and once():
        self._sink.write(offset, batch.data[: batch.nbytes // 2])
        die()
    write(self, batch, offset)


def all_dying(self, batch):
    global n_encoded
    n_encoded += 1
    if n_encoded == 2 and os.getpid() != parent:
        if when == "memory":
            raise MemoryError
        die()
    return encode(self, batch)


when, *arguments = sys.argv[1:]
if when == "writing":
    kdump._PageJob.write = dying_while_writing
else:
    encoding.BatchEncoder.__call__ = {"encoding": dying_while_encoding}.get(when, all_dying)
sys.exit(cli.main(arguments))
