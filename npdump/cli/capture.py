# SPDX-License-Identifier: GPL-2.0-or-later
"""What a capture kernel needs of npdump: the files that a run opens, found by loading all of them.

An initramfs has no package manager and little room. `find_files` has another Python load every module that a run of
npdump in a capture kernel may load, and tells which files that were; `install` puts them into a folder, Python modules
as byte code. That what a run opens is among them is a test (tests/test_collector.py).
"""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from npdump.errors import MissingDependency, SinkError

__all__ = ["Files", "find_files", "install"]

LEFT_OUT = (
    "npdump.answers",
    "npdump.cli.capture",
    "npdump.cli.commands.",
    "npdump.cli.readiness",
    "npdump.cli.workers",
    "npdump.compare",
    "npdump.extras",
    "npdump.fleet",
    "npdump.kernel.facts.dwarf",
    "npdump.kernel.facts.elf_symbols",
    "npdump.kernel.facts.vmlinux",
    "npdump.pages.html",
    "npdump.pages.mosaic",
    "npdump.pytest_plugin",
    "npdump.report",
)
"""Modules, by the beginning of their names, that a capture kernel never runs: they answer people, or read a vmlinux."""

COMMANDS = ("dmesg", "rearrange", "redact")
"""Commands that it may run."""

LATER = (
    "codecs",
    "difflib",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_8",
    "linecache",
    "numpy.ma",
    "shutil",
    "struct",
    "traceback",
    "zlib",
)
"""Modules of the standard library and of NumPy that are imported while npdump runs, or by Python itself."""

_LOADER = """\
import ctypes, importlib, json, pathlib, sys
left_out, commands, later = json.loads(sys.argv[1])
# OpenSSL's, of 5 MB: hashlib has all of it itself where this can't be imported.
sys.modules["_hashlib"] = None
import numpy, npdump
top = pathlib.Path(npdump.__file__).parents[1]
names = sorted(".".join(path.relative_to(top).with_suffix("").parts) for path in top.glob("npdump/**/*.py"))
names = [name.removesuffix(".__init__") for name in names]
names = [name for name in names if not name.startswith(tuple(left_out))]
names += [*(f"npdump.cli.commands.{name}" for name in commands), *later]
for name in names:
    importlib.import_module(name)
from npdump import codecs, core
for codec in codecs.all_codecs():
    try:
        codec.encoder(4096)
    except Exception as error:
        print(f"{codec.name}: {error}", file=sys.stderr)
libraries = []
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_void_p)
def note(info, size, data):
    # dl_iterate_phdr(3): the name is the second member.
    at = ctypes.addressof(info.contents) + ctypes.sizeof(ctypes.c_void_p)
    libraries.append((ctypes.c_char_p.from_address(at).value or b"").decode())
    return 0
ctypes.CDLL(None).dl_iterate_phdr(note, None)
modules = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
found = sorted({spec.origin for spec in modules if spec.has_location and spec.origin})
json.dump({"modules": found, "libraries": libraries, "numpy": numpy.__file__, "npdump": npdump.__file__,
           "stdlib": importlib.import_module("sysconfig").get_paths()}, sys.stdout)
"""


class Files(NamedTuple):
    """What a run opens.

    Attributes
    ----------
    interpreter : Path
        Python's program.
    modules : tuple of Path
        Of Python: source files, and libraries that are modules.
    libraries : tuple of Path
        As the loader names them, which may be symbolic links.
    folders : tuple of Path
        Where Python looks for NumPy and npdump.
    missing : tuple of str
        A line for each compression whose library isn't there.
    """

    interpreter: Path
    modules: tuple[Path, ...]
    libraries: tuple[Path, ...]
    folders: tuple[Path, ...]
    missing: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, each once."""
        return tuple(dict.fromkeys([self.interpreter, *self.modules, *(lib.resolve() for lib in self.libraries)]))


def find_files() -> Files:
    """Load all that a run may load, in another process, and tell which files that were.

    Raises
    ------
    MissingDependency
        If NumPy, or a part of npdump, can't be loaded.
    """
    lists = json.dumps([LEFT_OUT, COMMANDS, LATER])
    here = str(Path(__file__).parents[2])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOADER, lists], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingDependency(f"collector: npdump can't be loaded as a whole: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout)
    modules = {Path(name) for name in found["modules"]}
    # Python tells by this file where its library is.
    modules.add(Path(found["stdlib"]["stdlib"]) / "os.py")
    libraries = [Path(os.path.normpath(name)) for name in found["libraries"] if "/" in name]
    folders = dict.fromkeys(Path(found[name]).parents[1] for name in ("numpy", "npdump"))
    return Files(
        Path(sys.executable).resolve(),
        tuple(sorted(modules)),
        tuple(sorted({library for library in libraries if library not in modules and library.exists()})),
        tuple(folders),
        tuple(done.stderr.splitlines()),
    )


def install(files: Files, root: Path) -> int:
    """Copy files into a folder that becomes the root of a file system, and make its command ``npdump``.

    Returns
    -------
    int
        How many bytes that were.

    Raises
    ------
    SinkError
        If the folder isn't there, or has no room.
    """
    if not root.is_dir():
        raise SinkError(f"{root}: no such folder: name the top of an initramfs that is being made", path=str(root))
    try:
        _link_folders(root)
        n_bytes = sum(_install_module(path, root) for path in files.modules)
        n_bytes += sum(_install_library(path, root) for path in [files.interpreter, *files.libraries])
        for path in files.modules:  # Python looks for this folder beside os.py, whether anything is in it or not
            if path.name == "os.py":
                _inside(path.parent / "lib-dynload", root).mkdir(parents=True, exist_ok=True)
        return n_bytes + _make_command(files, root)
    except (OSError, py_compile.PyCompileError) as error:
        raise SinkError(f"{root}: npdump can't be installed: {error}", path=str(root)) from error


def _link_folders(root: Path) -> None:
    """Make the symbolic links at the top, such as lib64, that this machine has and the folder lacks."""
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        outside, inside = Path("/", name), root / name
        if outside.is_symlink() and not inside.exists():
            inside.symlink_to(os.readlink(outside))


def _inside(path: Path, root: Path) -> Path:
    """Return where a file goes: folders that are symbolic links outside are those that they lead to."""
    return root / path.parent.resolve().relative_to("/") / path.name


def _install_module(path: Path, root: Path) -> int:
    """Copy a module: byte code in the place of source, which is used whatever the time of the source was."""
    if path.suffix != ".py":
        return _install_library(path, root)
    target = _inside(path, root).with_suffix(".pyc")
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(path), str(target), str(path), doraise=True, invalidation_mode=mode)
    return target.stat().st_size


def _install_library(path: Path, root: Path) -> int:
    """Copy a library or program, and the symbolic link by which it is found."""
    real = path.resolve()
    target, link = _inside(real, root), _inside(path, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(real, target)
    if link != target:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(real)
    return target.stat().st_size


def _make_command(files: Files, root: Path) -> int:
    """Write ``/usr/bin/npdump``, for a Python that looks nowhere but where it is told to."""
    folders = [str(folder.resolve()) for folder in files.folders]
    text = (
        f"#!{files.interpreter} -IS\n"
        f"import sys\nsys.path += {folders!r}\nfrom npdump.__main__ import main\nsys.exit(main())\n"
    )
    command = root / "usr/bin/npdump"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(text)
    command.chmod(0o755)
    return len(text)
