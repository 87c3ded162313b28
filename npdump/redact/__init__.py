# SPDX-License-Identifier: GPL-2.0-or-later
"""Redacting: a maintained set of rules that erase what nobody wants to give away with a dump.

Each module of this package is a rule: what keys, terminals, pipes, sockets and other such things hold, wherever the
kernel has it, and what memory still holds that is free. User memory and the page cache are left out by the dump level.
To add a rule, add a module with ``WHAT`` (what it erases, in words) and ``erase``, a function of a `Ground` that yields
objects, ``(vaddr, nbytes)``, `PhysicalRange`, or arrays of runs of physical addresses. A rule that can't be carried out
is named, and so is one that misses a part of what it is for: nothing is passed over in silence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump import plugins
from npdump.arrays import count, intersect, join
from npdump.errors import AddressError, ConfigError
from npdump.kernel.objects import Crashed, Object, PhysicalRange
from npdump.redact._ground import LEVEL, MISSES, Ground
from npdump.sources._erased import ErasePlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from npdump.arrays import Runs
    from npdump.erase.resolve import Found
    from npdump.kernel.names import Names
    from npdump.observer import Observer
    from npdump.sources import Source

__all__ = ["LEVEL", "Applied", "Ground", "Redaction", "carry_out", "rules"]

_DIGEST_NPAGES = 1024


class Applied(NamedTuple):
    """What a rule came to.

    Attributes
    ----------
    name, what : str
        Of the rule.
    runs : ndarray of shape (n, 2), dtype int64
        Physical addresses of what is erased; half open, ascending, disjoint.
    missed : str or None
        Why the rule, or a part of it, could not be carried out; None if all of it was.
    """

    name: str
    what: str
    runs: Runs
    missed: str | None

    def pfn_runs(self, page_size: int) -> Runs:
        """Return the page frames that have such bytes; half open, ascending."""
        return join(np.column_stack((self.runs[:, 0] // page_size, -(-self.runs[:, 1] // page_size))))


def rules(optional: Sequence[str] = ()) -> list[str]:
    """Return the names of the rules, in their order; those that are optional only if they are asked for."""
    names = plugins.names(__name__)
    return [
        name for name in names if name in optional or not getattr(plugins.module(__name__, name), "IS_OPTIONAL", False)
    ]


@dataclass(frozen=True, eq=False)
class Redaction:
    """What the rules come to in one dump.

    Attributes
    ----------
    applied : tuple of Applied
    """

    applied: tuple[Applied, ...]

    def plan(self, others: Sequence[Found] = ()) -> ErasePlan:
        """Return the bytes of physical memory of all rules, and of what a configuration or an extension found."""
        from npdump.erase import make_plan

        plan = make_plan(others)
        runs = np.concatenate([plan.filled, *(one.runs for one in self.applied)])
        lines = [f"erase redact:{one.name} size {count(one.runs)}\n" for one in self.applied if len(one.runs)]
        filled = join(runs[np.argsort(runs[:, 0], kind="stable")])
        return ErasePlan(filled, plan.zeroed, plan.text + "".join(lines).encode())

    def report(self, source: Source, plan: ErasePlan) -> list[dict[str, Any]]:
        """Return a row for each rule, for JSON.

        ``digest_before`` and ``digest_after`` are SHA-256 over all pages of the rule, one after the other, as far as
        they are in the dump, in their input form and as they are without what is erased.
        """
        erased = source.erasing(plan)
        rows = []
        for one in self.applied:
            pfns = one.pfn_runs(source.page_size)
            held = intersect(pfns, source.data_runs)
            rows.append(
                {
                    "rule": one.name,
                    "what": one.what,
                    "is_applied": one.missed is None,
                    "missed": one.missed,
                    "n_ranges": len(one.runs),
                    "erased_nbytes": count(one.runs),
                    "pfn_ranges": pfns.tolist(),
                    "digest_before": _digest(source, held),
                    "digest_after": _digest(erased, held),
                }
            )
        return rows


def _digest(source: Source, runs: Runs) -> str:
    digest = hashlib.sha256()
    for start, stop in runs.tolist():
        for at in range(start, stop, _DIGEST_NPAGES):
            pages = np.zeros((min(stop - at, _DIGEST_NPAGES), source.page_size), np.uint8)
            source.gather(np.array([[at, at + len(pages)]], np.int64), pages)
            digest.update(pages.data)
    return digest.hexdigest()


def carry_out(
    source: Source, names: Names, observer: Observer, *, strict: bool = False, optional: Sequence[str] = ()
) -> Redaction:
    """Find what the rules erase of a dump.

    Parameters
    ----------
    source : Source
    names : Names
        Of the crashed kernel.
    observer : Observer
        Hears of rules that can't be carried out.
    strict : bool
        Make that an error.
    optional : sequence of str
        Rules that are carried out on request alone.

    Raises
    ------
    ConfigError
        If a rule can't be carried out and ``strict`` is true.
    """
    ground = Ground(Crashed(names, observer), source)
    applied = []
    for name in rules(optional):
        with observer.stage("Finding what to erase"):
            one = _apply(name, ground)
        applied.append(one)
        if one.missed is None:
            continue
        text = f"rule {name} ({one.what}) could not be carried out" + (" wholly" if len(one.runs) else "")
        if strict:
            raise ConfigError(f"{text}: {one.missed}: nothing is written, as --strict asks")
        observer.warn(f"{text}: {one.missed}: what it stands for may be in the dump")
    return Redaction(tuple(applied))


def _apply(name: str, ground: Ground) -> Applied:
    """Carry out one rule; whatever it raises is why it could not be."""
    rule = plugins.module(__name__, name)
    ranges: list[tuple[int, int]] = []
    arrays: list[Runs] = [np.empty((0, 2), np.int64)]
    why = None
    try:
        for value in rule.erase(ground):
            if isinstance(value, np.ndarray):
                arrays.append(value.astype(np.int64, copy=False))
            else:
                with ground.missing("objects"):
                    ranges += _ranges(value, ground)
    except MISSES as error:
        why = str(error)
    arrays.append(np.array(ranges, np.int64).reshape(-1, 2))
    runs = np.concatenate(arrays)
    runs = runs[runs[:, 0] < runs[:, 1]]
    runs = join(runs[np.argsort(runs[:, 0], kind="stable")])
    missed = "; ".join(text for text in (why, ground.missed()) if text) or None
    return Applied(name, rule.WHAT, runs, missed)


def _ranges(value: Any, ground: Ground) -> Iterable[tuple[int, int]]:
    """Return the physical addresses of what a rule yields."""
    if isinstance(value, PhysicalRange):
        return [(value.paddr, value.paddr + value.nbytes)]
    vaddr, nbytes = (value.address_, value.nbytes_) if isinstance(value, Object) else map(int, value)
    if not 0 <= nbytes <= ground.kernel.memory.data_nbytes:
        raise AddressError(f"{nbytes} bytes at {vaddr:#x} would be erased")
    extents = ground.kernel.memory.extents(vaddr, nbytes)
    found = [(extent.paddr, extent.paddr + extent.nbytes) for extent in extents if extent.paddr is not None]
    if nbytes and not found:
        raise AddressError(f"{vaddr:#x} isn't mapped")
    return found
