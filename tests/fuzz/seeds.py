# SPDX-License-Identifier: GPL-2.0-or-later
"""Small inputs of each kind, and where in them their fields are."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests import harness, test_built_machines, test_dmesg, test_explain, test_xc_core, test_xen
from tests.builders import kdump, logs, machine, old, own, sadump, xen
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.readers import open_dump
from tests.test_vmlinux import SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable


class Seed(NamedTuple):
    """A file, and the ranges of its bytes that are headers, tables and notes."""

    name: str
    data: bytes
    fields: tuple[tuple[int, int], ...]


def _made(make) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed"
        make(path)
        return path.read_bytes()


def _elf_fields(data: bytes) -> tuple[tuple[int, int], ...]:
    """ELF header, program headers and notes; each program header twice, since most is told there."""
    is_64_bit, order = data[4] == 2, "<" if data[5] == 1 else ">"
    phoff = struct.unpack_from(f"{order}Q" if is_64_bit else f"{order}I", data, 32 if is_64_bit else 28)[0]
    phentsize, phnum = struct.unpack_from(f"{order}HH", data, 54 if is_64_bit else 42)
    headers = (phoff, phoff + phentsize * phnum)
    at = phoff + (8 if is_64_bit else 4)
    note = struct.unpack_from(f"{order}Q" if is_64_bit else f"{order}I", data, at)[0]
    return (0, 64), headers, headers, (note, note + 512), (note, note + 4096)


@cache
def _vmcore(kernel: str = "6.12", mib: int = 1) -> bytes:
    ram = [(1 << 20, (1 + mib) << 20)]
    blocks = [Block(0x140, "anon", 0, 16), Block(0x180, "free", 6, 1)]
    return _made(lambda path: build(path, Description(ram=ram, kernel=KERNELS[kernel], blocks=blocks, fill=4)))


def elf() -> list[Seed]:
    """Vmcores of 64 and 32 bits, both byte orders."""
    found = [(f"elf-{name}", _vmcore(name)) for name in ("6.12", "5.10") if name in KERNELS]
    specs = {name: make for name, make in vars(test_built_machines).items() if name in ("_i386", "_arm64_before_v5_4")}
    found += [
        (f"elf{name}", _made(lambda path, spec=make: machine.build(path, spec()))) for name, make in specs.items()
    ]
    return [Seed(name, data, _elf_fields(data)) for name, data in found]


@cache
def _filtered(*options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        vmcore, out = Path(folder) / "vmcore", Path(folder) / "out"
        vmcore.write_bytes(_vmcore())
        harness.run_ok(*options, vmcore, out)
        return out.read_bytes()


def kdump_files() -> list[Seed]:
    """kdump-compressed files of every word size and byte order, and npdump's own."""
    pages = {pfn: bytes([pfn]) * 4096 if pfn % 5 else bytes(4096) for pfn in range(40)}
    info = b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff82000000\nOFFSET(page.flags)=0\n"
    forms = {
        f"kdump-{bits}{order}v{version}": kdump.Form(version=version, bits=bits, order=order, vmcoreinfo=info)
        for bits, order, version in ((64, "<", 6), (64, ">", 6), (32, "<", 5), (32, ">", 6), (64, "<", 1))
    }
    found = [(name, kdump.build(pages, form)) for name, form in forms.items()]
    found += [("kdump-lzo", _filtered("-l", "-d1")), ("kdump-zlib", _filtered("-c", "-d31"))]
    return [Seed(name, data, ((0, 512), (4096, 4608), (8192, 8256), (16384, 17408))) for name, data in found]


def flattened() -> list[Seed]:
    """Streams of records."""
    whole = kdump_files()[0].data
    pieces = [(at, whole[at : at + 8192]) for at in range(0, len(whole), 8192)]
    data = kdump.flatten(pieces)
    heads = tuple((4096 + index * (16 + 8192), 4112 + index * (16 + 8192)) for index in range(len(pieces)))
    elf_data = _vmcore()
    in_elf = kdump.flatten([(at, elf_data[at : at + 65536]) for at in range(0, len(elf_data), 65536)])
    return [Seed("flat-kdump", data, ((0, 40), *heads)), Seed("flat-elf", in_elf, ((0, 40), (4096, 4112)))]


def containers() -> list[Seed]:
    """Files that are compressed as a whole."""
    inner = kdump_files()[0].data
    found = [("gz", gzip.compress(inner, 6)), ("xz", lzma.compress(inner))]
    for name, command in (("zst", ["zstd", "-c"]), ("lz4", ["lz4", "-c"])):
        packed = subprocess.run(command, input=inner, capture_output=True, check=False)
        if packed.returncode == 0:
            found.append((name, packed.stdout))
    return [Seed(f"packed-{name}", data, ((0, 32), (len(data) - 32, len(data)))) for name, data in found]


