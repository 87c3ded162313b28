# SPDX-License-Identifier: GPL-2.0-or-later
"""What npdump is run for while system calls fail."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests import harness, test_dmesg
from tests.builders import logs, old
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build

if TYPE_CHECKING:
    from pathlib import Path

RAM_NBYTES = 10 << 20


@dataclass(frozen=True)
class Scenario:
    """A command line with ``{}`` for the folder that it works in.

    `outputs` are dumps, `texts` other files that it makes; `before` is a command that is run once, without faults;
    `has_old`: the outputs are there before, and may stay as they are.
    """

    name: str
    args: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)
    texts: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    stdin: str | None = None
    stdout: str | None = None
    has_old: bool = False
    needs_log: bool = False

    def argv(self, folder: Path) -> list[str]:
        """The command line."""
        return [*harness.npdump_command(), *(arg.format(folder) for arg in self.args)]


_V, _OUT = "{}/v", "{}/out"
_FIRST, _FLAT = ("-l", "-d1", _V), ("-F", "-l", "-d1", _V)
_SPLIT = ("--split", "-l", "-d1", _V, "{}/before1")
SCENARIOS = (
    Scenario("new", ("-l", "-d31", _V, _OUT)),
    Scenario("over", ("-f", "-l", "-d31", _V, _OUT), has_old=True),
    Scenario("sync", ("-f", "--sync", "-l", "-d31", _V, _OUT), has_old=True),
    Scenario("zlib", ("-c", "-d1", "--num-threads", "2", _V, _OUT)),
    Scenario("elf", ("-E", "-d31", _V, _OUT)),
    Scenario("elf-flat", ("-E", "-F", "-d31", _V), outputs=("flat",), stdout="flat"),
    Scenario("pread", ("--non-mmap", "-l", "-d31", _V, _OUT)),
    Scenario("work-dir", ("-l", "-d31", "--cyclic-buffer", "1", "--work-dir", "{}/work", _V, _OUT)),
    Scenario("flat", ("-F", "-l", "-d31", _V), outputs=("flat",), stdout="flat"),
    Scenario("rearrange", ("-R", _OUT), before=("-F", "-l", "-d31", _V), stdin="before"),
    Scenario("refilter", ("-l", "-d31", "{}/before", _OUT), before=_FIRST),
    Scenario("recode", ("-c", "-d31", "{}/before", _OUT), before=_FIRST),
    Scenario("to-elf", ("-E", "-d31", "{}/before", _OUT), before=_FIRST),
    Scenario("read-flat", ("-l", "-d31", "{}/before", _OUT), before=_FLAT),
    Scenario("split", ("--split", "-l", "-d31", _V, "{}/out1", "{}/out2"), outputs=("out1", "out2")),
    Scenario("reassemble", ("--reassemble", "{}/before1", "{}/before", _OUT), before=_SPLIT),
    Scenario("info", ("info", _V), outputs=()),
    Scenario("dmesg", ("--dump-dmesg", "{}/l", "{}/log"), outputs=(), texts=("log",), needs_log=True),
)


def prepare(scenario: Scenario, folder: Path) -> None:
    """Make what the scenario needs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    sparse = folder / "sparse"
    blocks = [Block(0x800, "free", 9, 2)]
    build(sparse, Description(ram=[(1 << 20, RAM_NBYTES)], kernel=KERNELS["6.12"], blocks=blocks, fill=2))
    subprocess.run(["cp", "--sparse=never", sparse, folder / "v"], check=True)
    sparse.unlink()
    if scenario.needs_log:
        old.build(folder / "l", test_dmesg.kernel_with(lambda image: logs.characters(image, test_dmesg.RING, 1 << 14)))
    if scenario.before:
        args = [arg.format(folder) for arg in scenario.before]
        if "-F" in args:
            with open(folder / "before", "wb") as flat:
                harness.run_ok(*args, stdout=flat)
        else:
            harness.run_ok(*args, folder / "before")
