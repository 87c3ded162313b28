# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's slabs (SLUB): which objects of theirs are free, and which are in use.

A free object keeps what it held before, but for the word that leads to the next free one. Lists of free objects are
those of each slab, those that a CPU has taken of one, and the arrays of free objects that newer kernels give each CPU
(sheaves); an object that is in none of them is in use.

References
----------
Linux ``mm/slub.c`` (freelist_ptr_decode(), struct kmem_cache_cpu, struct slab_sheaf), ``mm/slab.h``. Links between
free objects are hardened with ``kmem_cache.random`` since 2482ddec670f, v4.14, and with the swapped bytes of their own
address since 1ad53d9fa3f6, v5.7; which of both it is, each link tells: only one of them leads into its slab.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import expand, join
from npdump.errors import AddressError, CodecError, FactError, SourceError
from npdump.pages.kinds import PageKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import I64, U8, U64, Bool, Index
    from npdump.kernel.objects import Crashed, Object
    from npdump.pages.chunk import Chunk
    from npdump.pages.table import PageTable
    from npdump.sources import Source

__all__ = ["Batch", "Cache", "Slabs"]

MAX_BATCH_NPAGES = 4096
"""Pages whose bytes are held at a time."""

MAX_OBJECT_NBYTES = 1 << 22
MAX_SHEAF = 1 << 16
_TAIL = np.uint64(1)


class Cache(NamedTuple):
    """A slab cache: bytes from one object to the next, where in a free one the link is, and what hides it."""

    name: str
    nbytes: int
    link_offset: int
    left_pad: int
    random: int


@dataclass(frozen=True)
class Batch:
    """Some slabs with their bytes.

    Attributes
    ----------
    caches : ndarray of shape (n,), dtype uint64
        Address of the cache of each slab.
    paddrs, nbytes : ndarray of shape (n,), dtype int64
    starts : ndarray of shape (n,), dtype int64
        Where the bytes of each slab begin in ``raw``.
    raw : ndarray of dtype uint8
    slab_of : ndarray of shape (m,), dtype intp
        The slab that each object is in.
    object_paddrs, object_nbytes : ndarray of shape (m,), dtype int64
    is_free : ndarray of shape (m,), dtype bool
    link_paddrs : ndarray of shape (m,), dtype int64
        Where each object has its link to the next free one, if it is free.
    """

    caches: U64
    paddrs: I64
    nbytes: I64
    starts: I64
    raw: U8
    slab_of: Index
    object_paddrs: I64
    object_nbytes: I64
    is_free: Bool
    link_paddrs: I64


