# SPDX-License-Identifier: GPL-2.0-or-later
"""An encrypted output: the flattened format inside of age, into a file or the standard output.

Encryption goes from the beginning to the end, as the flattened format does. A file that can't be finished is removed;
what is left of a process that was killed, and a stream that was cut, lacks the chunk that is marked as the last one,
and does not decrypt as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from npdump.sinks._stream import Records
from npdump.storage.age import Encryptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.sinks import Sink
    from npdump.storage.lz4 import Frame

__all__ = ["EncryptedSink", "encrypted"]


class Output(Protocol):
    """Where encrypted bytes go: a file, or the standard output."""

    @property
    def can_rewrite(self) -> bool:
        """Whether it is a file, that can be taken back."""

    def write(self, offset: int, data: Any) -> None:
        """Write bytes at an offset."""

    def flush(self) -> None:
        """See `npdump.sinks.Sink.flush`."""

    def close(self) -> None:
        """See `npdump.sinks.Sink.close`."""

    def discard(self) -> None:
        """See `npdump.sinks.Sink.discard`."""


class EncryptedSink(Records):
    """See `npdump.sinks.Sink`.

    Parameters
    ----------
    recipients : sequence
        Who can decrypt it; see `npdump.storage.age.read_recipients`.
    out : Output
    frame : Frame or None
        What to compress the stream with, before it is encrypted.
    """

    def __init__(self, recipients: Sequence[Any], out: Output, frame: Frame | None = None) -> None:
        self._out, self._at = out, 0
        self.is_all_or_nothing = out.can_rewrite
        self._encryptor = Encryptor(recipients, self._put)
        super().__init__(frame)

    def _put(self, data: bytes) -> None:
        self._out.write(self._at, data)
        self._at += len(data)

    def _send(self, buffers: list[Any]) -> None:
        for buffer in buffers:
            self._encryptor.add(buffer)

    def close(self) -> None:
        """End the stream, and the output."""
        try:
            super().close()
            self._encryptor.close()
            self._out.flush()
        except BaseException:
            self.discard()
            raise
        self._out.close()

    def discard(self) -> None:
        """Leave the stream without its end, and remove the file."""
        self._encryptor.abandon()
        self._out.discard()


def encrypted(outputs: Sequence[Output], recipients: Sequence[Any], frame: Frame | None = None) -> list[Sink]:
    """Return sinks that encrypt what goes to some outputs; the parameters are those of `EncryptedSink`."""
    return [EncryptedSink(recipients, output, frame) for output in outputs]
