# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine, a codec, an input format and an output format of another distribution: nothing else needs an edit."""

from __future__ import annotations

import os
import struct
import sys
import textwrap

import pytest

from tests.builders import kdump
from tests.harness import REPOSITORY, run_ok
from tests.readers import open_dump

PAGE = 4096
EM_DEMO = 0x7D00

MODULES = {
    "arch": """
        from npdump.arch import Arch
        from npdump.errors import FactError
        from npdump.layouts.machine import Machine

        def space(source, facts):
            raise FactError("the demonstration machine has no page tables")

        ARCH = Arch(Machine(0x7d00, 64, "demo64"), space)
        """,
    "codec": """
        import bz2
        from npdump.codecs import decoder_of, encoder_of

        class Bzip2:
            name, flag, levels, min_batches_per_thread = "bzip2", 0x40, (1, 9), 1

            def engines(self):
                return ["bz2 1"]

            def encoder(self, page_size, engine=None, level=None):
                return encoder_of(lambda pages: [bz2.compress(bytes(page), level or 1) for page in pages], page_size)

            def decoder(self, page_size):
                return decoder_of(bz2.decompress, page_size, (OSError, ValueError))

        CODEC = Bzip2()
        """,
    "source": """
        import numpy as np
        from npdump.sources import SEGMENT, Header, History, NoteArea

        PAGE = 4096

        class Plain:
            format_name, page_size, notes, history, compressed = "plain pages", PAGE, NoteArea(), History(), None
            header = Header(64, "<", 0x7d00)

            def __init__(self, storage):
                self.path, self._storage = storage.path, storage
                self.max_mapnr = storage.nbytes // PAGE - 1
                self.ram_runs = self.data_runs = np.array([[0, self.max_mapnr]])
                self.segments = np.zeros(1, SEGMENT)
                self.segments["filesz"] = self.segments["memsz"] = self.max_mapnr * PAGE

            def view(self, paddr, nbytes):
                return self._storage.view(PAGE + paddr, nbytes)

            def maybe_nonzero(self, runs):
                return runs

            def gather(self, runs, out):
                self._storage.gather((runs[:, 0] + 1) * PAGE, (runs[:, 1] - runs[:, 0]) * PAGE, out.reshape(-1))
                return ()

        class PlainFormat:
            name = "plain"

            def sniff(self, head):
                return head.startswith(b"PLAINPAGES")

            def open(self, storage):
                return Plain(storage)

            def incomplete_mark(self, head):
                return 0, b"INCOMPLETE"

        FORMAT = PlainFormat()
        """,
    "writer": """
        import numpy as np
        from npdump.encode.batches import batches
        from npdump.encode.job import Done

        class PlainWriter:
            n_zero = n_shared = n_lost = n_unreadable = 0
            n_left_out = None

            def __init__(self, dump, options):
                self._dump = dump
                self.n_pages = sum(window.kept.count() for window in dump.scan.windows())

            def begin(self, sink):
                sink.write_all([(0, b"PLAINPAGES".ljust(4096, b"\\0"))])
                return 4096

            def write(self, sink):
                for window in self._dump.scan.windows():
                    for batch in batches(window.kept, 0, 64):
                        pages = np.empty((batch.npages, 4096), np.uint8)
                        self._dump.source.gather(batch.runs, pages)
                        for pfn, page in zip(batch.pfns.tolist(), pages):
                            sink.write((pfn + 1) * 4096, page)
                        yield Done(batch.npages, 0, 0, pages.nbytes)

            def end(self, sink):
                pass

            def mark_incomplete(self, sink):
                pass

        WRITER = PlainWriter
        """,
}
ENTRY_POINTS = """\
[npdump.arch]
demo = npdump_demo.arch

[npdump.codecs]
bzip2 = npdump_demo.codec

[npdump.sources]
plain = npdump_demo.source

[npdump.writers]
plain = npdump_demo.writer
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """PYTHONPATH with a distribution in it that adds one plug-in of each kind."""
    site = tmp_path_factory.mktemp("site")
    package, info = site / "npdump_demo", site / "npdump_demo-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(textwrap.dedent(text))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: npdump-demo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{site}"}


PAGES = {pfn: bytes([pfn]) * (PAGE - 1) + b"\n" for pfn in range(1, 9)} | {9: bytes(PAGE)}


@pytest.fixture
def kdump_dump(tmp_path):
    """A kdump-compressed dump of the new machine."""
    data = kdump.build(PAGES, kdump.Form())
    name = b"x86_64".ljust(65, b"\0")
    path = tmp_path / "kdump"
    path.write_bytes(data.replace(name, b"demo64".ljust(65, b"\0"), 1))
    return path


@pytest.fixture
def elf_dump(tmp_path):
    """An ELF dump of the new machine."""
    raw = b"\x7fELF\2\1\1".ljust(16, b"\0")
    raw += struct.pack("<HHIQQQIHHHHHH", 4, EM_DEMO, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    raw += struct.pack("<IIQQQQQQ", 1, 7, PAGE, 0, PAGE, 9 * PAGE, 9 * PAGE, 0)
    path = tmp_path / "elf"
    path.write_bytes(raw.ljust(PAGE, b"\0") + b"".join(PAGES[pfn] for pfn in range(1, 10)))
    return path


@pytest.mark.parametrize("level", ["0", "1"])
@pytest.mark.parametrize("dump", ["kdump_dump", "elf_dump"])
def test_a_machine(dump, level, environment, tmp_path, request):
    path = request.getfixturevalue(dump)
    assert "machine         demo64" in run_ok("info", path, env=environment).stdout
    run_ok("-l", "-d", level, path, tmp_path / "out", env=environment)
    out = open_dump(tmp_path / "out")
    assert dict(out.contents()) == PAGES
    assert out.utsname["machine"] == "demo64"
    run_ok("-E", "-d", level, path, tmp_path / "out.elf", env=environment)
    elf = open_dump(tmp_path / "out.elf")
    assert elf.machine == EM_DEMO
    assert all(elf.page(pfn) == PAGES[pfn] for pfn in range(1, 9))


WITH_CODEC = """
import sys, npdump
source, packed, unpacked = sys.argv[1:]
with npdump.open(source) as dump:
    dump.write(packed, codec="bzip2")
with npdump.open(packed) as dump:
    print(dump.info.codec, dump.info.n_data)
    dump.write(unpacked, codec="raw")
"""


def test_a_codec(kdump_dump, environment, tmp_path):
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    python = [sys.executable]
    result = run_ok("-c", WITH_CODEC, kdump_dump, packed, unpacked, command=python, env=environment)
    assert result.stdout == "bzip2 9\n"
    # The one zero page is stored as it is.
    assert set(open_dump(packed).descriptors["flags"].tolist()) == {0, 0x40}
    assert dict(open_dump(unpacked).contents()) == PAGES
    assert "bzip2" in run_ok("--version", env=environment).stdout


def test_a_source_and_a_writer(kdump_dump, environment, tmp_path):
    plain, again = tmp_path / "plain", tmp_path / "again"
    write = "import sys, npdump; npdump.open(sys.argv[1]).write(sys.argv[2], format='plain')"
    run_ok("-c", write, kdump_dump, plain, command=[sys.executable], env=environment)
    assert plain.read_bytes()[2 * PAGE :] == b"".join(PAGES[pfn] for pfn in range(1, 10))
    assert "plain pages" in run_ok("info", plain, env=environment).stdout
    run_ok("-l", "-d", "0", plain, again, env=environment)
    assert dict(open_dump(again).contents()) == PAGES | {0: bytes(PAGE)}