class Slabs:
    """All slabs of a kernel.

    Parameters
    ----------
    kernel : Crashed
    table : PageTable
    source : Source

    Attributes
    ----------
    n_damaged : int
        Slabs whose list of free objects leads astray, in the last pass over all of them.
    n_unread : int
        Slabs that are not in the dump.

    Raises
    ------
    FactError, AddressError
        When they are first looked at, if the kernel does not tell where its caches are.
    """

    def __init__(self, kernel: Crashed, table: PageTable, source: Source) -> None:
        self._kernel, self._table, self._source = kernel, table, source
        self._word = kernel.memory.word
        self.n_damaged = self.n_unread = 0

    @cached_property
    def caches(self) -> dict[int, Cache]:
        """The slab caches by their addresses."""
        found = {}
        for cache in self._kernel.walk_list(self._kernel.symbol("slab_caches"), "kmem_cache", "list"):
            members = cache.type_.members
            if "offset" not in members or not {"cpu_slab", "cpu_sheaves"} & set(members):
                raise FactError("slabs of this kernel are not those of SLUB")
            nbytes = int(cache.size)
            if not 0 < nbytes <= MAX_OBJECT_NBYTES:
                raise FactError(f"{cache!r} would have objects of {nbytes} bytes: the dump is damaged")
            found[cache.address_] = Cache(
                str(cache.name),
                nbytes,
                int(cache.offset),
                int(cache.red_left_pad) if "red_left_pad" in members else 0,
                int(cache.random) if "random" in members else 0,
            )
        if not found:
            raise FactError("the kernel's list of slab caches is empty: the dump is damaged")
        return found

    @cached_property
    def _members(self) -> tuple[int, int]:
        """Where the struct that lies over struct page has the cache, and the list of free objects."""
        # Linux d122019bf061, v5.17, gave slabs a struct of their own.
        names = self._kernel.names
        slab = names.find_record("slab") or names.record("page")
        if "slab_cache" not in slab.members or "freelist" not in slab.members:
            slab = names.record("page")
        if "slab_cache" not in slab.members or "freelist" not in slab.members:
            raise FactError("nothing tells what cache a slab belongs to")
        return slab.members["slab_cache"].offset, slab.members["freelist"].offset

    @cached_property
    def _taken(self) -> tuple[U64, I64]:
        """Free objects that CPUs have: first ones of lists, and, as physical addresses, those of sheaves."""
        lists: list[int] = []
        objects: list[int] = []
        for address in self.caches:
            cache = self._kernel.at(address, "kmem_cache")
            if "cpu_slab" in cache.type_.members:
                places = self._kernel.per_cpu(int(cache.cpu_slab))
                lists += [int(self._kernel.at(at, "kmem_cache_cpu").freelist) for at in places]
            else:
                objects += self._of_sheaves(cache)
        paddrs, found = self._kernel.memory.paddrs(np.array(objects, np.uint64))
        return np.array([first for first in lists if first], np.uint64), np.sort(paddrs[found].astype(np.int64))

    def _of_sheaves(self, cache: Object) -> Iterator[int]:
        if not int(cache.cpu_sheaves):
            return
        for at in self._kernel.per_cpu(int(cache.cpu_sheaves)):
            sheaves = self._kernel.at(at, "slub_percpu_sheaves")
            for name in ("main", "spare", "rcu_free"):
                if name in sheaves.type_.members and int(getattr(sheaves, name)):
                    yield from self._of_sheaf(getattr(sheaves, name).target_())
        per_node = cache.type_.members.get("per_node")
        # The array ends with the last node that there is.
        nodes = self._kernel.names.symbol("nr_node_ids")
        n_nodes = 1 if nodes is None else self._kernel.memory.read_u32(nodes)
        for i in range(min(n_nodes, per_node.type.n_elements) if per_node is not None else 0):
            if not int(cache.per_node[i].barn):
                continue
            for sheaf in self._kernel.walk_list(cache.per_node[i].barn.sheaves_full, "slab_sheaf", "barn_list"):
                yield from self._of_sheaf(sheaf)

    def _of_sheaf(self, sheaf: Object) -> Iterator[int]:
        n = int(sheaf.size)
        if n > MAX_SHEAF:
            raise FactError(f"{sheaf!r} would have {n} objects: the dump is damaged")
        yield from self._kernel.memory.read_array(sheaf.objects.address_, self._word, n).tolist()

    def batches(self) -> Iterator[Batch]:
        """Yield all slabs, ascending, in batches of some megabytes; those that are not in the dump are counted."""
        self.n_damaged = self.n_unread = 0
        for chunk, kinds in self._table.kinds():
            pfns, npages, caches, firsts = self._heads(chunk, kinds)
            ends = np.cumsum(npages)
            at = 0
            while at < len(pfns):
                stop = max(int(np.searchsorted(ends, (ends[at] - npages[at]) + MAX_BATCH_NPAGES)), at + 1)
                rows = slice(at, stop)
                batch = self._batch(pfns[rows], npages[rows], caches[rows], firsts[rows])
                if batch is not None:
                    yield batch
                at = stop

    def _heads(self, chunk: Chunk, kinds: U8) -> tuple[I64, I64, U64, U64]:
        """Return page frame, number of pages, cache and first free object of the slabs in a chunk."""
        is_head = (kinds == PageKind.SLAB) & chunk.is_dumped
        if "compound" in (chunk.records.dtype.names or ()):
            is_head &= (chunk.column("compound") & _TAIL) == 0
        rows = np.flatnonzero(is_head)
        raw = chunk.records.view(np.uint8).reshape(len(chunk), -1)
        caches, firsts = (
            np.ascontiguousarray(raw[rows, offset : offset + self._word.itemsize]).view(self._word)[:, 0]
            for offset in self._members
        )
        known = np.isin(caches.astype(np.uint64), np.array(list(self.caches), np.uint64))
        rows = rows[known]
        npages = np.int64(1) << chunk.orders[rows].astype(np.int64)
        return chunk.pfns[rows], npages, caches[known].astype(np.uint64), firsts[known].astype(np.uint64)

    def _batch(self, pfns: I64, npages: I64, caches: U64, firsts: U64) -> Batch | None:
        page_size = self._source.page_size
        runs = join(np.column_stack((pfns, pfns + npages)))
        pages = np.zeros((int((runs[:, 1] - runs[:, 0]).sum()), page_size), np.uint8)
        try:
            losses = self._source.gather(runs, pages)
        except (AddressError, SourceError, CodecError):
            self.n_unread += len(pfns)
            return None
        self.n_unread += len(losses)
        starts = (np.cumsum(npages) - npages) * page_size
        of = {address: self.caches[address] for address in set(caches.tolist())}
        rows = [of[cache] for cache in caches.tolist()]
        nbytes = np.array([cache.nbytes for cache in rows], np.int64)
        link_offsets = np.array([cache.link_offset for cache in rows], np.int64)
        left_pads = np.array([cache.left_pad for cache in rows], np.int64)
        randoms = np.array([cache.random for cache in rows], np.uint64)
        counts = npages * page_size // nbytes
        slab_of = np.repeat(np.arange(len(pfns)), counts)
        paddrs = pfns * page_size
        object_paddrs = paddrs[slab_of] + expand(np.zeros(len(pfns), np.int64), counts) * nbytes[slab_of]
        batch = Batch(
            caches,
            paddrs,
            npages * page_size,
            starts,
            pages.reshape(-1),
            slab_of,
            object_paddrs,
            nbytes[slab_of],
            np.isin(object_paddrs + left_pads[slab_of], self._taken[1]),
            object_paddrs + (left_pads + link_offsets)[slab_of],
        )
        _Chains(self, batch, nbytes, left_pads, link_offsets, randoms, np.cumsum(counts) - counts).mark(firsts)
        return batch

    def rows_of(self, batch: Batch, vaddrs: U64) -> tuple[Index, Bool]:
        """Return the slab of a batch that each address is in, and whether it is in one."""
        paddrs, found = self._kernel.memory.paddrs(vaddrs)
        at = paddrs.astype(np.int64)
        rows = np.searchsorted(batch.paddrs, at, side="right") - 1
        return rows, found & (rows >= 0) & (at < (batch.paddrs + batch.nbytes)[rows])

    @property
    def first_of_cpus(self) -> U64:
        """The first object of each list of free objects that a CPU has."""
        return self._taken[0]

    @property
    def word(self) -> np.dtype:
        """An unsigned long of the kernel."""
        return self._word

    def paddrs(self, vaddrs: U64) -> I64:
        """Translate addresses; -1 for those that are nowhere."""
        paddrs, found = self._kernel.memory.paddrs(vaddrs)
        return np.where(found, paddrs.astype(np.int64), -1)

    def find(self, vaddr: int) -> tuple[int, int] | None:
        """Return physical address and size of the object, or of the block of pages, that an address is in.

        Returns
        -------
        tuple of (int, int) or None
            None if it is in neither, such as in the kernel's image.
        """
        (paddr,) = self.paddrs(np.array([vaddr], np.uint64)).tolist()
        if paddr < 0:
            return None
        page_size = self._source.page_size
        head, order, record = self._table.block(paddr // page_size)
        raw, at = record.view(np.uint8), self._members[0]
        cache = self.caches.get(int(raw[at : at + self._word.itemsize].view(self._word)[0]))
        if cache is not None:
            first = head * page_size
            return first + (paddr - first) // cache.nbytes * cache.nbytes, cache.nbytes
        return (head * page_size, page_size << order) if order else None


@dataclass
class _Chains:
    """Follows the lists of free objects of a batch's slabs, all of them one step at a time."""

    slabs: Slabs
    batch: Batch
    nbytes: I64
    left_pads: I64
    link_offsets: I64
    randoms: U64
    first_objects: Index

    def mark(self, firsts: U64) -> None:
        """Mark free objects, from the first of each slab's list on, and those that CPUs have."""
        rows = np.flatnonzero(firsts)
        taken, is_here = self.slabs.rows_of(self.batch, self.slabs.first_of_cpus)
        vaddrs = np.concatenate((firsts[rows], self.slabs.first_of_cpus[is_here]))
        rows = np.concatenate((rows, taken[is_here]))
        damaged: set[int] = set()
        while len(vaddrs):
            vaddrs, rows, astray = self._step(vaddrs, rows)
            damaged.update(astray.tolist())
        self.slabs.n_damaged += len(damaged)

    def _step(self, vaddrs: U64, rows: Index) -> tuple[U64, Index, Index]:
        """Mark one object of each list; return the next ones, and the slabs whose list leads astray."""
        batch, itemsize = self.batch, self.slabs.word.itemsize
        local = self.slabs.paddrs(vaddrs) - batch.paddrs[rows] - self.left_pads[rows]
        good = (local >= 0) & (local <= batch.nbytes[rows] - self.nbytes[rows]) & (local % self.nbytes[rows] == 0)
        number = self.first_objects[rows] + np.where(good, local // self.nbytes[rows], 0)
        good &= ~batch.is_free[number]
        astray = rows[~good]
        vaddrs, rows, local, number = vaddrs[good], rows[good], local[good], number[good]
        batch.is_free[number] = True
        places = batch.starts[rows] + local + self.left_pads[rows] + self.link_offsets[rows]
        if (places % itemsize).any():
            return vaddrs[:0], rows[:0], np.concatenate((astray, rows))
        words = batch.raw.view(self.slabs.word)[places // itemsize].astype(np.uint64)
        found = self._decoded(words, vaddrs, rows)
        return found[found != 0], rows[found != 0], astray

    def _decoded(self, words: U64, vaddrs: U64, rows: Index) -> U64:
        """Return the links that words are: plain, or hidden in one of two ways."""
        randoms, word = self.randoms[rows], self.slabs.word
        at = vaddrs + self.link_offsets[rows].astype(np.uint64)
        swapped = at.astype(word.newbyteorder("=")).byteswap().astype(np.uint64)
        found = words
        for candidate in (words ^ randoms ^ at, words ^ randoms ^ swapped):
            # What lies within a slab's length of the object before.
            near = candidate - vaddrs + self.batch.nbytes[rows].astype(np.uint64)
            is_link = (candidate == 0) | (near < 2 * self.batch.nbytes[rows].astype(np.uint64))
            found = np.where((randoms != 0) & is_link, candidate, found)
        return found
