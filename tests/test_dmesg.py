# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log of every generation, whole, wrapped, cut short and damaged, from memory that the tests built."""

from __future__ import annotations

import struct
import subprocess

import pytest

from tests import harness, peers
from tests.builders import logs
from tests.builders.logs import COMMITTED, CPU, FAILED_LPOS, NO_LPOS, RESERVED, REUSABLE, Entry, Message
from tests.builders.old import KERNEL_MAP, OldKernel, build


def lines(n, caller=0):
    return [Message(b"message %d " % i + b"x" * (i * 7 % 50), i * 1_500_000_000, caller) for i in range(n)]


def shown(messages, has_caller=False):
    text = ""
    for message in messages:
        seconds, rest = divmod(message.nanoseconds, 1_000_000_000)
        caller = f"{'C' if message.caller & CPU else 'T'}{message.caller & ~CPU}"
        prefix = f"[{seconds:5d}.{rest // 1000:06d}] " + (f"[{caller:>8}] " if has_caller else "")
        text += prefix + message.text.decode() + "\n"
    return text


RING = "".join(f"<6>line {i}\n" for i in range(300)).encode()
ODD = Message(b"bell \x07, high \xe4\ntab\t, second line", 90_061_000_001_999, 5)
ODD_TEXT = "[90061.000001] bell \\x07, high \\xe4\n" + " " * 15 + "tab\t, second line\n"


def kernel_with(make, release="3.16.0"):
    return OldKernel(release, physmem_bits=46, extra=make)


#: What makes the log; the text that it holds; and what is left after it was cleared, if that's something else.
LOGS = {
    "characters": (lambda image: logs.characters(image, RING, 1 << 14), RING.decode(), None),
    "characters, full to the last": (
        lambda image: logs.characters(image, RING[:1024], 1024),
        RING[:1024].decode(),
        None,
    ),
    "characters, wrapped": (lambda image: logs.characters(image, RING, 1024), RING[-1024:].decode(), None),
    "records": (
        lambda image: logs.records(image, [*lines(20), ODD], 1 << 12, "log", n_cleared=18),
        shown(lines(20)) + ODD_TEXT,
        shown(lines(20)[18:]) + ODD_TEXT,
    ),
    "records, wrapped": (
        lambda image: logs.records(image, lines(60), 1 << 11, "printk_log", n_cleared=58),
        shown(lines(60)[22:]),
        shown(lines(60)[58:]),
    ),
    "records with callers": (
        lambda image: logs.records(image, [*lines(5, 77), *lines(5, CPU | 3)], 1 << 12, "printk_log", True),
        shown([*lines(5, 77), *lines(5, CPU | 3)], True),
        None,
    ),
    "lockless": (
        lambda image: logs.lockless(image, [Entry(message) for message in lines(12)], 4, 12, clear_seq=10),
        shown(lines(12), True),
        shown(lines(12)[10:], True),
    ),
    "lockless, wrapped text and identifiers": (
        # 40 records in a ring of 16, with identifiers that pass the end of their 62 bits; one block crosses the end.
        lambda image: logs.lockless(image, [Entry(message) for message in lines(40)], 4, 10, logs.ID_MASK - 30, 35),
        shown(lines(40)[24:], True),
        shown(lines(40)[35:], True),
    ),
    "lockless, some that don't count": (
        lambda image: logs.lockless(
            image,
            [
                Entry(Message(b"committed", 1000, CPU | 2), COMMITTED),
                Entry(Message(b"being written", 2000), RESERVED),
                Entry(Message(b"to be reused", 3000), REUSABLE),
                Entry(Message(b"", 4000), lpos=FAILED_LPOS),
                Entry(Message(b"last", 5000, 9)),
            ],
            4,
            12,
        ),
        "[    0.000001] [      C2] committed\n[    0.000005] [      T9] last\n",
        None,
    ),
}


@pytest.fixture(scope="module", params=LOGS)
def built(request, tmp_path_factory):
    make, whole, partial = LOGS[request.param]
    release = "2.6.32" if "characters" in request.param else "3.16.0"
    return build(tmp_path_factory.mktemp("log") / "vmcore", kernel_with(make, release)), whole, partial


