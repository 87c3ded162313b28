# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's C types, as far as a dump filter asks about them, whatever they were read from."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["WANTED_ENUMS", "WANTED_STRUCTS", "Member", "Struct", "Types"]

WANTED_STRUCTS = frozenset(
    "page folio mem_section pglist_data zone free_area list_head node_memblk_s printk_ringbuffer prb_desc_ring "
    "prb_desc prb_data_blk_lpos prb_data_ring printk_info latched_seq printk_log log vm_struct vmap_area "
    "vmemmap_backing mmu_psize_def cpu_spec uts_namespace new_utsname".split()
)
WANTED_ENUMS = frozenset("pageflags pagetype zone_stat_item node_states compound_dtor_id zone_type".split())


class Member(NamedTuple):
    """A member: ``offset`` and ``nbytes`` in bytes, ``n_elements`` if it's an array, else 0."""

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
        Elements of variables that are arrays; 0 for those that aren't.
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
        """Return no types at all, to be filled."""
        return cls({}, {}, {}, {}, {}, {})

    def enumerator(self, enum: str, name: str) -> int | None:
        """Return an enumerator of one enum: the same name may mean different things in two."""
        return self.enums.get(enum, {}).get(name)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Types:
        """Make it from what `_asdict` gave, after a trip through JSON.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            If that isn't what it was.
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
