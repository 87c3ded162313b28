# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps of other writers: machines that headers name wrongly, and files that are no vmcore at all."""

from __future__ import annotations

import gzip
import struct
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

import npdump
from npdump.arch import by_machine
from npdump.errors import SourceError, UnknownFormat
from npdump.kernel.facts import vmcoreinfo
from npdump.layouts.machine import machine_named
from npdump.sources import SEGMENT, Header
from tests.builders import notes as note
from tests.builders.kdump import Form, build
from tests.harness import distilled_vmcore, run, run_ok
from tests.readers import ElfDump, open_dump

UTSNAME, UTSNAME_NBYTES = 12, 6 * 65
#: What only kernels of each machine have in VMCOREINFO, by word size and byte order.
KEYS = {
    "x86_64": (64, "<", b"SYMBOL(init_top_pgt)=ffffffff81a10000\n"),
    "i686": (32, "<", b"CONFIG_X86_PAE=y\n"),
    "aarch64": (64, "<", b"NUMBER(kimage_voffset)=0xffff800010000000\n"),
    "armv7l": (32, "<", b"CONFIG_ARM_LPAE=y\n"),
    "ppc64": (64, ">", b"SYMBOL(vmemmap_list)=c000000000000000\n"),
    "s390x": (64, ">", b"SYMBOL(lowcore_ptr)=1298208\n"),
    "riscv64": (64, "<", b"NUMBER(va_kernel_pa_offset)=0xfffffffeffe00000\n"),
    "loongarch64": (64, "<", b"SYMBOL(_stext)=9000000000220000\n"),
}
#: Size of struct elf_prstatus, where no other machine of that word size and byte order has the same.
PRSTATUS = {"x86_64": (64, "<", 336), "s390x": (64, ">", 336), "aarch64": (64, "<", 392), "ppc64": (64, ">", 504)}
PRSTATUS |= {"i686": (32, "<", 144), "riscv64": (64, "<", 376), "armv7l": (32, "<", 148)}


def kdump_file(tmp_path, bits, order, utsname, vmcoreinfo=b""):
    """A kdump-compressed file with these six names."""
    data = bytearray(build({1: b"a" * 4096}, Form(bits=bits, order=order, vmcoreinfo=vmcoreinfo)))
    data[UTSNAME : UTSNAME + UTSNAME_NBYTES] = utsname
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    return path


def names(*texts):
    return b"".join(text.ljust(65, b"\0") for text in texts)


def machine_of(path, **options):
    with npdump.open(path, **options) as dump:
        return dump.arch.name


@pytest.mark.parametrize("utsname", [bytes(UTSNAME_NBYTES), names(b"", b"", b"", b"", b"Unknown", b"")])
@pytest.mark.parametrize("machine", KEYS)
def test_the_machine_is_told_by_its_kernels_keys(machine, utsname, tmp_path):
    bits, order, key = KEYS[machine]
    text = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n" + key
    assert machine_of(kdump_file(tmp_path, bits, order, utsname, text)) == machine


@pytest.mark.parametrize("machine", PRSTATUS)
def test_the_machine_is_told_by_the_size_of_its_registers(machine, tmp_path):
    bits, order, nbytes = PRSTATUS[machine]
    # The builder's only note is VMCOREINFO: its place is given to one of registers.
    path = kdump_file(tmp_path, bits, order, bytes(UTSNAME_NBYTES), b"x" * (nbytes + 32))
    data = path.read_bytes()
    registers = struct.pack(f"{order}3I", 5, nbytes, 1) + b"CORE\0\0\0\0" + bytes(nbytes)
    at = data.index(b"VMCOREINFO\0") - 12
    path.write_bytes(data[:at] + registers.ljust(12 + 12 + nbytes + 32, b"\0") + data[at + 12 + 12 + nbytes + 32 :])
    assert machine_of(path) == machine


