# SPDX-License-Identifier: GPL-2.0-or-later
"""What crashed, as logs of several machines tell it, and the page that reports it."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import npdump
from npdump.answers.crash import find_crash
from npdump.kernel.crash import _panic_task_by_notes as by_notes
from npdump.pages.colors import COLORS
from npdump.pages.html import png
from npdump.pages.kinds import PageKind
from npdump.report import make_report
from npdump.sources._notes import cpu_pids
from tests import harness
from tests.readers import ElfDump
from tests.sweep.changes import Change
from tests.sweep.dumps import Altered

X86 = """sysrq: Trigger a crash
BUG: unable to handle page fault for address: ffffffffc0a1b2c3
#PF: supervisor write access in kernel mode
Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: 3 PID: 1234 Comm: sh Not tainted 6.1.0 #1
RIP: 0010:break_it+0x1c/0x30 [broken]
Code: 00 00
Call Trace:
 <TASK>
 ? page_fault_oops+0xd2/0x2b0
 do_one.isra.0+0x40/0x110
 entry+0x6e/0xd8
 </TASK>
Kernel panic - not syncing: Fatal exception"""

ARM64 = """Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000
CPU: 1 PID: 77 Comm: sh Not tainted 6.1.0
pc : break_it+0x1c/0x30 [broken]
lr : do_one+0x40/0x110
x29: ffff800008a3bd60
Call trace:
 break_it+0x1c/0x30 [broken]
 do_one+0x40/0x110
Kernel panic - not syncing: Oops: Fatal exception"""

PPC64 = """Kernel panic - not syncing: sysrq triggered crash
Call Trace:
[c000000003a138d0] [c000000000d8b46c] dump_stack_lvl+0x70/0xa0 (unreliable)
[c000000003a13900] [c000000000137dd8] panic+0x16c/0x444
[c000000003a13990] [c0000000008e5c68] sysrq_handle_crash+0x28/0x30
--- interrupt: 3000 at 0x100c4180"""


def crash_of(text):
    return find_crash([line.encode() for line in text.split("\n")])


@pytest.mark.parametrize(
    ("text", "reason", "frames"),
    [
        (X86, "BUG: unable to handle page fault for address: ffffffffc0a1b2c3", ("break_it", "do_one", "entry")),
        (
            ARM64,
            "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
            ("break_it", "do_one"),
        ),
        (PPC64, "Kernel panic - not syncing: sysrq triggered crash", ("sysrq_handle_crash",)),
    ],
)
def test_the_reason_and_its_functions(text, reason, frames):
    crash = crash_of(text)
    assert (crash.reason, crash.frames) == (reason, frames)
    assert [text.split("\n")[i].count("+0x") for i in crash.trace_lines] == [1] * len(crash.trace_lines)


def test_the_signature_is_that_of_the_crash_alone():
    signature = crash_of(X86).signature
    moved = X86.replace("ffffffffc0a1b2c3", "ffffffff91234567").replace("CPU: 3 PID: 1234", "CPU: 0 PID: 9")
    assert crash_of(moved).signature == signature
    assert crash_of("first\nWARNING: something\nCall Trace:\n other+0x1/0x2\n\n" + X86).signature == signature
    assert crash_of(X86.replace("? page_fault_oops", "? stale")).signature == signature
    assert crash_of(X86.replace("do_one", "do_two")).signature != signature
    assert crash_of(X86.replace("page fault", "page-fault")).signature != signature
    assert crash_of("all is well\nnothing happened") is None


class _Page(HTMLParser):
    """Notes the tags, and what would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def vmcore():
    return harness.distilled_vmcore("x86_64-6.1")


def test_a_report_is_one_page_that_fetches_nothing(vmcore, tmp_path, npdump):
    path = tmp_path / "report.html"
    assert npdump("report", vmcore, path).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    page = _Page(path.read_text())
    assert not {"script", "link", "iframe", "object"} & {*page.tags}
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    text = " ".join(page.text)
    assert "Kernel panic - not syncing: sysrq triggered crash" in text
    assert "sysrq_handle_crash" in text
    refused = npdump("report", vmcore, path)
    assert refused.returncode == 1
    assert "exist" in refused.stderr


def test_nothing_in_a_log_becomes_markup(vmcore, tmp_path):
    at = ElfDump(vmcore).data.find(b"EXT4-fs (vda): mounted filesystem")
    altered = harness.sparse_copy(vmcore, tmp_path / "altered", {at: b"<script>alert(1)</script>"})
    with npdump.open(altered) as dump:
        page = make_report(dump)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_png_has_the_points_that_it_was_made_of(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    kinds = np.array([[1, 2, 0], [12, 9, 5]], np.uint8)
    path = tmp_path / "kinds.png"
    path.write_bytes(png(kinds))
    shown = (image.imread(path) * 255).round().astype(int)
    for row, col in ((0, 0), (0, 1), (1, 0), (1, 2)):
        color = COLORS[PageKind(int(kinds[row, col]))]
        assert shown[row, col, :3].tolist() == [int(part, 16) for part in re.findall("..", color[1:])]
    assert shown[0, 2, 3] == 0


@pytest.mark.parametrize(("name", "pids"), [("x86_64-6.1", [1, 0]), ("machines/riscv64-6.12", [0, 1])])
def test_the_task_that_panicked_by_the_notes_of_the_cpus(name, pids) -> None:
    """The log of these kernels says that init, PID 1, panicked, on CPU 0 and on CPU 1; the other one was idle."""
    with npdump.open(harness.distilled_vmcore(name)) as dump:
        assert cpu_pids(dump.source.notes, 64, "<") == pids
    kernel: Any = SimpleNamespace(memory=SimpleNamespace(read_u32={0x1000: pids.index(1)}.__getitem__))
    assert by_notes(kernel, {"panic_cpu": 0x1000}, pids) == f"PID 1, on CPU {pids.index(1)}"
    assert by_notes(kernel, {}, pids) is None
    assert by_notes(kernel, {}, [7]) == "PID 7, on CPU 0"
    assert by_notes(kernel, {"panic_cpu": 0x1000}, []) is None


@pytest.mark.parametrize("name", harness.corpus_names("riscv64-") + harness.corpus_names("x86_64-6.1"))
def test_the_task_that_panicked_where_there_is_no_log(name, tmp_path) -> None:
    with npdump.open(harness.corpus_vmcore(name)) as dump:
        told = dump.info.panic_task
    altered = Altered(harness.corpus_vmcore(name), tmp_path)
    altered.change(Change("SYMBOL(prb)", None, "removed"))
    with npdump.open(altered.path) as dump:
        assert f"init, {dump.info.panic_task}" == told
