# SPDX-License-Identifier: GPL-2.0-or-later
"""One dump by npdump against the reference of what upstream makedumpfile keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.harness import CODEC_FLAGS, Reference, run_ok
from tests.readers import ElfDump, open_dump
from tests.readers.compare import content_digest, difference, pfn_digest
from tests.readers.validate import X86_64, Machine, problems
from tests.scanning import opened

if TYPE_CHECKING:
    from pathlib import Path


def check_level(
    vmcore: Path,
    reference: Reference,
    level: int,
    directory: Path,
    codec: str = "lzo",
    machine: Machine = X86_64,
) -> None:
    """Kept pages and bitmap 1 are the reference's, and the pages' bytes where the reference has their digest."""
    path = directory / "dump"
    flags = [CODEC_FLAGS[codec]] if CODEC_FLAGS[codec] else []
    run_ok("-f", *flags, "-d", str(level), vmcore, path)
    assert problems(path, machine=machine) == []
    dump, wanted = open_dump(path), reference.levels[level]
    assert difference(dump.bitmap2, reference.kept(level)) == ""
    assert difference(dump.bitmap1, reference.bitmap1) == ""
    assert len(dump.kept) == wanted["pages"]
    assert pfn_digest(dump.kept) == wanted["bitmap2"]
    if "content" in wanted:
        assert content_digest(dump.contents()) == wanted["content"]
    path.unlink()


def check_all_levels(vmcore: Path, reference: Reference) -> None:
    """At each of the 32 levels the scan's kept pages and RAM are the reference's, and there is no doubt about any."""
    with opened(vmcore) as scanner:
        for level in range(32):
            scanned = scanner.scan(level)
            assert difference(scanned.kept, reference.kept(level)) == "", f"level {level}"
            assert difference(scanned.ram, reference.bitmap1) == "", f"bitmap 1 at level {level}"
    assert scanner.said == []


def check_elf(vmcore: Path, reference: Reference, level: int, directory: Path) -> None:
    """An ELF dump has the bytes of every page that the reference keeps."""
    path = directory / "dump"
    run_ok("-f", "-E", "-d", str(level), vmcore, path)
    assert problems(path) == []
    dump = open_dump(path)
    kept = reference.kept(level).nonzero()[0].tolist()
    if "content" in reference.levels[level]:
        assert content_digest((pfn, dump.page(pfn)) for pfn in kept) == reference.levels[level]["content"]
    missing = set(kept) - set(dump.kept.tolist())
    source = ElfDump(vmcore)
    assert [pfn for pfn in missing if any(source.page(pfn))] == []
    path.unlink()