def test_log(built):
    vmcore, whole, partial = built
    assert harness.run_ok("--dump-dmesg", vmcore.path).stdout == whole
    if partial is not None:
        assert harness.run_ok("--partial-dmesg", vmcore.path).stdout == partial


def test_makedumpfile_prints_the_same(built, tmp_path):
    vmcore, whole, partial = built
    if peers.makedumpfile_version() < (1, 7, 6, 0):
        pytest.skip("makedumpfile prints callers since 1.7.6")
    if whole == RING[:1024].decode():
        pytest.skip("makedumpfile can't read a ring of characters that is exactly full")
    for options, wanted in ((["--dump-dmesg"], whole), (["--dump-dmesg", "--partial-dmesg"], partial)):
        # It reckons where a cleared lockless log begins, which is wrong unless the first record's identifier is 0.
        if wanted is not None and not (len(options) == 2 and "SYMBOL(prb)" in vmcore.keys):
            peers.run_makedumpfile(peers.makedumpfile_for("3.16"), *options, vmcore.path, tmp_path / "log", "-f")
            # It extends the sign of what no terminal can show.
            assert (tmp_path / "log").read_text().replace("\\xffffff", "\\x") == wanted


def test_an_empty_line_is_a_line(tmp_path):
    """makedumpfile leaves it out."""
    entries = [Entry(Message(b"above")), Entry(Message(b"", 1000), lpos=NO_LPOS), Entry(Message(b"below", 2000))]
    vmcore = build(tmp_path / "vmcore", kernel_with(lambda image: logs.lockless(image, entries, 4, 12)))
    wanted = "[    0.000000] [      T0] above\n[    0.000001] [      T0] \n[    0.000002] [      T0] below\n"
    assert harness.run_ok("--dump-dmesg", vmcore.path).stdout == wanted


def poke(name, data, at=0, behind=False):
    """Write into a variable of the built kernel, or into what it points to."""

    def spoil(image):
        paddr = image.keys[f"SYMBOL({name})"] - KERNEL_MAP
        if behind:
            paddr = struct.unpack("<Q", image.memory.read(paddr, 8))[0] - KERNEL_MAP
        image.memory.write(paddr + at, data)

    return spoil


def records_with(spoil):
    def make(image):
        logs.records(image, lines(20), 1 << 12, "printk_log")
        spoil(image)

    return make


def lockless_with(spoil):
    def make(image):
        logs.lockless(image, [Entry(message) for message in lines(12)], 4, 12)
        spoil(image)

    return make


