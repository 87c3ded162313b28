# SPDX-License-Identifier: GPL-2.0-or-later
"""Formats that people take for a vmcore and that npdump doesn't read: their names, and what to do instead.

References
----------
The magics are those of each format's own reader: libvirt ``qemu_saveimage.h``, LiME ``lime.h``, AVML, Volatility
for VMware, Xen ``xenctrl.h``, ``libxc-migration-stream``, ``xl``, xenopsd and libvirt's ``libxl``, s390-tools
``zgetdump``, QEMU ``block/``, the Android sparse image and Linux ``kernel/power/swap.c``.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["why_unread"]


class _Form(NamedTuple):
    offset: int
    magics: tuple[bytes, ...]
    words: str


_UNPACK = "unpack it, and give the vmcore that is in it"
_DISK = "the image of a disk, not of memory"
_FORMS = (
    _Form(0, (b"PAGEDUMP", b"PAGEDU64"), "a Windows crash dump, not a Linux one"),
    _Form(0, (b"QEVM",), "a QEMU migration stream: use dump-guest-memory to make a vmcore"),
    _Form(
        0,
        (b"LibvirtQemudSave", b"LibvirtQemudPart"),
        "a libvirt save file: use virsh dump --memory-only to make a vmcore",
    ),
    _Form(0, (b"EMiL",), "a LiME memory image: crash reads it; npdump reads what kdump or dump-guest-memory make"),
    _Form(0, (b"AVML",), "an AVML memory image: avml-convert makes a LiME image of it, which crash reads"),
    _Form(
        0,
        (b"\xd0\xbe\xd2\xbe", b"\xd1\xba\xd1\xba", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe"),
        "a VMware suspend or snapshot file: vmss2core -N makes a vmcore of it",
    ),
    _Form(
        0,
        (b"\x7fVirtualBox SavedState",),
        "a VirtualBox saved state: VBoxManage debugvm NAME dumpvmcore makes a core of the running machine",
    ),
    _Form(
        0,
        (
            b"Xen saved domain",
            b"XenSavedDom",
            b"libvirt-xml\n \0 \r",
            b"LinuxGuestRecord",
            b"\xed\xeb\x0f\xf0",
            b"\xee\xeb\x0f\xf0",
            b"\xff" * 8 + b"XENF",
        ),
        "a Xen domain's saved state or old core: xl dump-core makes one that crash reads",
    ),
    _Form(
        0,
        (bytes.fromhex("a8190173618f23fd"), bytes.fromhex("a8190173618f23fe")),
        "an s390 stand-alone dump: zgetdump makes a vmcore of it (zgetdump --fmt elf DUMP > vmcore)",
    ),
    _Form(
        0,
        (bytes.fromhex("a8190173618f23ed"), bytes.fromhex("ed238f61730119a8")),
        "an LKCD dump: crash reads it, npdump doesn't",
    ),
    _Form(257, (b"ustar",), f"a tar archive: {_UNPACK}"),
    _Form(0, (b"070701", b"070702", b"070707"), f"a cpio archive: {_UNPACK}"),
    _Form(0, (b"PK\3\4",), f"a zip archive: {_UNPACK}"),
    _Form(0, (b"7z\xbc\xaf\x27\x1c",), f"a 7-Zip archive: {_UNPACK}"),
    _Form(0, (b"Rar!\x1a\x07",), f"a RAR archive: {_UNPACK}"),
    _Form(0, (b"BZh",), "compressed with bzip2: unpack it with bunzip2 (gzip, xz, zstd and lz4 are read as they are)"),
    _Form(0, (b"\x89LZO\0\r\n\x1a\n",), "compressed with lzop: unpack it with lzop -d"),
    _Form(0, (b"\x1f\x9d",), "compressed with compress: unpack it with uncompress"),
    _Form(
        0,
        (b"QFI\xfb",),
        f"a QEMU disk image (qcow2), {_DISK}: a snapshot in it can be resumed, then dump-guest-memory makes a vmcore",
    ),
    _Form(0, (b"KDMV", b"vhdxfile", b"conectix", b"<<< Oracle VM VirtualBox Disk Image"), _DISK),
    _Form(
        0,
        (b"\x3a\xff\x26\xed", b"ANDROID!"),
        "an Android image of a partition, not of memory: a RAM dump of the device is needed",
    ),
    _Form(0, (b"Raw_Dmp!",), "a Qualcomm RAM dump: linux-ramdump-parser reads it, npdump doesn't"),
    _Form(4086, (b"S1SUSPEND", b"SWAPSPACE2"), "swap space, maybe with a hibernation image: npdump doesn't read it"),
)


def why_unread(head: bytes) -> str:
    """Return what a file is that begins with these bytes, which no format of npdump does, and what to do.

    Parameters
    ----------
    head : bytes
        4096 of them at least, if the file has as many.
    """
    for form in _FORMS:
        if head.startswith(form.magics, form.offset):
            return f"is {form.words}"
    beginning = f"it begins with {head[:8].hex(' ')}, not with an ELF header"
    if len(head) >= 4096:
        beginning += "; a raw image of memory can't be told from other files: npdump reads what kdump or QEMU's "
        beginning += "dump-guest-memory make"
    return f"isn't a vmcore: {beginning}"
