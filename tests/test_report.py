# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages, progress and the report."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from npdump import observer
from npdump.cli import report
from npdump.cli.report import Reporter, format_progress
from npdump.cli.summary import as_json, as_text
from npdump.observer import Recorder
from npdump.summary import Summary


class Clock:
    """Stands in for the time module: moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(report, "sys", SimpleNamespace(stdout=sys.stdout, stderr=terminal))
    monkeypatch.setenv("TERM", "linux")
    return terminal


@pytest.mark.parametrize("level", range(32))
def test_each_kind_of_text_has_its_bit(level: int, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(level)
    reporter.message("common")
    reporter.error("wrong")
    reporter.warn("doubtful")
    reporter.debug("detail")
    reporter.report("number")
    reporter.progress("Copying data", 1, 1)
    out, err = capsys.readouterr()
    assert ("common\n" in out) == bool(level & 2)
    assert ("npdump: wrong\n" in err) == ("npdump: warning: doubtful\n" in err) == bool(level & 4)
    assert ("detail\n" in out) == bool(level & 8)
    assert ("number\n" in out) == bool(level & 16)
    assert ("Copying data" in err) == bool(level & 1)
    assert "wrong" not in out
    assert "common" not in err


def test_the_standard_output_can_be_kept_for_data(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(31, messages_to_stderr=True)
    reporter.message("common")
    reporter.debug("detail")
    reporter.report("number")
    assert capsys.readouterr() == ("", "common\ndetail\nnumber\n")


def test_an_error_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(7).error("a\nb\x1b[31m\udcff é: cannot be opened")
    assert capsys.readouterr().err == "npdump: a\\nb\\x1b[31m\\udcff é: cannot be opened\n"


def test_a_name_that_is_no_text_can_be_printed() -> None:
    code = r"from npdump.cli.report import Reporter; Reporter(7).message('saved to \udcff\u00e9')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout == b"saved to \\udcff\\xe9\n"


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_standard_error_that_takes_nothing_is_no_failure(redirection: str) -> None:
    code = (
        "from npdump.cli.report import Reporter as R; r = R(7); r.error('x'); r.progress('y', 1, 2); r.message('done')"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, code], stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"done\n"


@pytest.mark.parametrize("name", ["message", "report", "answer", "debug", "error", "warn"])
def test_nothing_reaches_a_terminal_that_it_would_obey(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences, carriage returns, C1 controls and marks that reverse the direction; text stays text."""
    getattr(Reporter(31), name)("6.1\x1b[2J\x1b]0;title\x07\r\v\f\b\x7f\x9b31m\u202e\tgr\u00fcn")
    out, err = capsys.readouterr()
    shown = (out + err).rstrip("\n")
    assert shown.endswith(r"6.1\x1b[2J\x1b]0;title\x07\r\x0b\x0c\x08\x7f\x9b31m\u202e" + "\tgr\u00fcn")


def test_a_full_standard_output_is_a_warning() -> None:
    code = "from npdump.cli.report import Reporter; r = Reporter(7); r.message('saved'); r.message('completed')"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" >/dev/full', sys.executable, code],
        stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.startswith("npdump: warning: standard output: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "start", "end"),
    [
        (("Checking for memory holes", 0, 0.0, "/"), "Checking for memory holes  ", "  : [  0.0 %] /"),
        (("Copying data", 716, 0.2, "\\"), "Copying data      ", "  : [ 71.6 %] \\     eta: 0s"),
        (("Copying data", 1000, 0.3, "-"), "Copying data      ", "  : [100.0 %] -     eta: 0s"),
    ],
)
def test_the_progress_line_is_makedumpfiles(arguments: tuple[str, int, float, str], start: str, end: str) -> None:
    """As makedumpfile 1.7.9 printed them, with less room for the name and for the time left."""
    line = format_progress(*arguments)
    assert line.startswith(start)
    assert line.rstrip().endswith(end)
    assert line.index(":") == 28


@pytest.mark.parametrize("nbytes", [0, 1, 1 << 20, 1023 << 20, 999 << 30, 1 << 50, (1 << 64) - 1])
@pytest.mark.parametrize("stage", ["Copying data", "Excluding unnecessary pages"])
@pytest.mark.parametrize("seconds", [0.1, 1.0, 3e4, 1e6])
def test_the_progress_line_fits_a_terminal(stage: str, seconds: float, nbytes: int) -> None:
    """With 80 columns, writing to the last one breaks the line on some terminals."""
    assert max(len(format_progress(stage, promille, seconds, "/", nbytes)) for promille in range(1001)) < 80


def test_the_progress_line_has_amount_and_rate() -> None:
    assert format_progress("Copying data", 500, 2.0, "/", 3 << 30).endswith(" 3.0 GiB 1.5 GiB/s")


@pytest.mark.parametrize(
    ("seconds_left", "eta"),
    [(99, "99s"), (100, "1m40s"), (5999, "99m59s"), (6000, "1h40m"), (47 * 3600 + 59 * 60, "47h59m"),
     (48 * 3600, "2d0h"), (100 * 86400 - 1, "99d23h"), (100 * 86400, ">100day")],
)  # fmt: skip
def test_time_left(seconds_left: int, eta: str) -> None:
    assert format_progress("", 500, seconds_left, "/").rstrip().endswith(f" eta: {eta}")


def test_progress_rewrites_a_terminals_line_once_a_second(clock: Clock, terminal: Terminal) -> None:
    reporter = Reporter(7)
    for done in range(100):  # 10 s
        reporter.progress("Copying data", done, 100)
        clock.now += 0.1
    reporter.progress("Copying data", 100, 100)
    lines = terminal.getvalue().split("\r")
    assert lines[0] == ""
    assert "\n" not in terminal.getvalue()
    percents = [float(re.search(r"\[ *([0-9.]+) %\]", line)[1]) for line in lines[1:]]
    assert percents[0] == 0
    assert percents[-1] == 100
    assert 10 <= len(percents) <= 12


