# SPDX-License-Identifier: GPL-2.0-or-later
"""Extensions: rules of the user's own, in Python, about which pages a dump has and what is erased of them.

An extension is a file, or a module of this package or of another distribution (an entry point in the group
``npdump.extensions``), with any of these functions::

    def decide(pages, kernel):     # KEEP, DROP or UNDECIDED for all pages, or an array of these
    def keep(kernel):              # yields page frames to be kept: numbers, or runs [start, stop)
    def drop(kernel):              # and such that are left out, where nothing else leaves them out
    def erase(kernel):             # yields objects, (address, nbytes) of kernel memory, or PhysicalRange

``kernel`` is a `npdump.kernel.objects.Crashed`, ``pages`` a `Pages`. KEEP wins over all but memory that must not be
read; DROP counts where the dump level keeps a page. An error in a function is said, with file and line, and its rule is
skipped, as is one that takes more than `DEFAULT_SECONDS` in all: no dump is lost by it.
"""

from __future__ import annotations

import importlib.util
import os
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump import plugins
from npdump.arrays import join, mask_of, runs_of
from npdump.erase.resolve import Found
from npdump.errors import ConfigError, FactError, UsageError
from npdump.extensions._limit import DEFAULT_SECONDS, TimeLimit, TookTooLong
from npdump.kernel.objects import Crashed, Object, PhysicalRange
from npdump.pages.policy import UNSAFE, PageClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from npdump.arrays import I64, U8, Bool, Records, Runs
    from npdump.observer import Observer
    from npdump.pages.scan_context import Decide

__all__ = ["DROP", "KEEP", "UNDECIDED", "Crashed", "Extension", "Object", "Pages", "PhysicalRange", "Rules", "load"]

DROP, UNDECIDED, KEEP = -1, 0, 1

FUNCTIONS = ("decide", "keep", "drop", "erase")

_IS_UNSAFE = np.isin(np.arange(len(PageClass)), UNSAFE)
_NO_RUNS: Runs = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class Pages:
    """Consecutive page frames ``[pfn_start, pfn_stop)``, and what their struct pages say.

    Attributes
    ----------
    pfn_start, pfn_stop : int
    is_ram, has_data : ndarray of shape (n,), dtype bool
        Whether the input has the page or had it before it was filtered, and whether it has its bytes.
    classes : ndarray of shape (n,), dtype uint8
        `npdump.pages.policy.PageClass` of each: why the dump level leaves it out, 0 if it keeps it.
    records : ndarray of shape (n,), structured
        The struct pages with the fields that npdump itself looks at; all zero where there is none.
    """

    pfn_start: int
    pfn_stop: int
    is_ram: Bool
    has_data: Bool
    classes: U8
    records: Records
    kernel: Crashed

    def __len__(self) -> int:
        return self.pfn_stop - self.pfn_start

    @property
    def pfns(self) -> I64:
        """Page frame of each; shape (n,), dtype int64."""
        return np.arange(self.pfn_start, self.pfn_stop)

    def column(self, name: str) -> np.ndarray:
        """Return a member of struct page, of all pages; shape (n,), in this machine's byte order.

        Parameters
        ----------
        name : str
            Any that the kernel's types have, such as ``flags``, ``private``, ``pp_magic``.

        Raises
        ------
        FactError
            If struct page has no such member, or it is no number or pointer.
        """
        if name in (self.records.dtype.names or ()):
            column = self.records[name]
            return column.astype(column.dtype.newbyteorder("="))
        member = self.kernel.names.record("page").members.get(name)
        if member is None or member.type.nbytes not in (1, 2, 4, 8):
            raise FactError(f"struct page has no number or pointer {name}")
        raw = self.records.view(np.uint8).reshape(len(self), -1)
        dtype = self.kernel.memory.dtype(f"{'i' if member.type.is_signed else 'u'}{member.type.nbytes}")
        column = np.ascontiguousarray(raw[:, member.offset : member.offset + dtype.itemsize]).view(dtype)[:, 0]
        return column.astype(dtype.newbyteorder("="))


