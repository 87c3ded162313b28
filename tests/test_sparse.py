# SPDX-License-Identifier: GPL-2.0-or-later
"""Holes of a sparse input hold zeros like any others: with and without them the output is the same."""

import subprocess

import pytest

from tests.harness import run_ok


def copy(path, sparse):
    """Copy a file with `cp --sparse`."""
    target = path.with_name(f"{path.name}.{sparse}")
    subprocess.run(["cp", f"--sparse={sparse}", path, target], check=True)
    return target


def disk_nbytes(path):
    return path.stat().st_blocks * 512


@pytest.fixture(scope="module", params=["aligned", "unaligned"])
def sparse_and_dense(request, distilled, tmp_path_factory):
    """The same vmcore with holes and without; pages begin where blocks of the file do, or in the midst of them."""
    folder = tmp_path_factory.mktemp("sparse")
    vmcore = distilled("x86_64-6.1")
    path = folder / "vmcore"
    if request.param == "aligned":
        path.symlink_to(vmcore)
    else:
        run_ok("-E", "-d", "0", vmcore, path)
    sparse, dense = copy(path, "always"), copy(path, "never")
    if disk_nbytes(sparse) == disk_nbytes(dense):
        pytest.skip(f"{folder} is on a file system without holes")
    return sparse, dense


@pytest.mark.parametrize("form", [["-l"], ["-E"], []])
@pytest.mark.parametrize("level", [0, 1, 31])
def test_dumps_are_the_same(level, form, sparse_and_dense, tmp_path):
    made = []
    for vmcore in sparse_and_dense:
        made.append(tmp_path / vmcore.suffix)
        run_ok(*form, "-d", str(level), vmcore, made[-1])
    subprocess.run(["cmp", *made], check=True)


def test_zero_pages_are_counted_the_same(sparse_and_dense):
    of_sparse, of_dense = (run_ok("--mem-usage", vmcore, "-f").stdout for vmcore in sparse_and_dense)
    assert "ZERO" in of_dense.upper()
    assert of_sparse == of_dense
