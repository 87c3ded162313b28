# SPDX-License-Identifier: GPL-2.0-or-later
"""One pass over all slabs, for all rules: what is free, and where objects of some kinds are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import FactError

if TYPE_CHECKING:
    from npdump.arrays import I64, U64, Runs
    from npdump.kernel.objects import Crashed
    from npdump.redact._slabs import Batch, Slabs

__all__ = ["FILES", "SOCKET_BUFFERS", "Survey", "survey"]

FILES = "filp"
SOCKET_BUFFERS = ("skbuff_head_cache", "skbuff_fclone_cache")

_VARIABLES = {
    FILES: ("filp_cachep",),
    "skbuff_head_cache": ("skbuff_cache", "skbuff_head_cache"),
    "skbuff_fclone_cache": ("skbuff_fclone_cache",),
}
"""Where the kernel has the addresses of these caches: one that shares another's slabs is on no list by its name."""

_HASH = np.uint64((1 << 16) - 1)


@dataclass(frozen=True)
class Survey:
    """What is in the slabs.

    Attributes
    ----------
    free : ndarray of shape (n, 2), dtype int64
        Physical addresses of all bytes of free objects, without the links between them, and of what is behind the last
        object of a slab.
    n_free : int
        Free objects.
    live : dict of str to ndarray of dtype int64
        Physical addresses of objects in use, by the name of their cache.
    tfms : ndarray of shape (m, 2), dtype int64
        Physical addresses of objects in use that name a crypto algorithm: from behind that word to the object's end.
    n_damaged, n_unread : int
        See `npdump.redact._slabs.Slabs`.
    """

    free: Runs
    n_free: int
    live: dict[str, I64]
    tfms: Runs
    n_damaged: int
    n_unread: int


def survey(kernel: Crashed, slabs: Slabs, algorithms: U64) -> Survey:
    """Look at all slabs once.

    Parameters
    ----------
    kernel : Crashed
    slabs : Slabs
    algorithms : ndarray of shape (n,), dtype uint64
        Addresses of the crypto algorithms.

    Raises
    ------
    FactError, AddressError
        See `Slabs`.
    """
    wanted = {name: _cache_address(kernel, slabs, name) for name in _VARIABLES}
    free, tfms, n_free = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)], 0
    live: dict[str, list[I64]] = {name: [np.empty(0, np.int64)] for name, address in wanted.items() if address}
    own = slabs.paddrs(algorithms)
    for batch in slabs.batches():
        n_free += int(batch.is_free.sum())
        free.append(_free_runs(batch, slabs.word.itemsize))
        for name in live:
            is_wanted = ~batch.is_free & (batch.caches == np.uint64(wanted[name]))[batch.slab_of]
            live[name].append(batch.object_paddrs[is_wanted])
        tfms.append(_naming(batch, algorithms, own, slabs.word))
    return Survey(
        np.concatenate(free),
        n_free,
        {name: np.concatenate(found) for name, found in live.items()},
        np.concatenate(tfms),
        slabs.n_damaged,
        slabs.n_unread,
    )


def _cache_address(kernel: Crashed, slabs: Slabs, name: str) -> int:
    """Return the address of a cache, 0 if the kernel does not tell it."""
    for address, cache in slabs.caches.items():
        if cache.name == name:
            return address
    hot = kernel.names.find_record("net_hotdata")
    for variable in _VARIABLES[name]:
        at = kernel.names.symbol(variable)
        if at is None and hot is not None and variable in hot.members and kernel.names.symbol("net_hotdata"):
            at = kernel.symbol("net_hotdata") + hot.members[variable].offset
        if at is not None:
            return kernel.memory.read_word(at)
    return 0


def _free_runs(batch: Batch, word_nbytes: int) -> Runs:
    starts, links = batch.object_paddrs[batch.is_free], batch.link_paddrs[batch.is_free]
    stops = starts + batch.object_nbytes[batch.is_free]
    ends = batch.paddrs + batch.nbytes
    last = np.zeros(len(ends), np.int64)
    np.maximum.at(last, batch.slab_of, batch.object_paddrs + batch.object_nbytes)
    runs = np.concatenate(
        (
            np.column_stack((starts, links)),
            np.column_stack((links + word_nbytes, stops)),
            np.column_stack((last, ends))[last > 0],
        )
    )
    return runs[runs[:, 0] < runs[:, 1]]


def _naming(batch: Batch, algorithms: U64, own: I64, word: np.dtype) -> Runs:
    """Return what follows words that are addresses of algorithms, in objects that are no algorithms themselves."""
    words = batch.raw[: len(batch.raw) // word.itemsize * word.itemsize].view(word)
    # A table of hashes first: next to no word is one of them.
    is_hash = np.zeros(int(_HASH) + 1, np.bool_)
    is_hash[((algorithms >> np.uint64(3)) & _HASH).astype(np.int64)] = True
    maybe = np.flatnonzero(is_hash[((words.astype(np.uint64) >> np.uint64(3)) & _HASH).astype(np.int64)])
    places = maybe[np.isin(words[maybe].astype(np.uint64), algorithms)] * word.itemsize
    if not len(places):
        return np.empty((0, 2), np.int64)
    slab = np.searchsorted(batch.starts, places, side="right") - 1
    paddrs = batch.paddrs[slab] + places - batch.starts[slab]
    rows = np.searchsorted(batch.object_paddrs, paddrs, side="right") - 1
    starts, nbytes = batch.object_paddrs[rows], batch.object_nbytes[rows]
    has_own = np.isin(rows, np.searchsorted(batch.object_paddrs, own[own >= 0], side="right") - 1)
    inside = (rows >= 0) & (paddrs < starts + nbytes) & ~batch.is_free[rows] & ~has_own
    return np.column_stack((paddrs + word.itemsize, starts + nbytes))[inside]


def need(found: Survey, name: str) -> I64:
    """Return the objects in use of a cache.

    Raises
    ------
    FactError
        If the kernel does not tell which cache that is.
    """
    if name not in found.live:
        raise FactError(f"the kernel does not tell which slab cache is {name}")
    return found.live[name]