class Extension(NamedTuple):
    """A loaded extension: its name, where it is, and its functions by name."""

    name: str
    path: str
    functions: dict[str, Callable[..., Any]]


def load(name: str) -> Extension:
    """Load an extension.

    Parameters
    ----------
    name : str
        Path of a Python file, or the name of one that is installed.

    Raises
    ------
    ConfigError
        If there is none, or it can't be imported, or it has none of the functions.
    UsageError
        If it is one of makedumpfile's.
    """
    if name.endswith((".so", ".o", ".c")):
        raise UsageError(
            f"{name}: is an extension of makedumpfile, which is machine code for that program alone: npdump takes "
            "Python files; the samples of makedumpfile are a few lines there (examples/extensions)"
        )
    module = _from_file(name) if name.endswith(".py") or os.sep in name or os.path.isfile(name) else _installed(name)
    functions = {key: getattr(module, key) for key in FUNCTIONS if callable(getattr(module, key, None))}
    if not functions:
        raise ConfigError(f"{name}: isn't an extension: it has none of the functions {', '.join(FUNCTIONS)}")
    stem = os.path.splitext(os.path.basename(name))[0]
    return Extension(stem, getattr(module, "__file__", None) or name, functions)


def _from_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: there is no such file", path=path)
    stem = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(f"npdump_extension_{stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: isn't a Python file: its name must end in .py", path=path)
    module = importlib.util.module_from_spec(spec)
    with _errors_said(path), TimeLimit(DEFAULT_SECONDS):
        spec.loader.exec_module(module)
    return module


def _installed(name: str) -> ModuleType:
    known = plugins.names(__name__)
    try:
        with _errors_said(name):
            return plugins.module(__name__, name)
    except ConfigError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            text = f"{name}: there is no such file, and no extension of that name is installed: {', '.join(known)} are"
            raise ConfigError(text) from error
        raise


@contextmanager
def _errors_said(path: str) -> Iterator[None]:
    """Turn whatever an extension raises into a ConfigError that says where."""
    try:
        yield
    except TookTooLong as error:
        raise ConfigError(f"{_place(path, error)}: did not come to an end in its time", path=path) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{_place(path, error)}: {_in_words(error)}", path=path) from error


