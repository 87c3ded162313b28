# SPDX-License-Identifier: GPL-2.0-or-later
"""Inputs and outputs that are URLs: what is read of them, connections that break, objects that are whole or absent."""

import contextlib
import gzip
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import npdump
from npdump.errors import ReadError, SinkError, SourceError
from npdump.observer import Silent
from npdump.storage import _kept, _remote, _stores
from tests import harness
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.serving import serving

pytest.importorskip("obstore")

GIB = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vmcore of 4 GiB, one of a real machine, and its small dump."""
    path = tmp_path_factory.mktemp("objects")
    blocks = [Block(0x10000 + 0x1000 * i, "free", 10) for i in range(0, 200, 3)]
    # No section is like another one, which would share its struct pages.
    blocks += [Block(0x8000 * i + 1024 + 8 * i, "kernel") for i in range(2, 32)]
    ram = [(0x1000, 0x9FC00), (1 << 20, 4 * GIB)]
    build(path / "4g", Description(ram=ram, blocks=blocks, background=Block(0, "anon", 9), fill=0))
    (path / "vmcore").symlink_to(harness.distilled_vmcore("x86_64-6.1"))
    harness.run_ok("-l", "-d", "31", path / "vmcore", path / "small")
    return path


@pytest.fixture
def server(folder, monkeypatch):
    with serving(folder) as server:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "TheSecretThatIsInNoMessage",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": server.url,
            "AWS_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


def test_the_pages_of_4_gib_are_told_apart_by_3_percent_of_them(server, folder):
    with npdump.open("s3://bucket/4g") as dump:
        counts = dump.scan(31).counts
    assert server.nbytes <= 0.03 * 4 * GIB
    assert len(server.requests) <= 200
    with npdump.open(folder / "4g") as dump:
        assert dump.scan(31).counts == counts


@pytest.mark.parametrize("name", ["vmcore", "small"])
def test_a_dump_is_made_of_what_is_kept_and_little_more(name, server, folder, tmp_path):
    url = f"{server.url}/any/{name}" if name == "small" else f"s3://bucket/{name}"
    with npdump.open(url) as dump:
        summary = dump.write(tmp_path / "made", level=31, codec="lzo", n_threads=2)
    # That a page is zero is seen by reading it.
    n_kept = summary.n_remaining + summary.n_zero
    kept_nbytes = (folder / "small").stat().st_size if name == "small" else n_kept * 4096
    # With what tells the pages apart, and the pages to which others are equal.
    assert server.nbytes <= 1.02 * kept_nbytes
    harness.run_ok("-l", "-d", "31", folder / name, tmp_path / "expected")
    assert (tmp_path / "made").read_bytes() == (tmp_path / "expected").read_bytes()


def test_without_room_for_what_was_read_it_is_read_again(server, folder, tmp_path, monkeypatch):
    class Full(_kept.Kept):
        def __init__(self, directory):
            super().__init__(str(tmp_path / "missing"))
            self._max_nbytes = 1 << 20

    monkeypatch.setattr(_remote, "Kept", Full)
    with npdump.open("s3://bucket/vmcore") as dump:
        dump.write(tmp_path / "made", level=31, codec="lzo")
    assert (tmp_path / "made").read_bytes() == (folder / "small").read_bytes()


def test_what_was_read_is_cut_out_of_what_is_wanted():
    rng = np.random.default_rng(2)
    content = rng.integers(0, 256, 5000, np.uint8)
    kept = _kept.Kept(None)
    is_there = np.zeros(len(content), np.bool_)
    for _ in range(100):
        starts = rng.integers(0, len(content), 20)
        stops = starts + rng.integers(1, 300, 20).clip(max=len(content) - starts)
        pieces = kept.split(starts, stops)
        for owner, start, stop, there in zip(*map(np.ndarray.tolist, pieces), strict=True):
            assert starts[owner] <= start < stop <= stops[owner]
            assert (is_there[start:stop] == there).all()
            if there:
                read = np.empty(stop - start, np.uint8)
                kept.read_into(start, read)
                assert (read == content[start:stop]).all()
        assert np.bincount(pieces.owner, pieces.stops - pieces.starts).tolist() == (stops - starts).tolist()
        start = int(rng.integers(0, len(content) - 40))
        kept.put(start, content[start : start + 40])
        is_there[start : start + 40] = True
    kept.close()


def test_answers_that_are_cut_are_fetched_again(server, folder, tmp_path):
    server.n_cut = 50
    with npdump.open("s3://bucket/vmcore") as dump:
        summary = dump.write(tmp_path / "made", level=31, codec="lzo")
    assert server.n_cut == 0
    assert not summary.n_lost
    assert (tmp_path / "made").read_bytes() == (folder / "small").read_bytes()


def test_objects_that_are_packed_are_unpacked(server, folder):
    (folder / "packed.gz").write_bytes(gzip.compress((folder / "small").read_bytes()[: 1 << 20], 1))
    with npdump.open("s3://bucket/packed.gz") as dump:
        assert dump.info.release == "6.1.0-56-cloud-amd64"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://bucket/nothing", "there is no such object"),
        ("https://user:TheSecret@host/key", "password or a query"),
        ("https://host/key?X-Amz-Signature=TheSecret", "password or a query"),
        ("nonsense://host/key", "nonsense://host/key: "),
        ("file:///etc/hostname", "give the path of a file"),
    ],
)
def test_what_is_wrong_is_said_without_secrets(url, words, server):
    with npdump.open(url) as dump, pytest.raises(SourceError) as error:
        dump.source  # noqa: B018  # it is opened now
    text = str(error.value)
    assert words in text
    assert "TheSecret" not in text
    assert "\n" not in text


def test_requests_bridge_gaps_within_the_budget_alone():
    rng = np.random.default_rng(1)
    for _ in range(50):
        edges = np.sort(rng.choice(1 << 24, 200, replace=False)) & ~4095
        starts, stops = edges[::2], edges[1::2]
        starts, stops = starts[stops > starts], stops[stops > starts]
        firsts = _remote.requests(starts, stops)
        lasts = np.append(firsts[1:], len(starts)) - 1
        assert firsts[0] == 0
        assert (stops[lasts] - starts[firsts]).sum() <= 1.02 * (stops - starts).sum()


class CuttingProxy:
    """Passes bytes between a client and a server, and cuts some of the connections that send much."""

    def __init__(self, port: int, n_cut: int) -> None:
        self.port, self.n_cut = port, n_cut
        self.n_sent = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other, one is client), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket, is_client: bool) -> None:
        n = 0
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                n += len(data)
                self.n_sent += len(data) if is_client else 0
                if is_client and n > 1 << 20 and self.n_cut > 0:
                    self.n_cut -= 1
                    break
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()


@pytest.fixture(scope="module")
def s3():
    """A bucket of moto's S3 server, and its port."""
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
    client.create_bucket(Bucket="bucket")
    yield client, port
    server.stop()


