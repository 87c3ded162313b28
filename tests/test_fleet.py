# SPDX-License-Identifier: GPL-2.0-or-later
"""Many dumps: what is found, what becomes of damaged ones and of killed workers, the catalogue and its page."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import Future
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest

from npdump import fleet
from npdump.cli.parsing import parse
from npdump.errors import SinkError, SourceError, UsageError
from npdump.fleet import on_dask
from npdump.fleet.catalogue import Catalogue, read_rows
from npdump.fleet.child import Call, Outcome
from npdump.fleet.find import find_dumps, output_names
from npdump.fleet.page import make_page
from npdump.fleet.run import FleetError, Workers, outcomes
from tests import harness
from tests.builders import kdump as builder

RELEASES = {"x86_64-5.10": "5.10.0-32-cloud-amd64", "x86_64-6.1": "6.1.0-56-cloud-amd64"}
"""As Debian names the kernels that the fixtures are of (tests/fixtures/README.md)."""


def small_dump(path: Path) -> None:
    form = builder.Form()
    path.write_bytes(builder.build({pfn: bytes([pfn]) * 4096 for pfn in range(1, 9)}, form))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty files: real dumps of two kernels, built ones without a kernel, damaged ones, and a text."""
    top = tmp_path_factory.mktemp("crash")
    for i in range(8):
        (top / f"host{i}").mkdir()
        (top / f"host{i}" / "vmcore").symlink_to(harness.distilled_vmcore(list(RELEASES)[i % 2]))
    for i in range(12):
        small_dump(top / f"built{i:02}")
    whole = (top / "built00").read_bytes()
    for i in range(8):
        (top / f"damaged{i}").write_bytes(whole[:8] + os.urandom(64) + whole[8 : 1000 * (i + 1)])
    (top / "empty").touch()
    (top / "host0" / "dmesg.txt").write_text("no dump\n" * 600)
    return top


def run_fleet(*args, **options):
    return harness.run("fleet", *args, **options)


def rows_of(catalogue: Path) -> dict[str, dict]:
    with sqlite3.connect(catalogue) as database:
        database.row_factory = sqlite3.Row
        return {Path(row["dump"]).name: dict(row) for row in database.execute("SELECT * FROM dumps")}


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """The catalogue of a whole run, and what was said."""
    catalogue = tmp_path_factory.mktemp("done") / "fleet.sqlite"
    return catalogue, run_fleet(folder, "--do", "info,signature", "--catalogue", catalogue, "--jobs", "2")


def test_every_dump_is_there_once(folder, done):
    catalogue, result = done
    assert result.returncode == 1, result.stderr
    assert not result.stdout
    assert (catalogue.stat().st_mode & 0o777) == 0o600
    with sqlite3.connect(catalogue) as database:
        found = database.execute("SELECT dump, state, release, signature FROM dumps").fetchall()
    assert len(found) == 30
    real = {dump: (state, release) for dump, state, release, _ in found if dump.endswith("vmcore")}
    for i in range(8):
        assert real[f"{folder}/host{i}/vmcore"] == ("done", list(RELEASES.values())[i % 2])
    # The same crash of the same kernel has the same signature.
    assert len({signature for dump, _, _, signature in found if dump.endswith("vmcore")}) <= 2


def test_every_damaged_dump_is_named_in_a_line(folder, done):
    catalogue, result = done
    rows = rows_of(catalogue)
    said = [line for line in result.stderr.splitlines() if line.startswith("npdump: warning:")]
    failed = {name for name, row in rows.items() if row["state"] == "failed"}
    assert failed == {*(f"damaged{i}" for i in range(8)), "empty", *(f"built{i:02}" for i in range(12))}
    assert len(said) == len(failed)
    for name in failed:
        assert sum(f"{folder}/{name}: " in line for line in said) == 1
    assert rows["dmesg.txt"]["state"] == "other"
    assert "Traceback" not in result.stderr


def test_what_is_known_is_not_done_again(folder, done):
    catalogue, _ = done
    before = rows_of(catalogue)
    result = run_fleet(folder, "--do", "info,signature", "--catalogue", catalogue, "--json")
    assert json.loads(result.stdout)["n_known"] == 30
    assert result.returncode == 1  # for those that failed before
    assert rows_of(catalogue) == before