def test_a_message_does_not_continue_the_progress_line(
    clock: Clock, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = Reporter(7)
    reporter.progress("Copying data", 1, 4)
    reporter.error("disk full")
    reporter.error("again")
    assert terminal.getvalue().endswith("\nnpdump: disk full\nnpdump: again\n")


@pytest.mark.parametrize("term", ["dumb", None])
def test_progress_in_a_log_is_a_few_lines(
    term: str | None, clock: Clock, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if term is None:
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    else:
        monkeypatch.setenv("TERM", term)
    reporter = Reporter(7)
    for done in range(1000):  # 100 s
        reporter.progress("Copying data", done, 1000)
        clock.now += 0.1
    reporter.progress("Copying data", 1000, 1000)
    lines = terminal.getvalue().splitlines()
    assert "\r" not in terminal.getvalue()
    assert "[  0.0 %]" in lines[0]
    assert "[100.0 %]" in lines[-1]
    assert 15 <= len(lines) <= 25
    assert all(line.startswith("Copying data   ") for line in lines)


def test_a_stage_with_nothing_to_do_is_done(clock: Clock, terminal: Terminal) -> None:
    Reporter(7).progress("Copying data", 0, 0)
    assert "[100.0 %]" in terminal.getvalue()


def test_stages_are_measured(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(8)
    with reporter.stage("Copying data"):
        clock.now += 0.5
    with pytest.raises(KeyError), reporter.stage("Copying data"):  # noqa: PT012
        clock.now += 0.25
        raise KeyError
    assert capsys.readouterr().out.splitlines() == [
        "STEP [Copying data               ] : 0.500000 seconds",
        "STEP [Copying data               ] : 0.250000 seconds",
    ]


def test_seconds_of_a_stage_add_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "time", clock)
    recorder = Recorder()
    with recorder.stage("Copying data"):
        clock.now += 0.5
    with pytest.raises(KeyError), recorder.stage("Copying data"):  # noqa: PT012
        clock.now += 0.25
        raise KeyError
    assert recorder.seconds_by_stage == {"Copying data": 0.75}


# What makedumpfile 1.7.9 printed for two runs on a vmcore of Linux 6.1, as far as its cache statistics.
LZO_REPORT = """
Original pages  : 0x000000000000c70a
  Excluded pages   : 0x000000000000676e
    Pages filled with zero  : 0x0000000000000b89
    Non-private cache pages : 0x0000000000001ca5
    Private cache pages     : 0x0000000000000150
    User process data pages : 0x0000000000002e1b
    Free pages              : 0x00000000000007d5
    Hwpoison pages          : 0x0000000000000000
    Offline pages           : 0x0000000000000800
    Extension filter pages  : 0x0000000000000000
  Remaining pages  : 0x0000000000005f9c
  (The number of pages is reduced to 48%.)
Memory Hole     : 0x00000000000038d0
--------------------------------------------------
Total pages     : 0x000000000000ffda
Write bytes     : 21872348
"""
ELF_REPORT = """
Original pages  : 0x000000000000c70a
  Excluded pages   : 0x000000000000738a
     in ELF format : 0x00000000000066ce
    Pages filled with zero  : 0x0000000000000f20
    Non-private cache pages : 0x0000000000002237
    Private cache pages     : 0x0000000000000164
    User process data pages : 0x0000000000002f14
    Free pages              : 0x0000000000000848
    Hwpoison pages          : 0x0000000000000000
    Offline pages           : 0x0000000000000973
    Extension filter pages  : 0x0000000000000000
  Remaining pages  : 0x0000000000005380
     in ELF format : 0x000000000000603c
  (The number of pages is reduced to 48%.)
Memory Hole     : 0x00000000000038d0
--------------------------------------------------
Total pages     : 0x000000000000ffda
Write bytes     : 100915472
"""
LZO = Summary(
    max_mapnr=0xFFDA, n_ram=0xC70A, n_zero=0xB89, n_cache=0x1CA5, n_cache_private=0x150, n_user=0x2E1B, n_free=0x7D5,
    n_offline=0x800, written_nbytes=21872348, seconds_by_stage={"Copying data": 0.25},
)  # fmt: skip
ELF = Summary(
    max_mapnr=0xFFDA, n_ram=0xC70A, n_zero=0xF20, n_cache=0x2237, n_cache_private=0x164, n_user=0x2F14, n_free=0x848,
    n_offline=0x973, n_elf_excluded=0x66CE, written_nbytes=100915472,
)  # fmt: skip


@pytest.mark.parametrize(("summary", "text"), [(LZO, LZO_REPORT), (ELF, ELF_REPORT)])
def test_the_report_is_makedumpfiles(summary: Summary, text: str) -> None:
    assert as_text(summary) == text


def test_the_report_of_an_empty_dump_has_no_percentage() -> None:
    text = as_text(Summary(max_mapnr=0, n_ram=0))
    assert "reduced" not in text
    assert "Remaining pages  : 0x0000000000000000\n" in text


def test_the_report_as_json() -> None:
    read = json.loads(as_json(replace(ELF, dump_level=31, machine="x86_64")))
    assert read["dump_level"] == 31
    assert read["machine"] == "x86_64"
    assert read["n_remaining"] == 0x5380
    assert read["n_excluded"] == 0x738A
    assert read["n_elf_remaining"] == 0x603C
    assert read["n_hole"] == 0x38D0
    assert read["written_nbytes"] == 100915472
    assert json.loads(as_json(LZO))["seconds_by_stage"] == {"Copying data": 0.25}
