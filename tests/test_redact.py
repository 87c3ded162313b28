# SPDX-License-Identifier: GPL-2.0-or-later
"""Redacting: what the rules find in a real dump, what becomes of it, and what is said where they find nothing."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

import npdump
from npdump import redact
from npdump.errors import ConfigError, FactError
from npdump.kernel.objects import Crashed
from npdump.observer import SILENT, Recorder
from tests.readers import open_dump

PAGE_SIZE = 4096
FREE_OBJECTS, OBJECTS = 7736, 70502
"""Of x86_64-6.1-256M by crash (``kmem -s``: TOTAL without ALLOCATED, TOTAL) and by drgn, cache by cache the same."""


@pytest.fixture(scope="module")
def made(corpus_vmcore, tmp_path_factory):
    """A dump at level 31, a redacted one without the log's text, and the rules' results."""
    vmcore = corpus_vmcore("x86_64-6.1-256M")
    folder = tmp_path_factory.mktemp("redact")
    with npdump.open(vmcore) as dump:
        found = dump.redaction(optional=["log"], strict=True)
        report = found.report(dump.source, found.plan())
        dump.write(folder / "redacted", level=31, redaction=found)
        dump.write(folder / "plain", level=31)
        free = redact.Ground(Crashed(dump.names, SILENT), dump.source).survey.n_free
    return folder, found, report, free


@pytest.fixture(scope="module")
def corpus_vmcore():
    """Return vmcores of the corpus by name."""
    from tests import harness

    if harness.find_corpus() is None:
        pytest.skip("no directory of further vmcores (NPDUMP_CORPUS)")
    return harness.corpus_vmcore


def test_free_objects_are_those_of_crash_and_drgn(made):
    assert made[3] == FREE_OBJECTS


def test_pages_differ_in_erased_bytes_alone_and_the_report_has_their_digests(made):
    folder, found, report, _ = made
    plain, redacted = open_dump(folder / "plain"), open_dump(folder / "redacted")
    kept = plain.kept.tolist()
    assert redacted.kept.tolist() == kept
    is_erased = np.zeros(max(kept) + 1 << 12, np.bool_)
    for one in found.applied:
        for start, stop in one.runs.tolist():
            is_erased[start:stop] = True
    n_erased = 0
    for pfn in kept:
        mask = is_erased[pfn << 12 : pfn + 1 << 12]
        before, after = (np.frombuffer(dump.page(pfn), np.uint8) for dump in (plain, redacted))
        assert (after == np.where(mask, ord("X"), before)).all(), hex(pfn)
        n_erased += int(mask.sum())
    assert n_erased > 3_000_000
    in_dump = set(kept)
    for row in report:
        pfns = [pfn for start, stop in row["pfn_ranges"] for pfn in range(start, stop)]
        if row["is_applied"] and set(pfns) <= in_dump:
            for key, dump in (("digest_before", plain), ("digest_after", redacted)):
                assert row[key] == hashlib.sha256(b"".join(dump.page(pfn) for pfn in pfns)).hexdigest()


def test_the_dump_says_what_was_erased(made):
    with npdump.open(made[0] / "redacted") as dump:
        lines = dump.source.history.eraseinfo.decode().splitlines()
        assert dump.log().records[0].text == b"X" * len(dump.log().records[0].text)
    with npdump.open(made[0] / "plain") as dump:
        n = len(dump.log().records)
    with npdump.open(made[0] / "redacted") as dump:
        assert len(dump.log().records) == n
    assert "erase redact:terminals size 17824" in lines
    assert "erase redact:free_pages size 507904" in lines


def test_what_a_kernel_does_not_tell_is_named_rule_by_rule(corpus_vmcore, npdump, tmp_path):
    vmcore = corpus_vmcore("arm64-6.1-512M")  # without BTF, and without a table of variables
    result = npdump("redact", "--dry-run", "--json", vmcore)
    assert result.returncode == 0
    rows = json.loads(result.stdout)["rules"]
    assert {row["rule"] for row in rows} == set(redact.rules())
    for row in rows:
        assert not row["is_applied"]
        assert f"rule {row['rule']} ({row['what']}) could not be carried out: {row['missed']}" in result.stderr
    out = tmp_path / "out"
    result = npdump("redact", "--strict", vmcore, out)
    assert (result.returncode, out.exists()) == (1, False)
    assert "as --strict asks" in result.stderr


def test_options_that_make_no_sense_are_refused(npdump):
    for arguments in (["-d", "1"], ["--json", "-F"], ["--reassemble", "part"]):
        result = npdump("redact", *arguments, "vmcore", "out")
        assert result.returncode == 1
        assert "npdump redact with" in result.stderr
    assert "--erase-log: belongs to npdump redact" in npdump("--erase-log", "vmcore", "out").stderr


def test_a_rule_that_fails_is_said_and_costs_no_other(made, monkeypatch, corpus_vmcore):
    from npdump.redact import keyrings

    def fails(ground):
        yield ground.kernel.symbol("init_uts_ns"), 8
        raise FactError("nothing tells")

    monkeypatch.setattr(keyrings, "erase", fails)
    monkeypatch.setattr(redact, "rules", lambda optional: ["keyrings", "log"])
    with npdump.open(corpus_vmcore("x86_64-6.1-256M")) as dump:
        recorder = Recorder()
        keys, log = dump.redaction(observer=recorder).applied
        assert (keys.missed, log.missed) == ("nothing tells", None)
        assert int((keys.runs[:, 1] - keys.runs[:, 0]).sum()) == 8
        (said,) = recorder.warnings
        assert said.startswith("rule keyrings (payloads of keys) could not be carried out wholly: nothing tells")
        with pytest.raises(ConfigError, match="as --strict asks"):
            dump.redaction(strict=True)


def test_words_in_frames_stay_that_are_addresses_or_small():
    from npdump.redact.stacks import _is_foreign

    class Memory:
        space = type("Space", (), {"lowest_vaddr": 0xFF00000000000000})

        def paddrs(self, vaddrs):
            return vaddrs, vaddrs != 0xFF12345678123456  # that one isn't mapped

    minus_one = (1 << 64) - 1
    kept = [0, 5, minus_one, 0xFFFF888012345678, 0xFFFFFFFF81000000, 1 << 32]
    foreign = [0x6472777373617068, 0x00007F1234567890, 0xFF12345678123456]
    found = _is_foreign(np.array(kept + foreign, np.uint64), Memory())
    assert found.tolist() == [False] * len(kept) + [True] * len(foreign)