def vmcoreinfo() -> list[Seed]:
    """Vmcores of which the text of VMCOREINFO is damaged."""
    found = []
    for name in ("6.12", "5.10"):
        data = _vmcore(name)
        start = data.index(b"OSRELEASE=")
        found.append(Seed(f"info-{name}", data, ((start, data.index(b"\0", start)),)))
    return found


def good_vmcore() -> bytes:
    """The vmcore that is good while something beside it is damaged."""
    return _vmcore()


def texts() -> list[Seed]:
    """VMCOREINFO files, for ``-i`` beside a good vmcore."""
    data = good_vmcore()
    start = data.index(b"OSRELEASE=")
    text = data[start : data.index(b"\0", start)]
    return [Seed("info-file", text, ((0, len(text)),))]


def skeletons() -> list[Seed]:
    """What ``npdump skeleton`` says of a dump, to be compared with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vmcore"
        path.write_bytes(good_vmcore())
        told = harness.run_ok("skeleton", path).stdout.encode()
    return [Seed("skeleton", told, ((0, len(told)),))]


def sadump_files() -> list[Seed]:
    """A stand-alone dump on a partition, and on a medium."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vmcore"
        path.write_bytes(good_vmcore())
        pages = dict(open_dump(path).contents())
    machine = sadump.Machine(sorted(pages), pages.__getitem__)
    found = []
    for is_medium in (False, True):
        data = _made(lambda path, is_medium=is_medium: sadump.write_sadump([path], machine, medium=is_medium))
        found.append(Seed(f"sadump-{is_medium:d}", data, ((0, 512), (4096, 8192), (8192, 9216), (8192, 16384))))
    return found


@cache
def small_vmlinux() -> bytes:
    """The kernel that is good while what is kept of it is damaged."""
    return vmlinux()[0].data


@cache
def kept_of_vmlinux() -> tuple[str, bytes]:
    """What npdump keeps of `small_vmlinux`: the name of the file, and the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vmlinux").write_bytes(small_vmlinux())
        environment = os.environ | {"XDG_CACHE_HOME": name}
        harness.run_ok("-g", folder / "facts", "-x", folder / "vmlinux", env=environment)
        (kept,) = (folder / "npdump").iterdir()
        return kept.name, kept.read_bytes()


def caches() -> list[Seed]:
    """What is kept of a vmlinux."""
    _, data = kept_of_vmlinux()
    return [Seed("cache", data, ((0, len(data)), (0, 200)))]


def vmlinux() -> list[Seed]:
    """Kernels with debug information, as a compiler makes them."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small.c").write_text(SOURCE)
        for version in (4, 5):
            out = folder / f"v{version}"
            options = f"-gdwarf-{version} -O1 -nostartfiles -static -Wl,--build-id -Wl,-emain".split()
            subprocess.run(["gcc", *options, "-o", out, folder / "small.c"], check=True)
            data = out.read_bytes()
            end = len(data)
            found.append(Seed(f"dwarf-{version}", data, ((0, 64), (64, 512), (end - 3000, end), (0x1000, end))))
        subprocess.run(["pahole", "-J", folder / "v4"], check=True)
        subprocess.run(["objcopy", "--remove-section", ".debug*", folder / "v4"], check=True)
        data = (folder / "v4").read_bytes()
        found.append(Seed("btf", data, ((0, 64), (64, 512), (len(data) - 4000, len(data)), (0x1000, len(data)))))
    return found


def xc_cores() -> list[Seed]:
    """A core of a Xen domain, whose pages are in sections."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "vmcore").write_bytes(good_vmcore())
        pages = sorted(dict(open_dump(Path(name) / "vmcore").contents()).items())
        data = test_xc_core.write_core(Path(name) / "core", [(pfn, bytes(page)) for pfn, page in pages]).read_bytes()
    table = 4096 + 4096 * len(pages)
    fields = (
        (0, 64),
        (64, 64 + 5 * 64),
        (64, 64 + 5 * 64),
        (1024, 1072),
        (table, len(data)),
        (len(data) - 64, len(data)),
    )
    return [Seed("xc-core", data, fields)]


class Under(NamedTuple):
    """A large file of which the seed of a reader is pieces: who makes it, and where they begin and end."""

    make: Callable[[Path], object]
    pieces: tuple[tuple[int, int], ...]

    def put(self, path: Path, data: bytes) -> None:
        """Make the file, or put other pieces into it."""
        if not path.exists():
            self.make(path)
        with open(path, "r+b") as file:
            for start, stop in self.pieces:
                file.seek(start)
                file.write(data[: stop - start].ljust(stop - start, b"\0"))
                data = data[stop - start :]


def _loaded(path: Path, paddr: int) -> int:
    """Where a physical address is in a vmcore of 64 bits."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    count = struct.unpack_from("<H", head, 56)[0]
    for i in range(count):
        kind, _, offset, _, start, nbytes = struct.unpack_from("<2I4Q", head, 64 + 56 * i)
        if kind == 1 and start <= paddr < start + nbytes:
            return offset + paddr - start
    raise ValueError(hex(paddr))


