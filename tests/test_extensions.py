# SPDX-License-Identifier: GPL-2.0-or-later
"""Extensions: what they say is done, what is wrong with one is said, and no dump is lost by it."""

from __future__ import annotations

import numpy as np
import pytest

import npdump
from npdump.errors import ConfigError, UsageError
from npdump.extensions import FUNCTIONS, Pages, Rules, load
from npdump.kernel.objects import Crashed
from npdump.observer import Recorder
from npdump.pipeline import ScanOptions
from npdump.sinks.file import open_files
from tests import harness
from tests.readers import open_dump

EXAMPLES = harness.REPOSITORY / "examples" / "extensions"
LEVEL = 31


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The page frames that a dump has without any extension, at two levels."""
    found = {}
    for level in (0, LEVEL):
        path = tmp_path_factory.mktemp("plain") / "dump"
        with npdump.open(harness.distilled_vmcore("x86_64-6.1")) as dump:
            dump.write(path, level=level)
        found[level] = set(open_dump(path).kept.tolist())
    return found


def written(text, tmp_path, level=LEVEL, window_npages=1 << 31, **options):
    """The page frames of a dump made with an extension of this text, the summary, and what was said."""
    extension, path, recorder = tmp_path / "rule.py", tmp_path / "dump", Recorder()
    extension.write_text("from npdump.extensions import DROP, KEEP, UNDECIDED\n" + text)
    with npdump.open(harness.distilled_vmcore("x86_64-6.1")) as dump:
        summary = dump.write_to(
            lambda: open_files([str(path)], True, dump.storages, None),
            level=level,
            extensions=[str(extension)],
            scanning=ScanOptions(window_npages=window_npages, **options),
            observer=recorder,
        )
    return set(open_dump(path).kept.tolist()), summary, recorder.warnings


def unsafe_pfns(chunk):
    """Page frames of a piece of a scan that must not be read, whoever wants them."""
    return (chunk.pfn_start + np.flatnonzero(np.isin(chunk.classes, [5, 6, 7]))).tolist()


def test_a_page_is_kept_at_any_level(plain, tmp_path):
    with npdump.open(harness.distilled_vmcore("x86_64-6.1")) as dump:
        unsafe = {pfn for chunk in dump.scan(level=LEVEL).chunks() for pfn in unsafe_pfns(chunk)}
    some = sorted(plain[0] - plain[LEVEL])[::97]
    assert set(some) & unsafe
    kept, _, warnings = written(f"def keep(kernel):\n    return {some}\n", tmp_path)
    assert kept == plain[LEVEL] | (set(some) - unsafe)
    assert not warnings


def test_a_page_is_dropped_and_counted(plain, tmp_path):
    text = "def decide(pages, kernel):\n    return DROP * (pages.pfns % 2 == 1)\n"
    kept, summary, _ = written(text, tmp_path)
    assert kept == {pfn for pfn in plain[LEVEL] if pfn % 2 == 0}
    assert summary.n_extension == len(plain[LEVEL]) - len(kept)
    # In windows of one batch everything is asked twice, and the answer is the same.
    assert written(text, tmp_path, window_npages=1 << 15)[0] == kept


def test_who_keeps_a_page_wins_and_columns_are_those_of_struct_page(plain, tmp_path):
    text = (
        "def decide(pages, kernel):\n"
        "    assert (pages.column('flags') == pages.records['flags']).all()\n"
        "    assert pages.column('mapcount').dtype.itemsize == 4\n"
        "    return DROP\n"
        "def keep(kernel):\n    yield 5\n    yield [[0x100, 0x102]]\n"
    )
    kept, _, warnings = written(text, tmp_path, 0)
    assert kept == {5, 0x100, 0x101} & plain[0]
    assert not warnings


BROKEN = {
    "def decide(pages, kernel):\n    return pages.nothing\n": "rule.py:3: AttributeError",
    "def decide(pages, kernel):\n    return 7\n": "rule.py: ValueError: decide returned something else",
    "def decide(pages, kernel):\n    return [1, 0]\n": "rule.py: ValueError",
    "def decide(pages, kernel):\n    return 'KEEP'\n": "rule.py: ",
    "def decide(pages, kernel):\n    raise SystemExit\n": "rule.py:3: SystemExit",
    "def keep(kernel):\n    yield -3\n": "rule.py: ValueError: page frames below 0",
    "def drop(kernel):\n    yield 'a'\n": "rule.py: ValueError",
    "def erase(kernel):\n    yield kernel.symbol('nosuch'), 8\n": "rule.py:3: FactError: nosuch: there is no such",
    "def erase(kernel):\n    yield 0xffff888000000000, -1\n": "rule.py: ValueError: -1 bytes",
    "def erase(kernel):\n    return 5\n": "rule.py: TypeError",
    "def decide(pages)\n": "rule.py:2: SyntaxError",
    "import nosuchmodule\n": "rule.py:2: ModuleNotFoundError",
    "x = 1\n": "isn't an extension: it has none of the functions",
}


@pytest.mark.parametrize("text", BROKEN)
def test_an_error_is_said_and_loses_nothing(plain, tmp_path, text):
    kept, _, warnings = written(text, tmp_path)
    assert kept == plain[LEVEL]
    assert len(warnings) == 1
    assert BROKEN[text] in warnings[0]
    assert "skipped" in warnings[0]
    with pytest.raises(ConfigError, match=r"rule\.py"):
        written(text, tmp_path, strict=True)


NEVER_ENDS = {
    "def keep(kernel):\n    while True:\n        pass\n": "the rule keep is skipped",
    "def erase(kernel):\n    while True:\n        try:\n            kernel.symbol('nosuch')\n"
    "        except Exception:\n            pass\n": "the rule erase is skipped",
    "def drop(kernel):\n    n = 0\n    while True:\n        n += 1\n        yield n % 7\n": "the rule drop is skipped",
}


@pytest.mark.parametrize("text", NEVER_ENDS)
def test_a_rule_that_never_ends_is_skipped(tmp_path, text):
    (tmp_path / "rule.py").write_text(text)
    recorder = Recorder()
    with npdump.open(harness.distilled_vmcore("x86_64-6.1")) as dump:
        kernel = Crashed(dump.names)
        arguments = ([load(str(tmp_path / "rule.py"))], kernel, recorder)
        assert Rules(*arguments, limit_seconds=0.2).erased() == []
        (said,) = recorder.warnings
        assert "did not come to an end in its time" in said
        assert said.endswith(NEVER_ENDS[text])
        with pytest.raises(ConfigError, match="did not come to an end"):
            Rules(*arguments, strict=True, limit_seconds=0.2).erased()


def damaged(text: bytes, rng: np.random.Generator) -> bytes:
    """Return a file of which a piece is missing, doubled or overwritten."""
    start, stop = sorted(rng.integers(0, len(text) + 1, 2).tolist())
    stop = min(stop, start + 40)
    kind = rng.integers(3)
    if kind == 0:
        return text[:start] + text[stop:]
    if kind == 1:
        return text[:stop] + text[start:]
    return text[:start] + rng.integers(32, 127, stop - start, np.uint8).tobytes() + text[stop:]


def test_damaged_extensions_cost_a_line_each(tmp_path):
    sources = [*EXAMPLES.glob("*.py"), *(harness.REPOSITORY / "npdump" / "extensions").glob("[a-z]*.py")]
    rng = np.random.default_rng(15)
    n_refused = 0
    with npdump.open(harness.distilled_vmcore("x86_64-6.1")) as dump:
        kernel = Crashed(dump.names)
        for i in range(100):
            path, recorder = tmp_path / f"rule{i}.py", Recorder()
            path.write_bytes(damaged(sources[i % len(sources)].read_bytes(), rng))
            try:
                loaded = load(str(path))
            except ConfigError as error:
                said = [str(error)]
                n_refused += 1
            else:
                Rules([loaded], kernel, recorder, limit_seconds=5).erased()
                said = recorder.warnings
                assert all("is skipped" in line for line in said)
            assert all(line.startswith(str(path)) and "\n" not in line for line in said)
            assert len(said) <= len(FUNCTIONS)
    assert 20 < n_refused < 100


def test_erased_ranges_are_overwritten_and_named(tmp_path):
    text = "def erase(kernel):\n    yield kernel.symbol('init_uts_ns'), 64\n"
    written(text, tmp_path)
    with npdump.open(tmp_path / "dump") as dump, npdump.open(harness.distilled_vmcore("x86_64-6.1")) as before:
        vaddr = before.symbol("init_uts_ns")
        assert dump.memory.read(vaddr, 72) == b"X" * 64 + before.memory.read(vaddr + 64, 8)
        assert dump.source.history.eraseinfo == b"erase extension:rule size 64\n"


def test_what_is_no_extension_is_refused():
    for name in ("filter.so", "dir/filter.c"):
        with pytest.raises(UsageError, match="npdump takes Python files"):
            load(name)
    with pytest.raises(ConfigError, match="there is no such file"):
        load("nosuch.py")
    with pytest.raises(ConfigError, match=r"no extension of that name is installed: environments, .*user_stacks are"):
        load("nosuch")


@pytest.fixture(scope="module")
def crashed():
    """A real dump, whose kernel has its types in memory."""
    if harness.find_corpus() is None:
        pytest.skip("no directory of further vmcores (NPDUMP_CORPUS)")
    with npdump.open(harness.corpus_vmcore("x86_64-6.1-256M")) as dump:
        yield dump, Crashed(dump.names)


def test_names_of_all_tasks_are_blanked(crashed):
    dump, kernel = crashed
    wanted = list(load(str(EXAMPLES / "comm.py")).functions["erase"](kernel))
    names = {str(task) for task in wanted}
    assert {"swapper/0", "init", "kthreadd"} <= names
    assert len(wanted) == dump.info.n_tasks + 1  # the idle task of CPU 0 is on no list
    assert {one.nbytes_ for one in wanted} == {16}


def test_stacks_of_user_threads_are_few_pages(crashed):
    dump, kernel = crashed
    runs = np.concatenate(list(load("user_stacks").functions["keep"](kernel)))
    processes = [task for task in kernel.tasks(threads=False) if task.mm]
    n = len({pfn for start, stop in runs.tolist() for pfn in range(start, stop)})
    assert len(processes) <= n < 0.03 * int(dump.scan(level=31).kept.sum())
    for task in processes:
        # Where main() returns to, and what it was given.
        top = int(task.mm.start_stack)
        (place,) = kernel.user_ranges(task.mm, top, top + 8)
        assert dump.physical.read(*place) != bytes(8)  # the number of arguments
        assert any(start <= place.paddr // 4096 < stop for start, stop in runs.tolist())


def test_environments_are_what_the_processes_were_given(crashed):
    dump, kernel = crashed
    ranges = list(load("environments").functions["erase"](kernel))
    texts = b"".join(dump.physical.read(*one) for one in ranges)
    assert b"PATH=/" in texts
    assert b"HOME=/" in texts


def test_examples_answer(crashed, monkeypatch):
    dump, kernel = crashed
    said = []
    monkeypatch.setattr(kernel, "observer", type("Heard", (), {"message": staticmethod(said.append)}))
    chunk = dump.pages.read(0, 1 << 15)
    pages = Pages(0, 1 << 15, chunk.is_ram, chunk.is_dumped, chunk.classes, chunk.records, kernel)
    assert load(str(EXAMPLES / "facts.py")).functions["decide"](pages, kernel) == 0
    assert said[0].startswith(f"init_task is at {dump.symbol('init_task'):#x}, of 9728 bytes")
    assert said[1:] == ["areas are in a maple tree"]
    answer = load(str(EXAMPLES / "owner.py")).functions["decide"](pages, kernel)
    assert set(np.unique(answer)) <= {-1, 0}
    monkeypatch.setenv("NPDUMP_KEEP", "awk")
    found = list(load(str(EXAMPLES / "keep_tasks.py")).functions["keep"](kernel))
    # Three of them fill some megabytes each.
    assert len(found) == 3
    assert all((runs[:, 1] - runs[:, 0]).sum() > 500 for runs in found)


def test_keys_of_users_are_found(crashed):
    _, kernel = crashed
    found = list(load("keyrings").functions["erase"](kernel))
    assert all(len(one) == 2 if isinstance(one, tuple) else one.nbytes_ for one in found)
