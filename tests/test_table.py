# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of struct pages: what it counts is what makedumpfile keeps, and what the builders put there."""

import csv
import io
import json

import numpy as np
import pytest

import npdump
from npdump.pages.kinds import PageKind
from npdump.pages.mosaic import hilbert, make_mosaic, stretches
from npdump.pages.policy import PageClass, Trait
from tests import harness, synthetic
from tests.builders.vmcore import build

FIXTURES = sorted(path.name.removesuffix(".distilled") for path in harness.FIXTURES.glob("*.distilled"))
CORPUS = harness.corpus_names("")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine with blocks of every kind."""
    return build(tmp_path_factory.mktemp("table") / "vmcore", synthetic.CASES["kernel-6.12"].describe())


@pytest.mark.parametrize("name", [*FIXTURES, *CORPUS])
def test_every_level_keeps_as_much_as_the_reference(name, distilled, corpus):
    path, wanted = distilled(name) if name in FIXTURES else corpus(name), harness.reference(name)
    with npdump.open(path) as dump:
        levels = dump.pages.levels()
        assert levels.kept.tolist() == [wanted.levels[level]["pages"] for level in range(32)]
        assert levels.n_dumped == (levels.kept + levels.left_out.sum(axis=1)).max()
        # The class of each single page, against the reference's bitmap.
        kept = np.zeros(len(wanted.kept(31)), bool)
        for chunk, classes in zip(dump.pages.chunks(), dump.pages.classes_at(31), strict=True):
            kept[chunk.pfn_start : chunk.pfn_stop] = (chunk.is_dumped & (classes == 0))[: len(kept) - chunk.pfn_start]
        assert np.array_equal(kept, wanted.kept(31))


def test_kinds_are_what_the_builder_put_there(machine):
    kind_of = {"free": PageKind.FREE, "lru": PageKind.CACHE, "private": PageKind.CACHE_PRIVATE, "anon": PageKind.USER,
               "hugetlb": PageKind.HUGETLB, "slab": PageKind.SLAB, "offline": PageKind.OFFLINE}  # fmt: skip
    wanted = dict.fromkeys(kind_of, 0)
    blocks = [block for block in synthetic.CASES["kernel-6.12"].describe().blocks if block.kind in kind_of]
    with npdump.open(machine.path) as dump:
        for block in blocks:
            chunk, kinds = next(iter(dump.pages.kinds(block.pfn, block.pfn + block.n_pages)))
            assert set(kinds.tolist()) == {kind_of[block.kind]}, block
            assert (chunk.pfn_start, chunk.pfn_stop) == (block.pfn, block.pfn + block.n_pages)
            wanted[block.kind] += block.n_pages
        totals = dump.pages.counts().totals()
        free = dump.pages.free_area()
    for kind in ("free", "offline", "slab", "hugetlb"):
        assert totals[kind_of[kind]] == wanted[kind]
    orders = [block.order for block in blocks if block.kind == "free" for _ in range(block.count)]
    assert sorted(free.orders.tolist()) == sorted(orders)
    assert free.npages() == wanted["free"]
    assert sum(totals.values()) == machine.bitmap1.sum()


def test_a_row_in_the_middle_of_a_block_knows_its_block(machine):
    with npdump.open(machine.path) as dump:
        whole = dump.pages.read(0x4000, 0x8000)
        for start in (0x4001, 0x4403, 0x5555):
            part = dump.pages.read(start, start + 16)
            assert part.classes.tolist() == whole.classes[start - 0x4000 : start - 0x4000 + 16].tolist()


def test_parts_of_memory_add_up(machine, npdump):
    total = json.loads(npdump("stats", "--json", machine.path).stdout)["rows"][0]
    for by in ("section", "order", "node"):
        result = npdump("stats", "--csv", "--by", by, machine.path)
        if result.returncode:
            assert by == "node"
            assert "VMCOREINFO" in result.stderr
            continue
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        for name in total.keys() - {"name"}:
            assert sum(int(row[name]) for row in rows) == total[name], (by, name)


def test_free_blocks_are_on_the_lists_that_nr_free_counts(corpus):
    """The zones count the blocks of each order; so does who follows the lists."""
    if "x86_64-6.1-256M" not in CORPUS:
        pytest.skip("no corpus")
    with npdump.open(corpus("x86_64-6.1-256M")) as dump:
        free, facts = dump.pages.free_area(), dump.facts
        area = facts.get("OFFSET(zone.free_area)")
        nbytes = facts.get("SIZE(free_area)")
        n_free = np.zeros(free.n_orders, np.int64)
        zone = dump.pages.types.structs["free_area"].members["nr_free"].offset
        from npdump.kernel.nodes import zones

        for vaddr, _ in zones(dump.kernel):
            n_free += [dump.memory.read_word(vaddr + area + i * nbytes + zone) for i in range(free.n_orders)]
        assert free.table().sum(axis=1).tolist() == n_free.tolist()
        assert not free.table()[:, -1].any()  # each is on a list of a known type
        assert free.names[:3] == ("unmovable", "movable", "reclaimable")


def test_mosaic_counts_each_page_once():
    rng = np.random.default_rng(5)
    shown = stretches(np.array([[3, 1000], [1024, 5000], [1 << 20, (1 << 20) + 7]]), 0, 1 << 21)
    assert shown.tolist() == [[0, 5120], [1 << 20, (1 << 20) + 1024]]
    kinds = {start: rng.integers(1, 9, 1500).astype(np.uint8) for start in (0, 1500, 3000)}
    mosaic = make_mosaic(shown, kinds.items(), 700, 4096)
    assert mosaic.tile_npages == 16
    assert mosaic.counts.sum() == 6144
    for kind in range(1, 9):
        assert mosaic.counts[:, kind].sum() == sum((values == kind).sum() for values in kinds.values())
    tile = 2000 // 16
    assert mosaic.counts[tile].tolist() == np.bincount(kinds[1500][500:516], minlength=len(PageKind)).tolist()
    assert mosaic.pfn_of(320) == 1 << 20
    assert mosaic.pfn_of(10**6) is None


@pytest.mark.parametrize("order", range(7))
def test_hilbert_visits_each_point_and_makes_no_jump(order):
    x, y = hilbert(order)
    assert len({*zip(x.tolist(), y.tolist(), strict=True)}) == 4**order
    assert (abs(np.diff(x)) + abs(np.diff(y)) == 1).all()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, (1 << order) - 1, 0)


def test_frames_have_a_row_for_each_page(machine):
    pandas = pytest.importorskip("pandas")
    with npdump.open(machine.path) as dump:
        frame = dump.pages.to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert len(frame) == machine.bitmap1.sum()
        assert frame.loc[frame.free, "kind"].eq("FREE").all()
        counts = frame.kind.value_counts()
        assert counts["FREE"] == dump.pages.counts().totals()[PageKind.FREE]
        row = frame.set_index("pfn").loc[0x4000]
        chunk = dump.pages.read(0x4000, 0x4001)
        assert row["flags"] == chunk.column("flags")[0]
        assert bool(row["free"]) == bool(chunk.has(Trait.FREE)[0])
        pytest.importorskip("pyarrow")
        assert dump.pages.to_arrow().to_pandas().equals(frame.assign(kind=frame.kind, page_class=frame.page_class))


def test_frames_of_no_memory_have_columns(machine):
    pytest.importorskip("pyarrow")
    with npdump.open(machine.path) as dump:
        behind = (dump.pages.max_mapnr, dump.pages.max_mapnr + 1)
        frame = dump.pages.to_pandas(*behind)
        assert len(frame) == 0
        assert list(frame.columns) == list(dump.pages.to_pandas(0x4000, 0x4010).columns)
        assert dump.pages.to_arrow(*behind).to_pandas().dtypes.equals(frame.dtypes)


def test_a_missing_library_is_named(machine, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with npdump.open(machine.path) as dump, pytest.raises(npdump.errors.MissingDependency, match="pip install pandas"):
        dump.pages.to_pandas(0, 64)


def test_arrays_with_named_dimensions(machine):
    pytest.importorskip("xarray")
    with npdump.open(machine.path) as dump:
        counts, levels = dump.pages.to_xarray(), dump.pages.levels()
        assert counts.kept.values.tolist() == levels.kept.tolist()
        assert int(counts.left_out.sel(level=16, page_class="FREE")) == levels.left_out[16, PageClass.FREE]
        assert "zones" not in counts
        assert counts.free_blocks.sum("migrate_type").values.tolist() == dump.pages.free_area().table().sum(1).tolist()


def test_arrays_by_zone_and_node(corpus):
    pytest.importorskip("xarray")
    with npdump.open(corpus("x86_64-6.1-256M")) as dump:
        counts, zones = dump.pages.to_xarray(), dump.pages.counts("zone")
        assert counts.zones.sel(kind="FREE").values.tolist() == zones.counts[:, PageKind.FREE].tolist()
        assert counts.nodes.sum("node").values.tolist() == counts.zones.sum("zone").values.tolist()
