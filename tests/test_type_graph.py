# SPDX-License-Identifier: GPL-2.0-or-later
"""All types by name, out of DWARF and BTF: what the compiler says of a small program with the kernel's ways of C."""

from __future__ import annotations

import random
import re
import subprocess

import pytest

from npdump.errors import NpdumpError
from npdump.kernel.facts.btf_graph import BtfGraph
from npdump.kernel.facts.graph import CType, Kind
from npdump.kernel.facts.vmlinux import open_graphs

SOURCE = r"""
#include <stddef.h>
#include <stdio.h>
typedef unsigned int u32;
typedef struct { volatile int counter; } atomic_t;
struct list_head { struct list_head *next, *prev; };
struct elsewhere;
struct owner {
    char name[16];
    const char *title;
    union { long number; struct { short low, high; }; };
    u32 small : 3, large : 20;
    atomic_t count;
    struct list_head links[3];
    int table[4][5];
    struct elsewhere *beyond;
    void *data;
    int (*call)(struct owner *);
    enum { RED, GREEN } color;
};
extern struct owner first;
extern char text[];
struct owner first = { "first" };
char text[100];
static struct owner *pointers[7];
const char *letters = "abc";
static long hidden = 5;
int _stext;
#define AT(member) printf("owner." #member " %zu %zu\n", offsetof(struct owner, member), sizeof(first.member))
int main(void) {
    AT(name); AT(title); AT(number); AT(low); AT(high); AT(count);
    AT(links); AT(table); AT(beyond); AT(call); AT(color);
    printf("owner %zu %zu\n", (size_t)0, sizeof(first));
    return pointers[hidden] != NULL;
}
"""

TYPES = {
    "first": "struct owner",
    "text": "char [100]",
    "pointers": "struct owner * [7]",
    "letters": "char *",
    "hidden": "long int",
}
OF_MEMBERS = {
    "name": "char [16]",
    "title": "char *",
    "links": "struct list_head [3]",
    "data": "void *",
    "beyond": "struct elsewhere *",
    "low": "short int",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory, tool):
    """By the form of debug information: a program, and what it says of its own structs."""
    folder = tmp_path_factory.mktemp("graph")
    (folder / "small.c").write_text(SOURCE)
    made = {}
    for version in (4, 5):
        path = made[f"DWARF {version}"] = folder / f"dwarf{version}"
        subprocess.run([tool("gcc"), f"-gdwarf-{version}", "-O0", "-o", path, folder / "small.c"], check=True)
    made["BTF"] = folder / "btf"
    made["BTF"].write_bytes(made["DWARF 4"].read_bytes())
    made["BTF"].chmod(0o700)
    subprocess.run([tool("pahole"), "-J", made["BTF"]], check=True)
    subprocess.run([tool("objcopy"), "--remove-section", ".debug*", made["BTF"]], check=True)
    said = subprocess.run([made["DWARF 5"]], capture_output=True, text=True, check=True).stdout
    return made, {name: (int(at), int(size)) for name, at, size in re.findall(r"(\S+) (\d+) (\d+)", said)}


@pytest.mark.parametrize("form", ["DWARF 4", "DWARF 5", "BTF"])
def test_structs_are_as_the_program_says(programs, form):
    made, said = programs
    with open_graphs(str(made[form])) as (graphs, _):
        (graph,) = graphs
        owner = graph.record("owner")
        assert (owner.kind, owner.nbytes) == (Kind.STRUCT, said["owner"][1])
        found = {f"owner.{name}": (field.offset, field.type.nbytes) for name, field in owner.members.items()}
        assert {name: found[name] for name in said if "." in name} == {name: said[name] for name in said if "." in name}
        assert {name: str(owner.members[name].type) for name in OF_MEMBERS} == OF_MEMBERS
        assert {name for name, field in owner.members.items() if field.is_bitfield} == {"small", "large"}
        assert owner.members["links"].type.target.members["prev"].offset == 8
        assert owner.members["number"].type.is_signed
        assert not owner.members["small"].type.is_signed
        assert owner.members["beyond"].type.target.members == {}
        assert graph.record("atomic_t").members["counter"].type.nbytes == 4
        assert graph.record("nosuch") is None
        assert graph.record("main") is None


@pytest.mark.parametrize("form", ["DWARF 4", "DWARF 5"])
def test_variables_have_their_types(programs, form):
    made, _ = programs
    with open_graphs(str(made[form])) as (graphs, symbols):
        (graph,) = graphs
        assert {name: str(graph.variable(name, symbols[name])) for name in TYPES} == TYPES
        assert graph.variable("first", symbols["text"]) is None
        assert graph.variable("nosuch", None) is None


def walk(ctype: CType, depth: int = 0) -> None:
    """Look at everything that can be got at from a type."""
    if depth < 6:
        walk(ctype.target, depth + 1)
        for field in ctype.members.values():
            walk(field.type, depth + 1)


@pytest.mark.parametrize("form", ["DWARF 5", "BTF"])
def test_damage_is_one_line(programs, tmp_path, form):
    made, _ = programs
    raw, rng, path = made[form].read_bytes(), random.Random(form), tmp_path / "damaged"
    # Where the debug information is, not the code.
    section = next(line for line in sections(made[form]) if line[0] == (".BTF" if form == "BTF" else ".debug_info"))
    refusals = []
    for _ in range(60):
        data = bytearray(raw)
        for _ in range(rng.choice((1, 3))):
            data[section[1] + rng.randrange(section[2])] = rng.getrandbits(8)
        path.write_bytes(data)
        try:
            with open_graphs(str(path)) as (graphs, symbols):
                for graph in graphs:
                    for found in (graph.record("owner"), graph.variable("first", symbols.get("first"))):
                        if found is not None:
                            walk(found)
        except NpdumpError as error:
            refusals.append(str(error))
    assert not [text for text in refusals if "\n" in text]
    assert refusals


def sections(path):
    """Name, offset and size of each section, as readelf says."""
    said = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    for name, at, size in re.findall(r"\] (\S+) +\S+ +[0-9a-f]+ ([0-9a-f]+) ([0-9a-f]+)", said):
        yield name, int(at, 16), int(size, 16)


def test_a_module_s_types_go_on_where_the_kernel_s_end():
    # One type each: struct kernel { } and struct module { struct kernel *; }, with strings of their own.
    def section(types: bytes, strings: bytes) -> bytes:
        header = (0xEB9F).to_bytes(2, "little") + bytes((1, 0)) + (24).to_bytes(4, "little")
        places = (0, len(types), len(types), len(strings))
        return header + b"".join(place.to_bytes(4, "little") for place in places) + types + strings

    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "little") for value in values)

    base = BtfGraph(section(words(1, 4 << 24, 8), b"\0kernel\0"), "<", 8)
    # Numbers go on with 2, offsets of strings with 8.
    types = words(0, 2 << 24, 1) + words(8, (4 << 24) | 1, 8, 15, 2, 0)
    module = BtfGraph(section(types, b"module\0of\0"), "<", 8, base)
    found = module.record("module")
    assert str(found.members["of"].type) == "struct kernel *"
    assert module.record("kernel") is base.record("kernel")
    assert base.record("module") is None
