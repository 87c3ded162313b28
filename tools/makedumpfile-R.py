#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Rearrange a dump from the flattened format: makedumpfile-R.py DUMPFILE < FLATTENED

Stands alone, so that it can be copied to the machine that receives a dump; takes Python 3.6 and its standard library.
It does what makedumpfile-R.pl does: any existing DUMPFILE is overwritten, and one that isn't whole is kept. Unlike
that, it exits with 1 if the dump isn't whole.

A stream in an lz4 frame is unpacked by the lz4 command.
"""

import os
import struct
import subprocess
import sys

SIGNATURE = b"makedumpfile"
HEADER_NBYTES = 4096
RECORD = struct.Struct(">qq")
END_MARK = (-1, -1)
LZ4_MAGIC = b"\x04\x22\x4d\x18"
CHUNK_NBYTES = 1 << 20


class Failure(Exception):
    """Why the dump can't be rearranged."""


def main(arguments):
    """Run the command; return its exit code."""
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print("usage: makedumpfile-R.py DUMPFILE < FLATTENED", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 1
    print("Start re-arranging dump data of flattened format to a dumpfile.")
    try:
        fd = os.open(arguments[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        print(f"Cannot open {arguments[0]}: {error.strerror}.", file=sys.stderr)
        return 1
    try:
        with open(fd, "wb", buffering=0) as dumpfile:
            rearrange(sys.stdin.buffer, dumpfile)
    except (Failure, OSError) as error:
        print(f"{error}.\nFailed.", file=sys.stderr)
        return 1
    print(f"The dumpfile is saved to {arguments[0]}.\nCompleted.")
    return 0


def rearrange(stream, dumpfile):
    """Write what the records of a stream say."""
    header = read(stream, HEADER_NBYTES)
    if header.startswith(LZ4_MAGIC):
        stream = unlz4(header, stream)
        header = read(stream, HEADER_NBYTES)
    if not header.startswith(SIGNATURE):
        raise Failure("It is not flattened format")
    nbytes = 0
    while True:
        record = read(stream, RECORD.size)
        if len(record) < RECORD.size:
            raise Failure("Cannot get valid end header of flattened format: the stream was cut short")
        offset, size = RECORD.unpack(record)
        if (offset, size) == END_MARK:
            break
        if offset < 0 or size <= 0:
            raise Failure(f"Corrupt record: offset {offset}, size {size}")
        nbytes = max(nbytes, offset + size)
        copy(stream, dumpfile, offset, size)
    dumpfile.truncate(nbytes)


def copy(stream, dumpfile, offset, size):
    """Copy the bytes of one record."""
    dumpfile.seek(offset)
    while size:
        data = stream.read(min(size, CHUNK_NBYTES))
        if not data:
            raise Failure(f"The stream was cut short, {size} bytes before the end of a record")
        size -= len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[dumpfile.write(rest) :]


def read(stream, nbytes):
    """Read so many bytes, fewer only at the end."""
    data = b""
    while len(data) < nbytes:
        more = stream.read(nbytes - len(data))
        if not more:
            break
        data += more
    return data


def unlz4(head, stream):
    """Return a stream of what an lz4 frame holds."""
    try:
        lz4 = subprocess.Popen(["lz4", "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError:
        raise Failure("It is compressed with lz4, and there is no lz4 command: unpack it with lz4 -d") from None
    feeder = os.fork()
    if not feeder:
        lz4.stdout.close()
        try:
            lz4.stdin.write(head)
            while True:
                data = stream.read(CHUNK_NBYTES)
                if not data:
                    break
                lz4.stdin.write(data)
            lz4.stdin.close()
        except OSError:
            pass
        os._exit(0)
    lz4.stdin.close()
    return lz4.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
