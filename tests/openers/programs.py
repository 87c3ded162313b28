# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a program opens a dump: it names the kernel's release, or the registers of the panic."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 300

DRGN = """
import sys, drgn
program = drgn.Program()
program.set_core_dump(sys.argv[1])
print("opened", program["UTS_RELEASE"].string_().decode())
"""
LIBKDUMPFILE = """
import sys, kdumpfile
dump = kdumpfile.kdumpfile(sys.argv[1])
dump.attr["addrxlat.ostype"] = "linux"
name = dump.read(kdumpfile.KDUMP_KVADDR, dump.attr["linux.vmcoreinfo.SYMBOL.init_uts_ns"], 5)
print("opened", dump.attr["linux.uts.release"] if bytes(name) == b"Linux" else "nothing")
"""


def opens(program: str, path: Path, release: str, vmlinux: Path | None) -> tuple[bool, str]:
    """Ask a program; return whether it opened the dump, and the last line that it said."""
    said = _run(program, path, vmlinux)
    wanted = {"crash": f"RELEASE: {release}", "gdb": "rip "}.get(program, f"opened {release}")
    lines = [line for line in said.splitlines() if line.strip()]
    return wanted in said, lines[-1] if lines else "nothing"


def _run(program: str, path: Path, vmlinux: Path | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked = None
    if program == "drgn":
        command = [sys.executable, "-c", DRGN, path]
    elif program == "libkdumpfile":
        python = sys.executable if importlib.util.find_spec("kdumpfile") else "/usr/bin/python3"
        command = [python, "-c", LIBKDUMPFILE, path]
    elif program == "gdb":
        command = ["gdb", "-nx", "-batch", "-c", path, "-ex", "info registers rip"]
    else:
        command, asked = ["crash", "-s", vmlinux, path], "sys\nbt\nquit\n"
    try:
        result = subprocess.run(
            command, input=asked, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
            env=environment, cwd=path.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS} seconds"
    return result.stdout + (result.stderr or f"\nexit code {result.returncode}" if result.returncode else "")