@pytest.fixture
def bucket(s3, server, monkeypatch):
    client, port = s3
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{port}")
    return client


def keys_of(bucket):
    return [entry["Key"] for entry in bucket.list_objects_v2(Bucket="bucket").get("Contents", [])]


def uploads_of(bucket):
    return bucket.list_multipart_uploads(Bucket="bucket").get("Uploads", [])


@pytest.mark.filterwarnings("ignore")  # of moto and of the servers' threads
def test_an_object_is_the_dump_in_the_flattened_format(bucket, folder, tmp_path):
    harness.run_ok("-l", "-d", "31", folder / "vmcore", "s3://bucket/made")
    body = bucket.get_object(Bucket="bucket", Key="made")["Body"].read()
    (tmp_path / "flattened").write_bytes(body)
    with open(tmp_path / "flattened", "rb") as file:
        subprocess.run(
            [*harness.npdump_command(), "-R", tmp_path / "plain"], stdin=file, check=True, capture_output=True
        )
    assert (tmp_path / "plain").read_bytes() == (folder / "small").read_bytes()
    assert not uploads_of(bucket)
    with npdump.open(folder / "small") as dump, pytest.raises(SinkError, match="exists already"):
        dump.write("s3://bucket/made", level=31)


@pytest.mark.filterwarnings("ignore")
def test_a_part_whose_connection_breaks_is_sent_once_more(s3, bucket, folder, monkeypatch):
    proxy = CuttingProxy(s3[1], n_cut=2)
    monkeypatch.setenv("AWS_ENDPOINT", proxy.url)
    with npdump.open(folder / "small") as dump:
        dump.write("s3://bucket/cut", level=31, codec="lzo")
    size = bucket.head_object(Bucket="bucket", Key="cut")["ContentLength"]
    assert proxy.n_cut == 0
    assert proxy.n_sent <= size + 2 * (8 << 20) + (1 << 20)
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{s3[1]}")
    with npdump.open("s3://bucket/cut") as dump, npdump.open(folder / "small") as expected:
        assert np.array_equal(dump.source.data_runs, expected.source.data_runs)