#: What is broken; how many of the messages are still shown; and a word of what npdump says about it.
DAMAGE = {
    "a record of no length": (records_with(poke("log_buf", bytes(2), 28 + 8, True)), 1, "damaged"),
    "a record that leads back": (records_with(poke("log_buf", b"\xe0\xff", 8, True)), 1, "outside"),
    "the next record is nowhere": (records_with(poke("log_next_idx", struct.pack("<I", 3))), 20, "damaged"),
    "the first record is outside": (records_with(poke("log_first_idx", struct.pack("<I", 1 << 20))), 0, "outside"),
    "ends that can't be": (lockless_with(poke("prb", struct.pack("<Q", 1 << 40), 24, True)), 0, "can't be right"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_and_the_rest_shown(name, tmp_path):
    make, n_shown, said = DAMAGE[name]
    vmcore = build(tmp_path / "vmcore", kernel_with(make))
    result = harness.run_ok("--dump-dmesg", vmcore.path)
    assert result.stdout == shown(lines(20)[:n_shown], "SYMBOL(prb)" in vmcore.keys)
    assert said in result.stderr


def test_text_that_no_ring_has_for_its_records_is_not_read(tmp_path):
    """16 records in 512 MiB, which begin where the text does."""
    make = lockless_with(poke("prb", struct.pack("<I", 29), 48, True))
    result = harness.run("--dump-dmesg", build(tmp_path / "vmcore", kernel_with(make)).path)
    assert result.returncode == 1
    assert "2^4 records in 2^29 bytes: the dump is damaged" in result.stderr


@pytest.mark.parametrize("name", ["log_buf_len", "prb"])
def test_sizes_that_cannot_be(name, tmp_path):
    spoil = poke(name, struct.pack("<I", 0xFFFFFFF0), 0, behind=name == "prb")
    make = records_with(spoil) if name == "log_buf_len" else lockless_with(spoil)
    vmcore = build(tmp_path / "vmcore", kernel_with(make))
    result = harness.run("--dump-dmesg", vmcore.path, memory_nbytes=2 << 30)
    assert result.returncode == 1 and "damaged" in result.stderr and len(result.stderr.splitlines()) <= 3


def test_a_log_of_characters_that_would_be_huge(tmp_path):
    """Of which most isn't in the dump: neither time nor memory is spent on it."""

    def make(image):
        logs.characters(image, RING, 1 << 14)
        image.variable("log_buf_len", struct.pack("<i", (1 << 31) - 1))

    vmcore = build(tmp_path / "vmcore", kernel_with(make, "2.6.32"))
    result = harness.run("--dump-dmesg", vmcore.path, memory_nbytes=1 << 30, timeout=10)
    assert result.returncode == 1
    assert "more than the dump" in result.stderr


def test_what_is_lost_of_a_log_of_characters_is_left_out(tmp_path):
    mapped_stop = 32 << 20

    def make(image):
        logs.characters(image, b"", 1 << 14)
        image.memory.write(mapped_stop - 100, b"x" * 100)
        image.variable("log_buf", struct.pack("<Q", KERNEL_MAP + mapped_stop - 100))
        image.variable("log_buf_len", struct.pack("<i", 4096))
        image.variable("log_end", struct.pack("<I", 5000))

    vmcore = build(tmp_path / "vmcore", kernel_with(make, "2.6.32"))
    result = harness.run_ok("--dump-dmesg", vmcore.path)
    assert result.stdout.strip() == "x" * 100
    assert "3996 of 4096 bytes of its text aren't in the dump" in result.stderr


STEERING = b"clear \x1b[2J, return \r, tab \t, vertical \v, form \f, C1 \x9b, bell \x07, utf-8 \xc2\x9b end"


@pytest.mark.parametrize(
    "make",
    [
        lambda image: logs.characters(image, STEERING, 1 << 14),
        lambda image: logs.records(image, [Message(STEERING)], 1 << 12, "printk_log"),
        lambda image: logs.lockless(image, [Entry(Message(STEERING))], 4, 12),
    ],
    ids=["characters", "records", "lockless"],
)
def test_no_log_steers_a_terminal(make, tmp_path):
    vmcore = build(tmp_path / "vmcore", kernel_with(make))
    shown_text = harness.run_ok("--dump-dmesg", vmcore.path).stdout
    assert "clear \\x1b[2J, return \\x0d, tab \t, vertical \\x0b, form \\x0c, C1 \\x9b" in shown_text
    assert all(character.isprintable() or character in "\t\n" for character in shown_text)
    assert shown_text.isascii()


@pytest.mark.parametrize("form", ["kdump", "flattened", "gzip", "pipe"])
def test_from_every_form(distilled, form, tmp_path, tool):
    vmcore = distilled("x86_64-6.1")
    wanted = harness.run_ok("--dump-dmesg", vmcore).stdout
    dump = tmp_path / "dump"
    if form == "flattened":
        with dump.open("wb") as file:
            harness.run_ok("-F", "-l", "-d31", vmcore, stdout=file)
    else:
        harness.run_ok("-l", "-d31", vmcore, dump)
    if form == "gzip":
        subprocess.run([tool("gzip"), "-1", dump], check=True)
        dump = tmp_path / "dump.gz"
    if form == "pipe":
        with dump.open("rb") as file:
            command = [*harness.npdump_command(), "--dump-dmesg", "-"]
            environment = {"PYTHONPATH": str(harness.REPOSITORY)}
            got = subprocess.run(
                command, stdin=file, capture_output=True, text=True, check=True, env=environment
            ).stdout
    else:
        got = harness.run_ok("--dump-dmesg", dump).stdout
    assert got == wanted