def make_own(path: Path) -> None:
    """A kernel that has its own symbols and types, tasks, areas and slab caches."""
    test_explain.make(path, with_types=True)


def make_host(path: Path) -> None:
    """A host that ran Xen."""
    xen.build(path, test_xen.HOSTS["4.17"])


@cache
def under(reader: str) -> Under | None:
    """The file that a reader's seed is a piece of, if it is one."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "seed"
        if reader == "own":
            make_own(path)
            at = _loaded(path, own.TABLES)
            return Under(make_own, ((at, at + 0x45000),))
        if reader == "xen":
            make_host(path)
            return Under(make_host, ((0, _loaded(path, xen.PHYS_START) + 0x140000),))
        if reader in _LOGS:
            _LOGS[reader](path)
            data = path.read_bytes()
            start = data.index(b"OSRELEASE=")
            text = next(at for line in (b"line 1", b"Linux", b"printk") if (at := data.find(line)) > start + 8192)
            around = (max(text - 8192, start + 4096), text + 8192)
            return Under(_LOGS[reader], ((start, data.index(b"\0", start)), around))
    return None


def _pieces(reader: str, fields: tuple[tuple[int, int], ...]) -> list[Seed]:
    """The seed of a reader that has a file under it."""
    whole = under(reader)
    assert whole is not None
    data = _made(whole.make)
    return [Seed(reader, b"".join(data[start:stop] for start, stop in whole.pieces), fields)]


def make_lockless(path: Path) -> None:
    """A kernel with a log of records in a ring without locks."""
    old.build(
        path,
        test_dmesg.kernel_with(
            lambda image: logs.lockless(image, [logs.Entry(t) for t in test_dmesg.lines(12)], 4, 12)
        ),
    )


def make_records(path: Path) -> None:
    """A kernel with a log of records one after the other."""
    old.build(
        path,
        test_dmesg.kernel_with(
            lambda image: logs.records(image, test_dmesg.lines(60), 1 << 11, "printk_log", n_cleared=58)
        ),
    )


_LOGS = {"log": make_lockless, "records": make_records}


def _log(reader: str) -> list[Seed]:
    whole = under(reader)
    assert whole is not None
    (start, stop), (log_start, log_stop) = whole.pieces
    return _pieces(reader, ((0, stop - start), (stop - start, stop - start + log_stop - log_start)))


def lockless_log() -> list[Seed]:
    """A log of which the control structures are damaged."""
    return _log("log")


def log_of_records() -> list[Seed]:
    """A log as kernels before v5.10 have it."""
    return _log("records")


def own_tables() -> list[Seed]:
    """What a kernel tells of itself in its own memory: BTF, kallsyms, tasks, areas, caches, zones."""
    kallsyms = len(own.btf(test_explain.STRUCTS, test_explain.ENUMS))
    places = (test_explain.CACHE, test_explain.AREAS, test_explain.TASKS, test_explain.PER_CPU)
    lists = [(paddr - own.TABLES, paddr - own.TABLES + 0x300) for paddr in places]
    fields = ((0, 24), (24, kallsyms), (24, kallsyms), (kallsyms, kallsyms + 2048), (0x20000, 0x21000), *lists)
    return _pieces("own", fields)


def hosts() -> list[Seed]:
    """What the hypervisor and its domains are found by."""
    whole = under("xen")
    assert whole is not None
    ((_, end),) = whole.pieces
    tables = end - 0x140000
    notes = (64 + 2 * 56, 4096)
    fields = ((0, 64), (64, 176), notes, notes, (tables + 0x1000, tables + 0x1200), (tables + 0x100000, end))
    return _pieces("xen", fields)


def configurations() -> list[Seed]:
    """What is to be erased, in the language of --config."""
    text = (
        b"# a comment\nerase init_task.comm size 4\nerase init_task.stack nullify\nerase do_more size 1K\n"
        b"for t in init_task.tasks.next within task_struct:tasks\n    erase t.comm\n    erase t.pid\nendfor\n"
        b"for v in vmap_area_list.next within vmap_area:list\n    erase v.vm\nendfor\n[mod]\nerase secret\n"
    )
    ends = [0, *itertools.accumulate(len(line) + 1 for line in text.split(b"\n")[:-1])]
    return [Seed("config", text, ((0, len(text)), *itertools.pairwise(ends)))]


MAKERS = {
    "elf": elf,
    "kdump": kdump_files,
    "flattened": flattened,
    "containers": containers,
    "vmcoreinfo": vmcoreinfo,
    "log": lockless_log,
    "records": log_of_records,
    "vmlinux": vmlinux,
    "cache": caches,
    "facts": texts,
    "skeleton": skeletons,
    "sadump": sadump_files,
    "xc_core": xc_cores,
    "own": own_tables,
    "xen": hosts,
    "config": configurations,
}
