# SPDX-License-Identifier: GPL-2.0-or-later
"""Pack npdump into one file that Python runs: ``python tools/pack_zipapp.py npdump.pyz``.

NumPy stays outside. The compiled core is in it, for this machine; on others NumPy does its work. Byte code is in it for
this version of Python, and the source for all others.
"""

import os
import py_compile
import shutil
import sys
import tempfile
import zipapp
from pathlib import Path

MAIN = "import sys\nfrom npdump.__main__ import main\nsys.exit(main())\n"


def pack(target: Path) -> None:
    """Make the archive of the package beside this folder, where its core was built in place."""
    package = Path(__file__).resolve().parents[1] / "npdump"
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        shutil.copytree(package, top / "npdump", ignore=shutil.ignore_patterns("__pycache__", "*.c", "_pyinstaller"))
        (top / "__main__.py").write_text(MAIN)
        for source in sorted(top.rglob("*.py")):
            compile_unchecked(source, source.relative_to(top))
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        zipapp.create_archive(top, part, interpreter="/usr/bin/env python3", compressed=True)
        os.replace(part, target)


def compile_unchecked(source: Path, shown: Path) -> None:
    """Put byte code beside a source file that is used whatever the time of that file."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), str(source.with_suffix(".pyc")), str(shown), doraise=True, invalidation_mode=mode)


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