def test_names_that_were_taken_4_bytes_too_late(tmp_path):
    right = names(b"Linux", b"node", b"6.1.0", b"#1 SMP", b"x86_64", b"(none)")
    path = kdump_file(tmp_path, 64, "<", right[4:] + bytes(4))
    assert machine_of(path) == "x86_64"
    run_ok("-d", "0", path, tmp_path / "out")
    assert list(open_dump(tmp_path / "out").utsname.values()) == [
        "Linux",
        "node",
        "6.1.0",
        "#1 SMP",
        "x86_64",
        "(none)",
    ]


@pytest.mark.parametrize(
    ("name", "bits", "order", "machine"),
    [
        (b"S390X", 64, ">", "s390x"),
        (b"aarch64_be", 64, ">", "aarch64"),
        (b"armv5tel", 32, "<", "armv7l"),
        (b"i486", 32, "<", "i686"),
        (b"ppc64le", 64, "<", "ppc64"),
    ],
)
def test_other_names_of_a_machine(name, bits, order, machine, tmp_path):
    path = kdump_file(tmp_path, bits, order, names(b"Linux", b"", b"", b"", name, b""))
    assert machine_of(path) == machine


def test_the_machine_that_is_given_is_the_last_word(tmp_path):
    path = kdump_file(tmp_path, 64, "<", names(b"Linux", b"", b"", b"", b"x86_64", b""))
    assert machine_of(path, machine="aarch64") == "aarch64"
    assert "machine         aarch64" in run_ok("info", "--machine", "aarch64", path).stdout


def test_info_says_what_the_header_does_when_nothing_else_is_known(tmp_path):
    path = kdump_file(tmp_path, 64, "<", names(b"Linux", b"node1", b"5.4.0-demo", b"#7", b"x86_64", b""))
    told = run_ok("info", path).stdout
    assert "release         5.4.0-demo" in told
    assert "node            node1" in told


XEN_NAMES = b"\0.shstrtab\0.xen_pages\0"


def xen_core():
    """An ELF core without program headers, whose sections have the names that xl dump-core gives them."""

    def section(name, kind, at, nbytes):
        return struct.pack("<IIQQQQIIQQ", XEN_NAMES.find(name), kind, 0, 0, at, nbytes, 0, 0, 1, 0)

    header = b"\x7fELF\2\1\1\0\1".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, 3, 1)
    sections = bytes(64) + section(b".shstrtab", 3, 512, len(XEN_NAMES)) + section(b".xen_pages", 1, 4096, 8192)
    return (header + sections).ljust(512, b"\0") + XEN_NAMES


OTHERS = {
    "libvirt": b"LibvirtQemudSave",
    "LiME": struct.pack("<II", 0x4C694D45, 1),
    "AVML": struct.pack("<I", 0x4C4D5641),
    "VMware": struct.pack("<III", 0xBED2BED2, 8, 10),
    "VirtualBox": b"\x7fVirtualBox SavedState V2.0\n",
    "Xen": xen_core(),
    "Xen domain": b"Xen saved domain, xl format\n \0 \r",
    "s390": struct.pack(">Q", 0xA8190173618F23FD),
    "tar": b"vmcore".ljust(257, b"\0") + b"ustar  \0",
    "zip": b"PK\3\4",
    "bzip2": b"BZh91AY&SY",
    "qcow2": b"QFI\xfb\0\0\0\3",
    "Android": struct.pack("<I", 0xED26FF3A),
    "QEMU migration": b"QEVM\0\0\0\3",
    "Windows": b"PAGEDU64",
    "raw image": bytes(16),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused_by_name(name, tmp_path):
    path = tmp_path / "other"
    path.write_bytes(OTHERS[name].ljust(20000, b"\0"))
    with npdump.open(path) as dump, pytest.raises(UnknownFormat, match=name) as raised:
        dump.source  # noqa: B018
    assert raised.value.path == str(path)


def test_what_unpacks_to_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    result = run("info", "--max-unpacked", "4M", path)
    assert result.returncode == 1
    assert "unpacks to more than 4 MiB" in result.stderr
    with npdump.open(path, max_unpacked_nbytes=8 << 20) as dump, pytest.raises(SourceError, match="isn't a vmcore"):
        dump.source  # noqa: B018


def test_a_hundred_thousand_notes_and_empty_lines(tmp_path):
    """Neither took minutes nor memory without bound."""
    area = note.note(b"X", 7, b"") * 100_000 + note.note(b"VMCOREINFO", 0, b"\n" * (8 << 20))
    offset = 64 + 2 * 56
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    header += struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, len(area), len(area), 0)
    header += struct.pack("<IIQQQQQQ", 1, 7, offset + len(area), 0, 0, 4096, 4096, 0)
    path = tmp_path / "vmcore"
    path.write_bytes(header + area + bytes(4096))
    told = run_ok("info", path, timeout=60, memory_nbytes=1 << 30).stdout
    assert "X type 0x7, 100000 times" in told


