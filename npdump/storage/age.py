# SPDX-License-Identifier: GPL-2.0-or-later
"""Encryption in the format of age: streams that are decrypted on their way in, or encrypted on their way out.

pyrage pulls from one file object and pushes into another, chunk by chunk. It has a thread of its own for that: a queue
of a few pieces is between it and npdump, so that memory is bounded. A chunk says whether it is the last one: what was
cut, or changed anywhere, does not decrypt.

References
----------
age-encryption.org/v1 (C2SP): chunks of 64 KiB, each authenticated.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from npdump.codecs._engines import Engine, choose
from npdump.errors import SourceError, UsageError

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Sequence

__all__ = ["CONTAINER", "Encryptor", "read_recipients"]

_PIECE_NBYTES = 1 << 20
_N_PIECES = 4
_MAX_KEYS_NBYTES = 1 << 20


def _load_pyrage() -> Any:
    import pyrage  # type: ignore[import-untyped]

    return pyrage


_ENGINES = {"pyrage": Engine(_load_pyrage, lambda module: "", "pip install pyrage")}


def _pyrage(what: str) -> Any:
    return choose(what, _ENGINES)[1]


def _lines(path: str, what: str) -> list[str]:
    """Return the lines of a file of keys that are no comments."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_KEYS_NBYTES)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}: {what} is expected there") from error
    lines = [line.strip() for line in raw.decode("utf-8", "replace").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read_recipients(given: Sequence[str]) -> list[Any]:
    """Return whom something is encrypted for.

    Parameters
    ----------
    given : sequence of str
        Public keys, ``age1…`` or ``ssh-…``, or paths of files that have some, one a line.

    Raises
    ------
    UsageError
        If one is no public key, or a file can't be read.
    MissingDependency
    """
    module = _pyrage("--encrypt-to")
    found = []
    for one in given:
        is_key = one.startswith(("age1", "ssh-"))
        for text in [one] if is_key else _lines(one, "a public key (age1… or ssh-…), or a file of such,"):
            kind = module.ssh if text.startswith("ssh-") else module.x25519
            try:
                found.append(kind.Recipient.from_str(text))
            except module.RecipientError as error:
                where = "" if is_key else f" of {one}"
                raise UsageError(f"{text[:80]}{where}: is no public key of age or SSH: {error}") from error
    if not found:
        raise UsageError(f"{', '.join(given)}: has no public key: without one nobody could decrypt the dump")
    return found


def _read_identities(path: str) -> list[Any]:
    module = _pyrage("--identity")
    lines = _lines(path, "a file of age-keygen(1), or a private key of SSH,")
    try:
        if lines and lines[0].startswith("-----BEGIN"):
            return [module.ssh.Identity.from_buffer("\n".join([*lines, ""]).encode())]
        found = [module.x25519.Identity.from_str(line) for line in lines]
    except module.IdentityError as error:
        raise UsageError(f"{path}: has no private key of age or SSH that can be used: {error}") from error
    if not found:
        raise UsageError(f"{path}: has no private key: age-keygen(1) makes such files")
    return found


class _Ended(Exception):
    """Whoever was to read or write the other end has gone."""


class _Pipe:
    """A queue of pieces between two threads; ``None`` is the end, an exception why there is none."""

    def __init__(self) -> None:
        import queue  # every run looks at this module, and few need that

        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_N_PIECES)
        self._full = queue.Full
        self._left = memoryview(b"")
        self._end: BaseException | bool | None = False
        self.is_abandoned = False

    def put(self, piece: bytes | BaseException | None) -> None:
        """Put a piece, as soon as there is room."""
        while not self.is_abandoned:
            try:
                self._pieces.put(piece, timeout=0.1)
            except self._full:
                continue
            return
        raise _Ended

    def read(self, nbytes: int = -1) -> bytes:
        """Return some bytes, none at the end; raises why there is no end."""
        if not self._left and self._end is False:
            piece = self._pieces.get()
            if isinstance(piece, bytes):
                self._left = memoryview(piece)
            else:
                self._end = piece
        if not self._left and isinstance(self._end, BaseException):
            raise self._end
        some = self._left[: nbytes if nbytes >= 0 else None]
        self._left = self._left[len(some) :]
        return bytes(some)

    def write(self, data: bytes) -> int:
        """Put what pyrage has, as a file object does."""
        self.put(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: all is put at once."""


class _Decrypted(io.RawIOBase):
    """What a stream holds, decrypted by a thread while it is read."""

    def __init__(self, stream: BinaryIO, identities: Sequence[Any], path: str) -> None:
        self._pipe = _Pipe()
        module = _pyrage("encrypted input")

        def work() -> None:
            end: BaseException | None = None
            try:
                module.decrypt_io(stream, self._pipe, identities)
            except module.DecryptError as error:
                end = SourceError(
                    f"what is encrypted can't be decrypted with {path}: {error}: give the right --identity"
                )
                end.__cause__ = error
            except BaseException as error:
                end = error
            if not self._pipe.is_abandoned:
                self._pipe.put(end)

        threading.Thread(target=work, name="decryption", daemon=True).start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._pipe.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._pipe.is_abandoned = True
        super().close()


class Age:
    """See `npdump.storage.Container`; ``identity`` is the path of a file with private keys."""

    name = "age"
    magics = (b"age-encryption.org/v1\n",)
    errors = (OSError,)

    def __init__(self, identity: str | None = None) -> None:
        self._identity = identity

    def unlocked(self, identity: str | None) -> Age:
        """See `npdump.storage.Locked`."""
        return Age(identity)

    def open(self, stream: BinaryIO) -> BinaryIO:
        """See `npdump.storage.Container.open`."""
        if self._identity is None:
            raise UsageError("the input is encrypted (age): give the file with the private key, --identity FILE")
        return cast("BinaryIO", _Decrypted(stream, _read_identities(self._identity), self._identity))


class Encryptor:
    """Encrypts what it is given, piece by piece.

    Parameters
    ----------
    recipients : sequence
        As `read_recipients` returns them.
    put : callable
        Takes the encrypted bytes, in another thread; what it raises, the next call of a method does.
    """

    def __init__(self, recipients: Sequence[Any], put: Callable[[bytes], None]) -> None:
        self._pipe, self._put = _Pipe(), put
        self._failure: BaseException | None = None
        self._held = bytearray()
        module = _pyrage("--encrypt-to")

        def work() -> None:
            try:
                module.encrypt_io(self._pipe, self, list(recipients))
            except BaseException as error:
                self._failure = self._failure or error
            self._pipe.is_abandoned = True

        self._thread = threading.Thread(target=work, name="encryption", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Take bytes from the library, as a file object does."""
        try:
            self._put(data)
        except BaseException as error:
            self._failure = error
            raise
        return len(data)

    def flush(self) -> None:
        """Do nothing: all is passed on at once."""

    def add(self, data: Any) -> None:
        """Encrypt some bytes."""
        self._held += data
        if len(self._held) >= _PIECE_NBYTES:
            self._pass_on(bytes(self._held))
            self._held.clear()

    def _pass_on(self, piece: bytes | None) -> None:
        try:
            self._pipe.put(piece)
        except _Ended:
            assert self._failure is not None
            raise self._failure from None

    def close(self) -> None:
        """Encrypt the rest, and mark the end."""
        if self._held:
            self._pass_on(bytes(self._held))
        self._pass_on(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """Leave it without its end, so that it does not decrypt to what looks whole."""
        if self._thread.is_alive():
            try:
                self._pipe.put(_Ended("is left without its end"))
            except _Ended:
                pass
            self._thread.join()


CONTAINER = Age()
