# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts about the hypervisor: from the note VMCOREINFO_XEN, from a file of the same form, or from xen-syms.

References
----------
Xen ``xen/common/kexec.c`` (crash_save_vmcoreinfo) and ``xen/arch/x86/machine_kexec.c`` for the keys; makedumpfile(8),
options ``--xen-syms`` and ``--xen-vmcoreinfo``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.errors import FactError, SourceError
from npdump.facts import Fact, Facts
from npdump.kernel.facts import vmcoreinfo
from npdump.kernel.xen.crash_info import hypervisor_text

if TYPE_CHECKING:
    from npdump.sources import Source

__all__ = ["KEYS", "load_facts", "read_syms", "read_text"]

MAX_TEXT_NBYTES = 1 << 20

_SYMBOLS = {
    "dom_xen": ("dom_xen",),
    "dom_io": ("dom_io",),
    "domain_list": ("domain_list",),
    "xen_heap_start": ("xen_heap_start",),
    "frame_table": ("frame_table",),
    "alloc_bitmap": ("alloc_bitmap",),
    "max_page": ("max_page",),
    "pgd_l2": ("idle_pg_table_l2",),
    "pgd_l3": ("idle_pg_table_l3", "idle_pg_table"),
    "pgd_l4": ("idle_pg_table_4", "idle_pg_table"),
    "xenheap_phys_end": ("xenheap_phys_end",),
    "xen_pstart": ("xen_pstart",),
    "frametable_pg_dir": ("frametable_pg_dir",),
}
"""What VMCOREINFO_XEN calls symbols, and what Xen does; of several, the first that there is."""

_STRUCTS = {"page_info": ("count_info", "_domain"), "domain": ("domain_id", "next_in_list")}

KEYS = (
    *(f"SYMBOL({name})" for name in _SYMBOLS),
    *(f"SIZE({name})" for name in _STRUCTS),
    *(f"OFFSET({name}.{member})" for name, members in _STRUCTS.items() for member in members),
)


def load_facts(source: Source | None, syms: str | None = None, text: str | None = None) -> Facts:
    """Return what is known of the hypervisor.

    Parameters
    ----------
    source : Source or None
        A dump; its note is used if no file is named.
    syms, text : str, optional
        Path of xen-syms, or of a text file of the same form as the note.

    Raises
    ------
    SourceError, FactError, MissingDependency
        If the file cannot be read, or is not what it should be; or nothing tells.
    """
    if text is not None:
        return read_text(text)
    if syms is not None:
        return read_syms(syms)
    note = hypervisor_text(source) if source is not None else None
    if note is None:
        raise FactError(
            f"{source.path if source else 'the dump'}: has no VMCOREINFO_XEN: give --xen-syms FILE or "
            "--xen-vmcoreinfo FILE"
        )
    return vmcoreinfo.parse(note, "VMCOREINFO_XEN")


def read_text(path: str) -> Facts:
    """Read a text file of the same form as the note; raises as `load_facts`."""
    try:
        with open(path, "rb") as file:
            facts = vmcoreinfo.parse(file.read(MAX_TEXT_NBYTES), f"--xen-vmcoreinfo {path}")
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error
    if not any(key in facts for key in KEYS):
        raise FactError(f"{path}: isn't a VMCOREINFO_XEN file: npdump -g FILE --xen-syms XEN_SYMS makes one")
    return facts


def read_syms(path: str) -> Facts:
    """Read the hypervisor's own file with its debug information; raises as `load_facts`."""
    from npdump.kernel.facts import dwarf, elf_symbols  # and pyelftools with them

    try:
        with open(path, "rb") as file:
            elf = elf_symbols.open_elf(file)
            symbols = elf_symbols.symbols(elf)
            structs = dwarf.read_structs(elf, _STRUCTS)
    except OSError as error:
        raise SourceError(f"{path}: can't be read: {error.strerror}") from error
    except FactError as error:
        raise FactError(f"{path}: {error}") from error
    if "domain_list" not in symbols:
        raise FactError(f"{path}: isn't xen-syms: it has no symbol domain_list")
    if not structs:
        # As Debian's is (xen-hypervisor-4.17-amd64-dbg).
        raise FactError(f"{path}: has symbols and no debug information of Xen's structures: give a xen-syms that has")
    values = {
        f"SYMBOL({name})": next((symbols[own] for own in names if own in symbols), None)
        for name, names in _SYMBOLS.items()
    }
    for name, struct in structs.items():
        values[f"SIZE({name})"] = struct.nbytes
        members = [key for key in _STRUCTS[name] if key in struct.members]
        values |= {f"OFFSET({name}.{key})": struct.members[key].offset for key in members}
    known = {key: Fact(value, f"DWARF of {path}") for key, value in values.items() if value is not None}
    return Facts(known, {})