class Stops(Silent):
    """Raises when so many pages are done."""

    def progress(self, stage: str, done: int, total: int, nbytes: int = 0) -> None:
        if stage == "Copying data" and done > 3000:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore")
def test_what_fails_leaves_no_object(bucket, folder):
    with npdump.open(folder / "vmcore") as dump:
        with pytest.raises(KeyboardInterrupt):
            dump.write("s3://bucket/stopped", level=31, observer=Stops())
        with pytest.raises(SinkError, match="limit of 20000000 bytes"):
            dump.write("s3://bucket/limited", level=31, limit_nbytes=20_000_000)
    assert not {"stopped", "limited"} & set(keys_of(bucket))
    assert not uploads_of(bucket)


@pytest.mark.filterwarnings("ignore")
def test_a_fleet_reads_and_writes_stores(bucket, folder, tmp_path):
    bucket.upload_file(str(folder / "small"), "bucket", "in/a/vmcore")
    bucket.put_object(Bucket="bucket", Key="in/a/log.txt", Body=b"no dump" * 1000)
    catalogue = tmp_path / "fleet.sqlite"
    command = ("fleet", "s3://bucket/in/", "--do", "info,filter", "--to", "s3://bucket/out", "-l", "-d", "31")
    result = harness.run(*command, "--catalogue", catalogue, "--jobs", "1")
    assert result.returncode == 0, result.stderr
    with sqlite3.connect(catalogue) as database:
        rows = database.execute("SELECT dump, state, release, output FROM dumps ORDER BY dump").fetchall()
    assert [row[:2] for row in rows] == [("s3://bucket/in/a/log.txt", "other"), ("s3://bucket/in/a/vmcore", "done")]
    assert rows[1][2:] == ("6.1.0-56-cloud-amd64", "s3://bucket/out/a/vmcore")
    assert "out/a/vmcore" in keys_of(bucket)


def test_a_server_that_stops_is_an_error_of_one_line(folder, monkeypatch):
    with serving(folder) as server:
        storage = _remote.RemoteStorage(f"{server.url}/x/small")
        (folder / "going").write_bytes(b"x" * (1 << 20))
        going = _remote.RemoteStorage(f"{server.url}/x/going")
        (folder / "going").unlink()
        with pytest.raises(ReadError, match="can't be read at byte 0: there is no such object"):
            going.view(0, 1 << 20)
    with pytest.raises(SourceError):
        storage.view(0, storage.nbytes + 1)


def test_without_the_library_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(npdump.errors.MissingDependency, match=r"npdump\[remote\]"):
        _stores.locate("s3://bucket/key")


def test_a_file_may_be_called_like_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s3:/bucket").mkdir(parents=True)
    Path("s3:/bucket/vmcore").symlink_to(harness.distilled_vmcore("x86_64-6.1"))
    with npdump.open("./s3://bucket/vmcore") as dump:
        assert dump.source.page_size == 4096
