# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases what was sent and received and is still on its way, and pages that sockets and drivers take pieces of.

References
----------
Linux ``include/linux/skbuff.h``: a packet's data is ``[head, head + end)``, behind it is ``struct skb_shared_info``;
``net/core/skbuff.c`` (struct napi_alloc_cache: packets that were freed and wait for the next), ``include/net/sock.h``
(sk_frag), ``include/linux/page_frag_cache.h``, ``include/linux/poison.h`` (PP_SIGNATURE, c07aea3ef4d4, v5.14).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.redact._survey import FILES, SOCKET_BUFFERS, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import I64, U64, Runs
    from npdump.redact import Ground

WHAT = "data in socket buffers"

HEADS, CLONES = SOCKET_BUFFERS
MAX_DATA_NBYTES = 1 << 22
MAX_FRAGS = 64
POOL_MARK = 0xDEAD000000000040
POOL_MASK = 0xFFFF0000000000FC
"""The middle bits may hold something else."""


def erase(ground: Ground) -> Iterator[Runs]:
    """Yield data of packets, the pages of their pieces, and pages that pieces are taken of."""
    packets = _packets(ground)
    heads, stops = ground.slabs.paddrs(packets["head"]), packets["end"].astype(np.int64)
    good = (heads >= 0) & (stops > 0) & (stops < MAX_DATA_NBYTES)
    yield np.column_stack((heads[good], heads[good] + stops[good]))
    frags = _frags(ground, packets["head"][good] + packets["end"][good])
    yield ground.whole_blocks(ground.pages(np.concatenate((frags, _page_frags(ground)))))
    yield from _pools(ground)


def _packets(ground: Ground) -> dict[str, U64]:
    """Return ``head`` and ``end`` of all packets that are in use."""
    record = ground.kernel.names.record("sk_buff")
    found = need(ground.survey, HEADS)
    found = found[~np.isin(found, ground.slabs.paddrs(_freed(ground)))]
    clones = need(ground.survey, CLONES)
    pair = ground.kernel.names.record("sk_buff_fclones")
    seconds = clones + pair.members["skb2"].offset
    refs = ground.columns(clones, pair, "fclone_ref")["fclone_ref"]
    # Of a pair, the second one is in use while both are.
    paddrs = np.concatenate((found, clones, seconds[refs == 2]))
    packets = ground.columns(paddrs, record, "head", "end", "truesize")
    is_used = (packets["head"] != 0) & (packets["truesize"] != 0)
    # Where pointers have 32 bits, the end is one.
    if record.members["end"].type.nbytes == ground.kernel.memory.word.itemsize:
        packets["end"] = packets["end"] - packets["head"]
    return {name: column[is_used] for name, column in packets.items()}


def _freed(ground: Ground) -> U64:
    """Return packets that were freed and that CPUs keep for the next."""
    kernel = ground.kernel
    variable, record = ground.optional("napi_alloc_cache"), kernel.names.find_record("napi_alloc_cache")
    found: list[int] = []
    if variable is not None and record is not None and "skb_cache" in record.members:
        for at in kernel.per_cpu(variable):
            cache = kernel.at(at, "napi_alloc_cache")
            n = min(int(cache.skb_count), cache.skb_cache.type_.n_elements)
            found += [int(cache.skb_cache[i]) for i in range(n)]
    return np.array(found, np.uint64)


def _frags(ground: Ground, infos: U64) -> U64:
    """Return the struct pages of what packets have beside their data."""
    record = ground.kernel.names.record("skb_shared_info")
    counts = ground.columns(ground.slabs.paddrs(infos), record, "nr_frags")["nr_frags"]
    frags = record.members["frags"]
    frag = frags.type.target
    # What it is called has changed, and where it is: in a struct of its own on older kernels.
    at = next((frag.members[name].offset for name in ("bv_page", "netmem", "page") if name in frag.members), 0)
    places = []
    for vaddr, n in zip(infos[counts > 0].tolist(), counts[counts > 0].tolist(), strict=True):
        places += [vaddr + frags.offset + i * frag.nbytes + at for i in range(min(n, MAX_FRAGS))]
    words, _ = ground.kernel.memory.read_words(np.array(places, np.uint64))
    return words & ~np.uint64(3)


def _page_frags(ground: Ground) -> U64:
    """Return the struct pages that threads, sockets and CPUs take pieces of, with what earlier pieces held."""
    kernel, found = ground.kernel, []
    for task in kernel.tasks():
        with ground.missing("threads"):
            if "task_frag" in task.type_.members:
                found.append(int(task.task_frag.page))
    files = ground.columns(need(ground.survey, FILES), kernel.names.record("file"), "f_op", "private_data")
    is_socket = files["f_op"] == np.uint64(ground.optional("socket_file_ops") or 1)
    for at in files["private_data"][is_socket].tolist():
        with ground.missing("sockets"):
            if at and int(kernel.at(at, "socket").sk):
                found.append(int(kernel.at(at, "socket").sk.sk_frag.page))
    return np.concatenate((np.array([page for page in found if page], np.uint64), _of_cpus(ground)))


def _of_cpus(ground: Ground) -> U64:
    kernel, page_size, found = ground.kernel, ground.source.page_size, []
    members = kernel.names.record("page_frag_cache").members
    name = "va" if "va" in members else "encoded_page"
    for variable, member in (("netdev_alloc_cache", None), ("napi_alloc_cache", "page")):
        base = ground.optional(variable)
        for at in kernel.per_cpu(base) if base is not None else []:
            cache = kernel.at(at, "page_frag_cache") if member is None else getattr(kernel.at(at, variable), member)
            found.append(int(getattr(cache, name)) & -page_size)
    paddrs = ground.slabs.paddrs(np.array([vaddr for vaddr in found if vaddr], np.uint64))
    return ground.struct_pages(paddrs[paddrs >= 0] // page_size)


def _pools(ground: Ground) -> Iterator[Runs]:
    """Yield the pages that drivers take packets' memory of."""
    names = ground.kernel.names
    record = next((one for one in ("page", "netmem_desc") if _has_mark(names.find_record(one))), None)
    if record is None:
        return
    at, word = names.record(record).members["pp_magic"].offset, ground.kernel.memory.word
    if word.itemsize < 8:
        return
    for chunk in ground.table.chunks():
        raw = chunk.records.view(np.uint8).reshape(len(chunk), -1)
        marks = np.ascontiguousarray(raw[:, at : at + word.itemsize]).view(word)[:, 0].astype(np.uint64)
        pfns: I64 = chunk.pfns[(marks & np.uint64(POOL_MASK)) == np.uint64(POOL_MARK)]
        yield ground.whole_blocks(pfns)


def _has_mark(record: object) -> bool:
    return "pp_magic" in getattr(record, "members", ())
