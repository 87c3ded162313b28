# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's C types and symbols, as far as a dump filter asks about them, whatever they were read from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WANTED", "Member", "Struct", "Types", "TypesBuilder", "Vmlinux"]

WANTED_STRUCTS = frozenset(
    "page folio mem_section pglist_data zone free_area list_head node_memblk_s printk_ringbuffer prb_desc_ring "
    "prb_desc prb_data_blk_lpos prb_data_ring printk_info latched_seq printk_log log vm_struct vmap_area "
    "vmemmap_backing mmu_psize_def cpu_spec uts_namespace new_utsname "
    "resource slab kmem_cache vmap_node pcpu_chunk rb_list per_cpu_pages task_struct signal_struct thread_union".split()
)
WANTED_ENUMS = frozenset("pageflags pagetype zone_stat_item node_states compound_dtor_id zone_type migratetype".split())
WANTED_SIZES = frozenset(("nodemask_t",))
WANTED_FILES = frozenset(("pud_t",))
WANTED_ARRAYS = frozenset(("mem_section", "node_data", "pgdat_list", "node_memblk", "node_remap_start_pfn"))

WANTED = WANTED_STRUCTS | WANTED_ENUMS | WANTED_SIZES | WANTED_FILES | WANTED_ARRAYS
"""Names of everything that is asked for."""


class Member(NamedTuple):
    """A member: ``offset`` and ``nbytes`` in bytes, ``n_elements`` if it is an array, else 0."""

    offset: int
    nbytes: int
    n_elements: int


class Struct(NamedTuple):
    """A struct or union; members of anonymous structs and unions in it are its own."""

    nbytes: int
    members: dict[str, Member]


class Types(NamedTuple):
    """What was found.

    Attributes
    ----------
    structs : dict of str to Struct
    enums : dict of str to dict of str to int
        Enumerators by the enum's tag.
    enum_nbytes : dict of str to int
    sizes : dict of str to int
        Bytes of typedefs that are asked for.
    arrays : dict of str to int
        Elements of variables that are arrays; 0 for those that are not.
    files : dict of str to str
        Source files of typedefs that are asked for.
    """

    structs: dict[str, Struct]
    enums: dict[str, dict[str, int]]
    enum_nbytes: dict[str, int]
    sizes: dict[str, int]
    arrays: dict[str, int]
    files: dict[str, str]

    @classmethod
    def none(cls) -> Types:
        """Return no types at all."""
        return cls({}, {}, {}, {}, {}, {})

    def enumerator(self, enum: str, name: str) -> int | None:
        """Return an enumerator of one enum: the same name may mean different things in two."""
        return self.enums.get(enum, {}).get(name)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Types:
        """Return what `_asdict` gave, after a trip through JSON.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            If that is not what it was.
        """
        structs = {
            str(name): Struct(int(nbytes), {str(key): Member(*map(int, member)) for key, member in members.items()})
            for name, (nbytes, members) in value["structs"].items()
        }
        enums = {
            str(tag): {str(name): int(number) for name, number in pairs.items()}
            for tag, pairs in value["enums"].items()
        }
        enum_nbytes, sizes, arrays = (
            {str(name): int(number) for name, number in value[key].items()} for key in cls._fields[2:5]
        )
        files = {str(name): str(path) for name, path in value["files"].items()}
        return cls(structs, enums, enum_nbytes, sizes, arrays, files)


class Vmlinux(NamedTuple):
    """What a vmlinux tells.

    Attributes
    ----------
    build_id : str or None
        In hexadecimal.
    banner : str or None
        Text of ``linux_banner``.
    symbols : dict of str to int
        Addresses as linked, without the offset of KASLR.
    types : Types
    origin : {"DWARF", "BTF", "symbols"}
        What the types came from; "symbols" if there are none.
    """

    build_id: str | None
    banner: str | None
    symbols: dict[str, int]
    types: Types
    origin: str


class TypesBuilder:
    """Collects types as a reader of debug information meets them, and knows which are wanted.

    Each method takes a name, and functions that work out the rest if it is wanted and not known yet.

    Attributes
    ----------
    types : Types
        What was found so far.

    Examples
    --------
    >>> builder = TypesBuilder()
    >>> builder.struct("list_head", lambda: Struct(16, {"next": Member(0, 8, 0)}))
    >>> builder.struct("something_else", lambda: 1 / 0)
    >>> sorted(builder.types.structs)
    ['list_head']
    """

    def __init__(self) -> None:
        self.types = Types.none()

    def struct(self, name: str, make: Callable[[], Struct]) -> None:
        """Take a struct."""
        if name in WANTED_STRUCTS and name not in self.types.structs:
            self.types.structs[name] = make()

    def enum(self, name: str, make: Callable[[], tuple[int, dict[str, int]]]) -> None:
        """Take an enum: its bytes, and its enumerators."""
        if name in WANTED_ENUMS and name not in self.types.enums:
            self.types.enum_nbytes[name], self.types.enums[name] = make()

    def typedef(self, name: str, nbytes: Callable[[], int], file: Callable[[], str | None]) -> None:
        """Take a typedef: its bytes, and the source file where it is."""
        if name in WANTED_SIZES and name not in self.types.sizes:
            self.types.sizes[name] = nbytes()
        if name in WANTED_FILES and name not in self.types.files:
            path = file()
            if path is not None:
                self.types.files[name] = path

    def variable(self, name: str, n_elements: Callable[[], int]) -> None:
        """Take a variable: how many elements it has if it is an array, else 0."""
        if name in WANTED_ARRAYS and not self.types.arrays.get(name):
            self.types.arrays[name] = n_elements()