def test_failed_dumps_are_begun_again_if_that_is_asked_for(folder, done, tmp_path):
    catalogue = tmp_path / "again.sqlite"
    small_dump(tmp_path / "dump")
    (tmp_path / "dump").chmod(0)
    os.truncate(tmp_path / "dump", 0)
    assert run_fleet(tmp_path / "dump", "--do", "info", "--catalogue", catalogue).returncode == 1
    status = (tmp_path / "dump").stat()
    result = run_fleet(tmp_path / "dump", "--do", "info", "--catalogue", catalogue, "--again", "--json")
    assert json.loads(result.stdout)["n_failed"] == 1
    # Another file of that name is another dump.
    (tmp_path / "dump").chmod(0o600)
    small_dump(tmp_path / "dump")
    assert (tmp_path / "dump").stat().st_size != status.st_size
    assert run_fleet(tmp_path / "dump", "--do", "info", "--catalogue", catalogue).returncode == 0
    assert rows_of(catalogue)["dump"]["state"] == "done"


def test_small_dumps_are_what_npdump_makes_of_each(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "vmcore").symlink_to(harness.distilled_vmcore("x86_64-6.1"))
    result = run_fleet(tmp_path / "in", "--do", "filter", "--to", tmp_path / "out", "-l", "-d", "31")
    assert result.returncode == 0, result.stderr
    harness.run_ok("-l", "-d", "31", tmp_path / "in" / "a" / "vmcore", tmp_path / "expected")
    assert (tmp_path / "out" / "a" / "vmcore").read_bytes() == (tmp_path / "expected").read_bytes()
    row = rows_of(tmp_path / "out" / "fleet.sqlite")["vmcore"]
    assert row["output"] == str(tmp_path / "out" / "a" / "vmcore")
    assert row["kept_nbytes"] + row["left_out_nbytes"] > 100 << 20
    # What is in the way of a fleet that doesn't know it stays.
    other = run_fleet(
        tmp_path / "in", "--do", "filter", "--to", tmp_path / "out", "--catalogue", tmp_path / "new", "-d", "31"
    )
    assert other.returncode == 1
    assert "exists already" in other.stderr
    assert (tmp_path / "out" / "a" / "vmcore").read_bytes() == (tmp_path / "expected").read_bytes()


def ended(catalogue: Path) -> dict[str, dict]:
    return {row["dump"]: row for row in read_rows(str(catalogue)) if row["state"] != "begun"}


