# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that npdump raises on purpose.

A message is one line, ``what: where: why; what to do``, and is meant for the user. ``exit_code`` is what the command
returns: 1 for a failure, 2 when the kernel facts are of another kernel than the dump (makedumpfile(8), DIAGNOSTICS).
"""


class NpdumpError(Exception):
    """Base of all errors that npdump raises on purpose.

    Parameters
    ----------
    text : str
        One line.
    path : str, optional
        The file that it is about.
    offset : int, optional
        Where in that file, in bytes.
    pfn : int, optional
        The page frame that it is about.
    """

    exit_code = 1

    def __init__(
        self, text: str = "", *, path: str | None = None, offset: int | None = None, pfn: int | None = None
    ) -> None:
        super().__init__(text)
        self.path = path
        self.offset = offset
        self.pfn = pfn


class UsageError(NpdumpError):
    """The command line or the arguments of a call contradict each other or are out of range."""


class VersionMismatch(NpdumpError):
    """The kernel facts given are of another kernel release than the dump."""

    exit_code = 2


class MissingDependency(NpdumpError):
    """An optional library is needed and not installed; the message names the package and the extra."""


class PackingError(NpdumpError):
    """Modules of npdump itself are missing: whoever packed it left them out."""


class SourceError(NpdumpError):
    """The input cannot be read or is not what it claims to be."""


class ReadError(SourceError):
    """Bytes of the input could not be read: a bad sector, broken memory behind ``/proc/vmcore``, a file that shrank."""


class UnknownFormat(SourceError):
    """No input format recognises the first bytes."""


class TruncatedDump(SourceError):
    """The input ends before the data that its headers announce."""


class CorruptDump(SourceError):
    """A header or table of the input has a value that cannot be true."""


class FactError(NpdumpError):
    """A fact about the crashed kernel is missing, or two facts contradict each other."""


class AddressError(NpdumpError):
    """An address has no translation, or no memory in the dump is behind it."""


class LostPage(AddressError):
    """A page that should be in the dump can't be had: it can't be read, or doesn't uncompress."""

    @property
    def is_unreadable(self) -> bool:
        """Whether the system couldn't read it; what doesn't uncompress is damaged in the file."""
        return isinstance(self.__cause__, ReadError)


class MemmapError(NpdumpError):
    """The kernel's page array cannot be found or is not plausible."""


class CodecError(NpdumpError):
    """A page could not be compressed or uncompressed."""


class SinkError(NpdumpError):
    """The output cannot be written."""


class NoSpace(SinkError):
    """The output's file system is full; what was written is marked incomplete.

    Attributes
    ----------
    n_written : int
        Bytes of the refused buffer that are in the file all the same, from its beginning on.
    """

    n_written = 0


class OutOfTime(NpdumpError):
    """The time is over that making a dump may take; what was written is marked incomplete.

    Attributes
    ----------
    n_done, n_pages : int
        How many pages are written, of how many.
    """

    def __init__(self, n_done: int, n_pages: int) -> None:
        super().__init__(
            f"the time that --deadline gives is over with {n_done} of {n_pages} pages written: the dump is cut short, "
            "and marked so"
        )
        self.n_done, self.n_pages = n_done, n_pages


class ConfigError(NpdumpError):
    """A configuration that says what to erase, or an extension, is wrong; the message names the file and line."""