def space_of(name, segments, text):
    """How a machine's addresses are translated, by its VMCOREINFO and the addresses of (vaddr, paddr) segments."""
    found = np.zeros(len(segments), SEGMENT)
    found["vaddr"], found["paddr"] = zip(*segments, strict=True)
    header = Header(64 if name == "riscv64" else 32, "<", machine_named(name).number)
    source = SimpleNamespace(segments=found, header=header, page_size=4096)
    return by_machine(header).space(source, vmcoreinfo.parse(text))


def test_riscv64_without_the_keys_that_newer_kernels_added():
    """Values of a real Linux 6.12, whose dump's segments are the image's and the direct map's."""
    text = b"NUMBER(VA_BITS)=57\nNUMBER(PAGE_OFFSET)=0xff60000000000000\nNUMBER(KERNEL_LINK_ADDR)=0xffffffff80000000\n"
    text += b"SYMBOL(swapper_pg_dir)=ffffffff81dca000\n"
    segments = [(0xFFFFFFFF80000000, 0x80200000), (0xFF60000000000000, 0x80000000)]
    newer = text + b"NUMBER(va_kernel_pa_offset)=0xfffffffeffe00000\nNUMBER(phys_ram_base)=2147483648\n"
    space = space_of("riscv64", segments, text)
    assert space == space_of("riscv64", segments, newer)
    assert space.root == 0x81FCA000


def test_arm_whose_first_memory_is_not_in_the_dump():
    """PHYS_OFFSET is where the kernel's memory begins, not the dump's."""
    text = b"SYMBOL(swapper_pg_dir)=c0004000\n"
    assert space_of("armv7l", [(0xC0200000, 0x60200000), (0xC8000000, 0x68000000)], text).ram_base == 0x60000000
    # QEMU gives no addresses, or physical ones.
    assert space_of("armv7l", [(0, 0x40000000)], text).ram_base == 0x40000000
    assert space_of("armv7l", [(0xE0000000, 0xE0000000)], text).ram_base == 0xE0000000


def test_memory_of_a_device_above_all_sections(tmp_path):
    """Nearly 2**29 sections of RISC-V's lie below it: more than there is room for."""
    vmcore, far = distilled_vmcore("machines/riscv64-6.12"), tmp_path / "far"
    subprocess.run(["cp", "--sparse=always", vmcore, far], check=True)
    dump = ElfDump(vmcore)
    at = vmcore.stat().st_size
    headers = dump.data[dump.phoff : dump.headers_end]
    segment = struct.pack("<2I6Q", 1, 7, at + len(headers) + 56, 0, (1 << 56) - 65536, 65536, 65536, 0)
    with open(far, "r+b") as file:
        file.seek(at)
        file.write(headers + segment + b"\x11" * 65536)
        file.seek(32)
        file.write(struct.pack("<Q", at))
        file.seek(56)
        file.write(struct.pack("<H", len(dump.headers) + 1))
    with npdump.open(vmcore) as true, npdump.open(far) as dump_of_device:
        wanted, counts = true.scan(31), dump_of_device.scan(31)
        assert counts.counts == wanted.counts
        assert counts.n_ram == wanted.n_ram + 65536 // true.source.page_size