def interrupted(number, folder, catalogue) -> dict[str, dict]:
    """Begin a fleet, end it by a signal when it has a few answers, and return these."""
    command = [*harness.npdump_command(), "fleet", folder, "--do", "info", "--catalogue", catalogue, "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(harness.REPOSITORY)}
    client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while client.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(SourceError, SinkError):  # it isn't there yet
            if len(ended(catalogue)) >= 6:
                client.send_signal(number)
                break
    _, said = client.communicate(timeout=20)
    assert client.returncode in (-number, 128 + number), said
    assert "Traceback" not in said
    return ended(catalogue)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill-9", "ctrl-c"])
def test_started_again_it_does_only_what_was_under_way(number, folder, tmp_path):
    catalogue = tmp_path / "interrupted.sqlite"
    before = interrupted(number, folder, catalogue)
    assert 6 <= len(before) < 30
    deadline = time.monotonic() + 20
    while children_of_nobody() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children_of_nobody()
    result = run_fleet(folder, "--do", "info", "--catalogue", catalogue, "--jobs", "2", "--json")
    assert json.loads(result.stdout)["n_known"] == len(before)
    after = ended(catalogue)
    assert len(after) == 30
    assert {dump: after[dump] for dump in before} == before


def children_of_nobody() -> list[str]:
    """Processes of fleets whose client is gone."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"npdump.fleet._serve" in words and (path / "cwd").readlink() == Path.cwd():
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                if b"fleet" not in Path(f"/proc/{parent}/cmdline").read_bytes():
                    found.append(path.name)
    return found


def test_a_killed_worker_costs_nothing_but_time(folder):
    (result,) = fleet.map(kills_itself_once, folder / "built00", n_workers=1)
    (folder / ".built00.seen").unlink()
    assert result.value == 8


def kills_itself_once(dump):
    seen = Path(dump.path).parent / f".{Path(dump.path).name}.seen"
    if not seen.exists():
        seen.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return int((dump.source.data_runs[:, 1] - dump.source.data_runs[:, 0]).sum())


def kills_itself(dump):
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(dump):
    time.sleep(60)


def takes_memory(dump):
    return len(bytearray(1 << 30))


def is_wrong(dump):
    raise KeyError("nothing of that name")


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (kills_itself, "Killed", "SIGKILL"),
        (sleeps, "Timeout", "longer than the limit of 0.5 s"),
        (takes_memory, "MemoryError", "more memory than 500 MiB"),
        (is_wrong, "KeyError", "nothing of that name"),
    ],
    ids=["killed", "too long", "too much", "wrong"],
)
def test_one_bad_dump_stops_no_other(function, kind, words, folder):
    limits = {"time_limit_seconds": 0.5 if function is sleeps else None, "memory_limit_nbytes": 500 << 20}
    (result,) = fleet.map(function, folder / "built00", n_workers=1, **limits)
    (good,) = fleet.map(attrgetter("source.page_size"), folder / "built00", n_workers=1)
    assert (result.failure.kind, words in result.failure.text) == (kind, True)
    assert good.value == 4096


def test_results_are_a_data_frame(folder):
    pytest.importorskip("pandas")
    sources = [folder / "built01", folder / "built00", folder / "empty"]
    results = fleet.map(attrgetter("source.max_mapnr"), sources, n_workers=1)
    assert len(results) == 3
    frame = results.to_pandas()
    assert [Path(path).name for path in frame["dump"]] == ["built00", "built01", "empty"]
    assert frame["value"].tolist()[:2] == [256, 256]
    assert "is empty" in frame["failure"][2]


def test_functions_of_a_notebook_are_sent_by_value(folder):
    pytest.importorskip("cloudpickle")
    scale = 2
    (result,) = fleet.map(lambda dump: scale * dump.source.page_size, folder / "built00", n_workers=1)
    assert result.value == 8192


def test_parts_by_several_workers_are_those_of_one(tmp_path):
    vmcore = harness.distilled_vmcore("x86_64-6.1")
    names = ["a", "b", "c"]
    for folder, options in (("many", ["--jobs", "2"]), ("one", [])):
        (tmp_path / folder).mkdir()
        command = ["--split", "-l", "-d", "31", "--show-stats", "--json", *options, vmcore]
        answer = json.loads(harness.run_ok(*command, *(tmp_path / folder / name for name in names)).stdout)
        (tmp_path / folder / "answer").write_text(json.dumps({**answer, "seconds_by_stage": None, "seconds": None}))
    for name in (*names, "answer"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    again = harness.run("--split", "--jobs", "1", "-d", "31", vmcore, *(tmp_path / "many" / name for name in names))
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--jobs", "2"],
        ["--split", "--jobs", "2", "-L", "1G", "part"],
        ["--split", "--scheduler", "tcp://x:1", "--jobs", "2"],
    ],
)
def test_workers_are_for_fleets_and_parts(options):
    with pytest.raises(UsageError):
        parse([*options, "vmcore", "dumpfile"])


def test_sources_are_folders_globs_lists_and_files(tmp_path):
    for name in ("a/vmcore", "b/vmcore", "b/.hidden", "b/vmcore.part", "out/vmcore", "c.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list").write_text(f"{tmp_path}/a/vmcore\n\n{tmp_path}/b/*\n")

    def names(*sources, **options):
        found = find_dumps(sources, **options)
        return [os.path.relpath(one.path, tmp_path) for one in found], list(output_names(found).values())

    folder = ["a/vmcore", "b/vmcore", "c.zst", "list"]
    assert names(tmp_path, avoid=str(tmp_path / "out")) == (folder, ["a/vmcore", "b/vmcore", "c", "list"])
    assert names(f"{tmp_path}/*/vmcore")[1] == ["a/vmcore", "b/vmcore", "out/vmcore"]
    listed = [os.path.relpath(one.path, tmp_path) for one in find_dumps([f"@{tmp_path}/list"])]
    assert listed == ["a/vmcore", "b/vmcore", "b/vmcore.part"]
    assert names(f"{tmp_path}/a/vmcore", f"{tmp_path}/b/vmcore")[1] == ["a/vmcore", "b/vmcore"]
    assert names(f"{tmp_path}/a/vmcore")[1] == ["vmcore"]
    with pytest.raises(SourceError, match="no file has such a name"):
        find_dumps([f"{tmp_path}/nothing*"])
    with pytest.raises(UsageError, match="would be called vmcore"):
        output_names(find_dumps([f"{tmp_path}/a", f"{tmp_path}/b"]))


def test_the_page_escapes_what_dumps_say(tmp_path, folder, done):
    rows = read_rows(str(done[0]))
    rows[0] = rows[0] | {"state": "failed", "dump": "<script>", "error": "<img src=x>", "error_kind": "SourceError"}
    rows[1] = rows[1] | {"signature": "0" * 16, "reason": "<b>BUG</b>", "release": "6.1<i>", "crash_time": None}
    page = make_page(rows, "x<y")
    for text in ("<script", "<img", "<b>BUG", "<i>", "x<y"):
        assert text not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;BUG" in page


def test_reports_are_pages_and_tables(done, tmp_path):
    catalogue, _ = done
    harness.run_ok("fleet", "report", catalogue, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert all(release in page for release in RELEASES.values())
    assert "damaged3" in page
    parquet = pytest.importorskip("pyarrow.parquet")
    harness.run_ok("fleet", "report", catalogue, tmp_path / "table.parquet")
    table = parquet.read_table(tmp_path / "table.parquet")
    assert (table.num_rows, str(table.schema.field("memory_nbytes").type)) == (30, "int64")


@pytest.mark.filterwarnings("ignore")  # of pandas
def test_a_catalogue_opens_in_a_line_as_the_documentation_says(done, tmp_path, monkeypatch):
    text = (harness.REPOSITORY / "docs" / "fleet.rst").read_text()
    monkeypatch.chdir(tmp_path)
    Path("fleet.sqlite").symlink_to(done[0])
    names = {"sqlite3": sqlite3, "pandas": pytest.importorskip("pandas")}
    exec(re.search(r"^ +(frame = .+)$", text, re.MULTILINE)[1], names)
    counted = names["frame"].groupby("signature", dropna=False).size()
    assert counted.sum() == 30
    duckdb = pytest.importorskip("duckdb")
    harness.run_ok("fleet", "report", "fleet.sqlite", "dumps.parquet", cwd=tmp_path)
    rows = duckdb.sql(re.search(r"``(SELECT .+ GROUP BY ALL)``", text)[1]).fetchall()
    assert sorted(n for _, n in rows) == sorted(counted)
    assert len(rows) > 1


def test_a_full_disk_of_the_catalogue_stops_the_fleet_in_a_line(small_disk, tmp_path, folder):
    disk = small_disk(1)
    run_fleet(folder / "built00", "--do", "info", "--catalogue", disk / "c.sqlite")
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    command = (folder, "--do", "info", "--catalogue", disk / "c.sqlite", "--jobs", "1")
    result = run_fleet(*command)
    assert result.returncode == 1
    assert f"{disk}/c.sqlite: the disk is full: make room and start again" in result.stderr
    assert "Traceback" not in result.stderr
    (disk / "filler").unlink()
    result = run_fleet(*command, "--json")
    # What was known before the disk was full still is.
    assert json.loads(result.stdout)["n_known"] >= 1
    assert len(read_rows(str(disk / "c.sqlite"))) == 30


def test_a_catalogue_is_one_fleets_alone(tmp_path):
    path = str(tmp_path / "fleet.sqlite")
    with Catalogue(path), pytest.raises(SinkError, match="another fleet is writing it"):
        Catalogue(path)
    (tmp_path / "text").write_text("this is no database, but long enough to look like one" * 20)
    with pytest.raises(SourceError, match="is no catalogue"):
        Catalogue(str(tmp_path / "text"))
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE things (name TEXT)")
    with pytest.raises(SourceError, match="no catalogue of a fleet"):
        read_rows(str(tmp_path / "other"))
    with pytest.raises(SourceError, match="no such catalogue"):
        read_rows(str(tmp_path / "nothing"))


def test_a_full_disk_stops_the_fleet_and_loses_nothing(small_disk, tmp_path):
    disk = small_disk(2)
    (tmp_path / "in").mkdir()
    small_dump(tmp_path / "in" / "a")
    (tmp_path / "in" / "b").symlink_to(harness.distilled_vmcore("x86_64-6.1"))
    command = (
        tmp_path / "in",
        "--do",
        "filter",
        "--to",
        disk / "out",
        "--catalogue",
        tmp_path / "c.sqlite",
        "--jobs",
        "1",
    )
    result = run_fleet(*command, "-l", "-d", "1")
    assert result.returncode == 1
    assert "the fleet stops" in result.stderr.splitlines()[-3]
    assert [row["state"] for row in read_rows(str(tmp_path / "c.sqlite"))] == ["done", "begun"]
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    result = run_fleet(*command, "-l", "-d", "1", "--json")
    assert (result.returncode, json.loads(result.stdout)["n_known"]) == (0, 1)


def test_a_cluster_gives_the_same_rows(folder, done, tmp_path):
    distributed = pytest.importorskip("distributed")
    catalogue = tmp_path / "cluster.sqlite"
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", dashboard_address=":0"
    ) as cluster:
        command = (folder, "--do", "info,signature", "--catalogue", catalogue)
        result = run_fleet(*command, "--scheduler", cluster.scheduler_address)
        assert "dashboard" in result.stderr
        with distributed.Client(cluster) as client:
            (value,) = fleet.map(attrgetter("source.page_size"), folder / "built00", client)
    assert value.value == 4096
    own = {"seconds", "worker_nbytes", "finished_at"}

    def lasting(path):
        return [{name: value for name, value in row.items() if name not in own} for row in read_rows(str(path))]

    assert lasting(catalogue) == lasting(done[0])


def test_a_scheduler_that_is_not_there_is_an_error_of_one_line(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(on_dask, "_CONNECT_SECONDS", 0.2)
    for address, words in (("nonsense://127.0.0.1:1", "has such an address"), ("tcp://127.0.0.1:1", "answers")):
        with pytest.raises(FleetError, match=f"{address}: no Dask scheduler {words}"), on_dask.on_scheduler(address):
            pass


class Dying:
    """An executor whose workers die with the first tasks, as Dask says it."""

    def __init__(self, n_deaths: int) -> None:
        self.n_deaths = n_deaths

    def submit(self, call, task):
        future = Future()
        if self.n_deaths:
            self.n_deaths -= 1
            future.set_exception(RuntimeError("KilledWorker: attempted to run it on 4 workers\nand more"))
        else:
            future.set_result(Outcome(value=task))
        return future


def test_a_dump_whose_workers_died_is_handed_out_again():
    call = Call(b"")
    ((_, outcome),) = outcomes(Workers(Dying(2), 1, ""), call, ["dump"])
    assert outcome.value == "dump"
    (_, outcome), (_, other) = outcomes(Workers(Dying(3), 1, ""), call, ["dump", "other"])
    assert outcome.failure.text == "RuntimeError: KilledWorker: attempted to run it on 4 workers"
    assert other.value == "other"


def test_dumps_that_take_no_time_are_handed_out_together():
    sizes = []

    class Counting:
        n_deaths = 1

        def submit(self, call, task):
            future = Future()
            together = task if isinstance(task, tuple) else (task,)
            sizes.append(len(together))
            if len(together) > 1 and self.n_deaths:
                self.n_deaths = 0
                future.set_exception(RuntimeError("KilledWorker"))
            else:
                answers = [Outcome(value=one, seconds=one / 1000) for one in together]
                future.set_result(answers if len(together) > 1 else answers[0])
            return future

    workers = Workers(Counting(), 16, "", max_together=8)
    done = [(task, outcome.value) for task, outcome in outcomes(workers, Call(b""), range(2000))]
    assert sorted(done) == [(task, task) for task in range(2000)]
    # Those of a task whose worker died are handed out one by one, and those that take a second as well.
    assert max(sizes) == 8
    assert sizes.count(8) > 5
    assert set(sizes[-900:]) == {1}
    assert len(sizes) < 2000


def test_a_cluster_that_lost_its_workers_is_an_error(monkeypatch):
    class Never:
        def submit(self, call, task):
            return Future()

    class Client:
        scheduler = SimpleNamespace(address="tcp://host:1")
        status = "running"

        def nthreads(self):
            return {}

    monkeypatch.setattr("npdump.fleet.run.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(on_dask, "_LONELY_SECONDS", 0.02)
    check = on_dask._Check(Client())
    with pytest.raises(FleetError, match="has no workers any more"):
        list(outcomes(Workers(Never(), 1, "", check), Call(b""), ["dump"]))
    Client.status = "connecting"
    with pytest.raises(FleetError, match="the scheduler is lost"):
        check()
