# SPDX-License-Identifier: GPL-2.0-or-later
"""Which store a URL leads to, whose credentials it is given, and what is said of what it answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import npdump
from npdump.errors import MissingDependency, SinkError, SourceError
from npdump.sinks._remote import RemoteSink
from npdump.storage import _stores
from npdump.storage._remote import RemoteStorage
from tests import harness
from tests.readers import open_dump
from tests.serving import serving

pytest.importorskip("obstore")

SECRETS = ("TheKeyId", "TheSecret", "TheToken")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The dump of a real machine."""
    path = tmp_path_factory.mktemp("stores") / "small"
    harness.run_ok("-l", "-d", "31", harness.distilled_vmcore("x86_64-6.1"), path)
    return path


@pytest.fixture
def answering(monkeypatch):
    """A store that answers everything in one way: ``(status, body)``."""
    answer = [200, b""]

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer[1])

        do_GET = do_HEAD = do_PUT = do_POST = _answer

        def log_message(self, *args):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "TheKeyId",
            "AWS_SECRET_ACCESS_KEY": "TheSecret",
            "AWS_SESSION_TOKEN": "TheToken",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "AWS_ALLOW_HTTP": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield answer
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "SignatureDoesNotMatch", "refuses access"),
        (401, "AccessDenied", "refuses access"),
        (400, "ExpiredToken", "answers 400 Bad Request"),
        (404, "NoSuchBucket", "no such object"),
    ],
)
@pytest.mark.parametrize("head", [b"", b'<?xml version="1.0"?>\n'])
def test_what_a_store_answers_is_said_without_what_it_quotes(status, code, words, head, answering):
    quoted = " ".join(SECRETS)
    body = f"<Error><Code>{code}</Code><Token-0>{quoted}</Token-0><StringToSign>{quoted}</StringToSign></Error>"
    answering[:] = status, head + body.encode()
    for kind, question in [
        (SourceError, lambda: RemoteStorage("s3://bucket/key")),
        (SourceError, lambda: list(_stores.list_objects("s3://bucket/in/"))),
        (SinkError, lambda: RemoteSink("s3://bucket/key", True, 1 << 20).close()),
    ]:
        with pytest.raises(kind) as error:
            question()
        text = str(error.value)
        assert words in text
        assert not any(secret in text for secret in SECRETS)
        assert "\n" not in text
    # An answer to HEAD has no body.
    assert f"({code})" in text


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with one profile of the AWS command line's, and no credentials in the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = TheDefault\naws_secret_access_key = x\n"
        "[crashes]\naws_access_key_id = TheProfile\naws_secret_access_key = x\n"
    )
    (tmp_path / ".aws/config").write_text("[profile crashes]\nregion = eu-north-1\n")
    _stores._provider.cache_clear()
    yield monkeypatch
    _stores._provider.cache_clear()


def test_profiles_are_those_of_the_stores_own_tools(home, small):
    pytest.importorskip("boto3")
    with serving(small.parent) as server:
        seen = server.headers
        home.setenv("AWS_ENDPOINT", server.url)
        home.setenv("AWS_ALLOW_HTTP", "true")
        for profile, credential in ((None, "TheDefault/"), ("crashes", "TheProfile/")):
            if profile:
                home.setenv("AWS_PROFILE", profile)
            assert RemoteStorage("s3://bucket/small").nbytes == small.stat().st_size
            assert credential in seen[-1]["Authorization"]
        assert "/eu-north-1/" in seen[-1]["Authorization"]
        home.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(SourceError, match=r"s3://bucket/small: .*\(nobody\) could not be found"):
            RemoteStorage("s3://bucket/small")
        # What the environment says goes first.
        home.setenv("AWS_ACCESS_KEY_ID", "TheEnvironment")
        home.setenv("AWS_SECRET_ACCESS_KEY", "x")
        RemoteStorage("s3://bucket/small")
        assert "TheEnvironment/" in seen[-1]["Authorization"]


def test_a_profile_needs_the_library_that_reads_it(home):
    home.setitem(sys.modules, "obstore.auth.boto3", None)
    home.setenv("AWS_PROFILE", "crashes")
    with pytest.raises(MissingDependency, match="AWS_PROFILE needs boto3"):
        _stores.locate("s3://bucket/key")
    # Files that nobody named are passed over.
    home.delenv("AWS_PROFILE")
    _stores.locate("s3://bucket/key")


def test_a_web_server_is_read_by_ranges_and_never_written(small, tmp_path):
    with serving(small.parent) as server:
        url = f"{server.url}/any/small"
        with npdump.open(url) as dump:
            assert dump.info.release == "6.1.0-56-cloud-amd64"
        with npdump.open(small) as dump, pytest.raises(SinkError, match="only read from"):
            dump.write(f"{server.url}/any/made", level=31)
        server.has_ranges = False
        with npdump.open(url) as dump, pytest.raises(SourceError, match="no ranges of bytes: download the file first"):
            dump.source  # noqa: B018  # it is opened now


def make_and_read(scheme, small, tmp_path):
    """Make a dump in a store, list it, and read it again."""
    with npdump.open(small) as dump:
        dump.write(f"{scheme}://bucket/folder/made", level=31, codec="lzo")
    assert _stores.exists(f"{scheme}://bucket/folder/made")
    assert not _stores.exists(f"{scheme}://bucket/folder/other")
    ((url, nbytes, _),) = _stores.list_objects(f"{scheme}://bucket/folder/")
    assert (url, nbytes > 1 << 20) == (f"{scheme}://bucket/folder/made", True)
    with npdump.open(url) as dump:
        dump.write(tmp_path / "made", level=31, codec="lzo")
    assert dict(open_dump(tmp_path / "made").contents()) == dict(open_dump(small).contents())


@pytest.mark.filterwarnings("ignore")  # of moto and of the server's threads
def test_gs_by_the_interface_that_it_has_in_common_with_s3(small, tmp_path, monkeypatch):
    moto = pytest.importorskip("moto.server")
    serving_module = pytest.importorskip("werkzeug.serving")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    answer = moto.DomainDispatcherApplication(moto.create_backend_app)

    def without_tokens(environ, start_response):
        environ.pop("HTTP_AUTHORIZATION", None)  # moto takes it for one of Amazon's
        return answer(environ, start_response)

    server = serving_module.make_server("127.0.0.1", 0, without_tokens, threaded=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    base = f"http://127.0.0.1:{server.port}"
    urllib.request.urlopen(urllib.request.Request(f"{base}/bucket", method="PUT")).close()
    account = {"gcs_base_url": base, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    make_and_read("gs", small, tmp_path)
    server.shutdown()


AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, which its documentation publishes."""


def test_az_by_azurite(small, tmp_path, monkeypatch):
    azurite = shutil.which("azurite-blob")
    if azurite is None:
        pytest.skip("there is no azurite-blob (npm install azurite)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [azurite, "--silent", "--inMemoryPersistence", "--blobPort", str(port), "--skipApiVersionCheck"]
    server = subprocess.Popen([*command, "--disableTelemetry"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        base = f"http://127.0.0.1:{port}"
        make_container(base, "bucket")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", base)
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)
        make_and_read("az", small, tmp_path)
    finally:
        server.kill()
        server.wait()


def make_container(base, name):
    """Ask for one, signed as Microsoft's "Authorize with Shared Key" says, as soon as the server answers."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    signed = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
    signed += f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest())
    headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{signature.decode()}",
        "Content-Length": "0",
    }
    url = f"{base}/{AZURE_ACCOUNT}/{name}?restype=container"
    for _ in range(100):
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            time.sleep(0.1)
        else:
            return
