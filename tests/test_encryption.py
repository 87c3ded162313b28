# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted dumps: age's own library and program decrypt them, npdump reads them, and what was changed is refused."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest

import npdump as library
from npdump.errors import SourceError
from tests import harness
from tests.readers import open_dump
from tests.readers.flattened import unflatten

pyrage = pytest.importorskip("pyrage")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A vmcore, a plain dump of it, an encrypted one, and who can decrypt that."""
    folder = tmp_path_factory.mktemp("age")
    identity = pyrage.x25519.Identity.generate()
    (folder / "key").write_text(f"# created by age-keygen\n{identity}\n")
    (folder / "other").write_text(str(pyrage.x25519.Identity.generate()))
    vmcore = harness.distilled_vmcore("x86_64-6.1")
    with library.open(vmcore) as dump:
        dump.write(folder / "plain", level=31, codec="lzo")
        dump.write(folder / "encrypted", level=31, codec="lzo", encrypt_to=[str(identity.to_public())])
    return vmcore, folder, identity


def test_what_the_library_of_age_decrypts_is_the_dump_flattened(made):
    _, folder, identity = made
    (folder / "flat").write_bytes(pyrage.decrypt((folder / "encrypted").read_bytes(), [identity]))
    assert unflatten(folder / "flat", folder / "round").read_bytes() == (folder / "plain").read_bytes()
    assert stat.S_IMODE((folder / "encrypted").stat().st_mode) == 0o600


@pytest.mark.skipif(shutil.which("age") is None, reason="the program age isn't installed")
def test_the_program_age_decrypts_files_and_streams(made, tmp_path):
    vmcore, folder, identity = made
    (tmp_path / "friends").write_text(f"# two of them\n{identity.to_public()}\n")
    with (tmp_path / "stream").open("wb") as stream:
        command = [*harness.npdump_command(), "-Fld31", "--encrypt-to", tmp_path / "friends", vmcore]
        subprocess.run(command, stdout=stream, stderr=subprocess.DEVNULL, check=True)
    for path in (folder / "encrypted", tmp_path / "stream"):
        subprocess.run(["age", "-d", "-i", folder / "key", "-o", tmp_path / "flat", path], check=True)
        assert unflatten(tmp_path / "flat", tmp_path / "round").read_bytes() == (folder / "plain").read_bytes()


def test_npdump_reads_it_with_the_private_key(made, npdump, tmp_path):
    _, folder, _ = made
    result = npdump("-d31", "--identity", folder / "key", folder / "encrypted", tmp_path / "again")
    assert result.returncode == 0
    assert open_dump(tmp_path / "again").kept.tolist() == open_dump(folder / "plain").kept.tolist()
    for arguments, said in (
        ([], "is encrypted (age): give the file with the private key, --identity FILE"),
        (["--identity", folder / "other"], "can't be decrypted with"),
        (["--identity", folder / "plain"], "has no private key of age or SSH"),
        (["--identity", tmp_path / "nosuch"], "nosuch: can't be read: No such file"),
    ):
        result = npdump("-d31", *arguments, folder / "encrypted", tmp_path / "none")
        assert (result.returncode, (tmp_path / "none").exists()) == (1, False)
        assert said in result.stderr
        assert "Traceback" not in result.stderr


def test_what_was_cut_or_changed_anywhere_is_refused(made, tmp_path):
    _, folder, _ = made
    whole = (folder / "encrypted").read_bytes()
    n, chunk = len(whole), 65536 + 16
    header = n % chunk  # and the last chunk
    cuts = [whole[:at] for at in (30, 150, header, n // 2, n - chunk, n - 17, n - 1)]
    flips = [
        whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
        for at, bit in ((50, 1), (120, 2), (300, 4), (n // 3, 128), (n - 1, 1))
    ]
    last = whole[: n - chunk] + whole[n - chunk + 8 :]
    for changed in (*cuts, *flips, last, whole + b"more"):
        (tmp_path / "changed").write_bytes(changed)
        with (
            pytest.raises(SourceError),
            library.open(tmp_path / "changed", identity=folder / "key") as dump,
        ):
            dump.info  # noqa: B018


def test_a_file_that_does_not_fit_is_removed_and_the_next_level_tried(made, npdump, tmp_path):
    vmcore, folder, identity = made
    out, room = tmp_path / "out", (folder / "encrypted").stat().st_size
    arguments = ("--encrypt-to", str(identity.to_public()), "-L", str(room + 100_000), vmcore, out)
    result = npdump("-l", *arguments)
    assert (result.returncode, out.exists()) == (1, False)
    assert "the limit of" in result.stderr
    result = npdump("-ld0,31", *arguments)
    assert result.returncode == 0
    (tmp_path / "flat").write_bytes(pyrage.decrypt(out.read_bytes(), [identity]))
    # Where there is a limit, pages stand in another order.
    found, plain = open_dump(unflatten(tmp_path / "flat", tmp_path / "round")), open_dump(folder / "plain")
    kept = plain.kept.tolist()
    assert found.kept.tolist() == kept
    assert all(found.page(pfn) == plain.page(pfn) for pfn in kept)


def test_who_can_not_read_it_is_said_before_anything_is_written(made, npdump, tmp_path):
    vmcore, folder, _ = made
    for recipient, said in (
        ("age1nobody", "age1nobody: is no public key of age or SSH"),
        (folder / "key", "is no public key of age or SSH"),
        (tmp_path / "nosuch", "a public key (age1… or ssh-…), or a file of such, is expected there"),
    ):
        result = npdump("-d31", "--encrypt-to", recipient, vmcore, tmp_path / "none")
        assert (result.returncode, (tmp_path / "none").exists()) == (1, False)
        assert said in result.stderr
    assert "no dump is written" in npdump("info", "--encrypt-to", "age1x", vmcore).stderr
    assert "send the stream there" in npdump("--encrypt-to", "age1x", vmcore, "s3://bucket/key").stderr
