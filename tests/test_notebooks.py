# SPDX-License-Identifier: GPL-2.0-or-later
"""The notebooks run from the first cell to the last, on a dump that comes with the project."""

import json

import pytest

from tests import harness

NOTEBOOKS = sorted((harness.REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")  # of pandas and matplotlib, which are not this test's matter
def test_it_runs(path, monkeypatch, tmp_path):
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    pytest.importorskip("cloudpickle")
    monkeypatch.setenv("NPDUMP_VMCORE", str(harness.distilled_vmcore("x86_64-6.1")))
    monkeypatch.setenv("NPDUMP_VMCORES", str(tmp_path))
    (tmp_path / "vmcore").symlink_to(harness.distilled_vmcore("x86_64-6.1"))
    (tmp_path / "damaged").write_bytes(b"KDUMP   damaged" * 1000)
    names = {"__name__": "__main__"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.stem}: {cell['id']}", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_can_be_read_without_running(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells[:-1])  # the last one closes the dump
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    if path.stem != "leak":
        assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 5