def _place(path: str, error: BaseException) -> str:
    """Return file and line of an error, where it is in the extension itself."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path


def _in_words(error: BaseException) -> str:
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass
class Rules:
    """What extensions say about one dump.

    Parameters
    ----------
    extensions : list of Extension
    kernel : Crashed
    observer : Observer
        Hears of rules that are skipped.
    strict : bool
        Make an error in one an error of the run.
    limit_seconds : float
        How long each function of an extension may take, in all.
    """

    extensions: list[Extension]
    kernel: Crashed
    observer: Observer
    strict: bool = False
    limit_seconds: float = DEFAULT_SECONDS
    _skipped: set[tuple[str, str]] = field(default_factory=set)
    _left_seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kept = self._runs("keep")
        self._dropped = self._runs("drop")

    def _call(self, extension: Extension, name: str, use: Callable[[Any], Any], *arguments: Any) -> Any:
        """Call a function and use what it returns; None if it has none, or it failed."""
        if name not in extension.functions or (extension.path, name) in self._skipped:
            return None
        limit = TimeLimit(self._left_seconds.get((extension.path, name), self.limit_seconds))
        try:
            with _errors_said(extension.path), limit:
                found = use(extension.functions[name](*arguments))
            self._left_seconds[extension.path, name] = limit.left_seconds
            return found
        except ConfigError as error:
            if self.strict:
                raise
            self._skipped.add((extension.path, name))
            self.observer.warn(f"{error}: the rule {name} is skipped")
            return None

    def _runs(self, name: str) -> Runs:
        found = [self._call(extension, name, _as_runs, self.kernel) for extension in self.extensions]
        runs = np.concatenate([_NO_RUNS, *(one for one in found if one is not None)])
        return join(runs[np.argsort(runs[:, 0], kind="stable")])

    def erased(self) -> list[Found]:
        """Return what extensions want erased, one entry for each of them."""
        found = []
        for extension in self.extensions:
            one = self._call(extension, "erase", partial(self._found, name=extension.name), self.kernel)
            if one is not None and one.nbytes:
                found.append(one)
        return found

    def _found(self, values: Iterable[Any], name: str) -> Found:
        ranges: list[tuple[int, int]] = []
        for value in values:
            if isinstance(value, PhysicalRange):
                ranges.append((int(value.paddr), int(value.nbytes)))
                continue
            vaddr, nbytes = (value.address_, value.nbytes_) if isinstance(value, Object) else map(int, value)
            if not 0 <= nbytes <= self.kernel.memory.data_nbytes:
                raise ValueError(f"{nbytes} bytes at {vaddr:#x} are to be erased")
            extents = self.kernel.memory.extents(vaddr, nbytes)
            ranges += [(extent.paddr, extent.nbytes) for extent in extents if extent.paddr is not None]
        if any(paddr < 0 or nbytes < 0 for paddr, nbytes in ranges):
            raise ValueError("a range of memory below 0 is to be erased")
        nbytes = sum(nbytes for _, nbytes in ranges)
        return Found(0, nbytes, tuple(ranges), False, 0, f"erase extension:{name} size {nbytes}")

    @property
    def decides(self) -> bool:
        """Whether any rule is about which pages stay."""
        return bool(len(self._kept) or len(self._dropped) or any("decide" in one.functions for one in self.extensions))

    def decider(self) -> Decide:
        """Return what has the last word about the pages of one scan; it says the same in every pass over them."""
        known: dict[int, tuple[Runs, Runs]] = {}

        def decide(pfn_start: int, classes: U8, is_ram: Bool, has_data: Bool, records: Records | None) -> U8:
            n = len(classes)
            if pfn_start not in known:
                answers = np.zeros(n, np.int8)
                if records is not None:
                    pages = Pages(pfn_start, pfn_start + n, is_ram, has_data, classes.copy(), records, self.kernel)
                    answers = self._answers(pages)
                known[pfn_start] = runs_of(answers == KEEP), runs_of(answers == DROP)
            kept, dropped = (mask_of(runs, 0, n) for runs in known[pfn_start])
            kept |= mask_of(self._kept, pfn_start, pfn_start + n)
            dropped |= mask_of(self._dropped, pfn_start, pfn_start + n)
            if not kept.any() and not dropped.any():
                return classes
            decided = classes.copy()
            decided[dropped & (classes == PageClass.KEPT) & is_ram] = PageClass.EXTENSION
            decided[kept & ~_IS_UNSAFE[classes]] = PageClass.KEPT
            return decided

        return decide

    def _answers(self, pages: Pages) -> np.ndarray:
        """Return what all extensions together say of pages: one that keeps a page wins over one that doesn't."""
        answers = np.zeros(len(pages), np.int8)
        for extension in self.extensions:
            one = self._call(extension, "decide", partial(_as_answers, n=len(pages)), pages, self.kernel)
            if one is not None:
                answers = np.where((one == KEEP) | (answers == UNDECIDED), one, answers)
        return answers


def _as_answers(said: Any, n: int) -> np.ndarray:
    """Return what ``decide`` said for each page."""
    answers = np.broadcast_to(np.asarray(UNDECIDED if said is None else said), (n,))
    if not np.isin(answers, (DROP, UNDECIDED, KEEP)).all():
        raise ValueError("decide returned something else than KEEP, DROP and UNDECIDED")
    return answers.astype(np.int8)


def _as_runs(values: Iterable[Any]) -> Runs:
    """Return page frames as runs; each value is a page frame, a run, or an array of runs."""
    found = [_NO_RUNS]
    for value in values:
        array = np.asarray(value, np.int64)
        found.append(array.reshape(-1, 2) if array.ndim else np.array([[int(array), int(array) + 1]]))
    runs = np.concatenate(found)
    if (runs < 0).any() or (runs[:, 0] > runs[:, 1]).any():
        raise ValueError("page frames below 0, or a run that ends before it begins")
    return runs
