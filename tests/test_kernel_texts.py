# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VMCOREINFO text is used, where the note is useless or there are several."""

from __future__ import annotations

import json
import re

import pytest

from tests import harness
from tests.readers import open_dump
from tests.sweep.changes import Change
from tests.sweep.dumps import Altered, vmcoreinfo_of

NAME, OTHER = "x86_64-6.12", "x86_64-7.2"


class OtherNote(Altered):
    """A copy of a dump with another text in its note; that in the kernel's memory stays."""

    def __init__(self, directory, text):
        super().__init__(harness.distilled_vmcore(NAME), directory)
        self._in_memory = []
        self._note_text = text
        self.change(Change("NOTHING", None, "test"))


def moved(text):
    """The same with the kernel a little beside where it is."""
    return re.sub(r"SYMBOL\(init_uts_ns\)=(\w+)", lambda m: f"SYMBOL(init_uts_ns)={int(m[1], 16) + 4096:x}", text)


NOTES = {
    "empty": lambda text: "",
    "zeros": lambda text: "\0" * 2000,
    "something else": lambda text: "a text of another type\n" * 50,
    "a few keys": lambda text: text[:100] + "\n",
    "of another kernel": lambda text: vmcoreinfo_of(harness.distilled_vmcore(OTHER)),
    "its symbols are elsewhere": moved,
    "its page tables are elsewhere": lambda text: re.sub(r"(init_top_pgt\)=\w+)....", r"\g<1>8000", text),
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What stays of the dump as it is."""
    path = tmp_path_factory.mktemp("wanted") / "dump"
    harness.run_ok("-l", "-d31", harness.distilled_vmcore(NAME), path)
    return open_dump(path).bitmap2


@pytest.mark.parametrize("kind", NOTES)
def test_a_useless_note_does_not_hide_the_text_in_memory(kind, wanted, tmp_path):
    text = vmcoreinfo_of(harness.distilled_vmcore(NAME))
    vmcore = OtherNote(tmp_path, NOTES[kind](text)).path
    result = harness.run_ok("-l", "-d31", vmcore, tmp_path / "dump")
    dump = open_dump(tmp_path / "dump")
    assert (dump.bitmap2 == wanted).all()
    assert b"OSRELEASE=6.12" in dump.vmcoreinfo
    if kind in ("of another kernel", "its symbols are elsewhere", "its page tables are elsewhere"):
        assert "leads to no kernel in its memory: that of memory at 0x1946000 does" in result.stderr


def test_a_text_is_chosen_by_hand(wanted, tmp_path):
    vmcore = harness.distilled_vmcore(NAME)
    for number, at in enumerate(("1", "2", "0x1946000")):
        path = tmp_path / f"dump{number}"
        harness.run_ok("-l", "-d31", "--vmcoreinfo-at", at, vmcore, path)
        assert (open_dump(path).bitmap2 == wanted).all()
        # The time of the crash is in the note alone.
        assert (b"CRASHTIME=" in open_dump(path).vmcoreinfo) == (at == "1")
    for at in ("7", "0x2000000"):
        result = harness.run("-l", "-d31", "--vmcoreinfo-at", at, vmcore, tmp_path / "none")
        assert result.returncode == 1
        assert "has no VMCOREINFO" in result.stderr
        assert not (tmp_path / "none").exists()


def test_info_names_all_texts(tmp_path):
    vmcore = OtherNote(tmp_path, vmcoreinfo_of(harness.distilled_vmcore(OTHER))).path
    told = harness.run_ok("info", "--verbose", vmcore).stdout
    assert "vmcoreinfo      1: VMCOREINFO note 1, of 7.2" in told
    assert "2: memory at 0x1946000, of 6.12.95+deb12-cloud-amd64, leads to a kernel" in told
    texts = json.loads(harness.run_ok("info", "--verbose", "--json", vmcore).stdout)["vmcoreinfo_texts"]
    assert [text["fits"] for text in texts] == [False, True]


def test_a_file_overrides_what_the_dump_says(wanted, tmp_path):
    text = vmcoreinfo_of(harness.distilled_vmcore(NAME))
    (tmp_path / "info").write_text(text)
    changed = re.sub(r"PAGE_BUDDY_MAPCOUNT_VALUE\)=-?\d+", "PAGE_BUDDY_MAPCOUNT_VALUE)=-234881024", text)
    vmcore = OtherNote(tmp_path, changed).path
    result = harness.run_ok("-l", "-d31", "-i", tmp_path / "info", "--override", vmcore, tmp_path / "dump")
    assert (open_dump(tmp_path / "dump").bitmap2 == wanted).all()
    assert "PAGE_BUDDY_MAPCOUNT_VALUE" in result.stderr
    harness.run("-l", "-d31", "-i", tmp_path / "info", vmcore, tmp_path / "without")
    assert not (open_dump(tmp_path / "without").bitmap2 == wanted).all()


def test_a_file_of_another_kernel_does_not_override(tmp_path):
    (tmp_path / "info").write_text(vmcoreinfo_of(harness.distilled_vmcore(OTHER)))
    vmcore = harness.distilled_vmcore(NAME)
    result = harness.run("-l", "-d31", "-i", tmp_path / "info", "--override", vmcore, tmp_path / "dump")
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
