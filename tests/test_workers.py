"""The output does not depend on how many workers make it."""

from __future__ import annotations

import harness
import pytest
from builders.kernels import KERNELS
from builders.vmcore import Description, build

MIB = 1 << 20


@pytest.mark.parametrize("form", ["raw", "elf"])
def test_uncompressed_pages_survive_workers(tmp_path, form):
    """Workers hold batches until each has its place: none may be overwritten by the next one's pages.

    At level 0 whole batches are stored as they are read, which is where that once went wrong.
    """
    vmcore = tmp_path / "vmcore"
    build(vmcore, Description(kernel=KERNELS["6.12"], ram=[(MIB, 48 * MIB)], fill=1))
    outputs = []
    for n_workers in ("1", "2", "4"):
        output = tmp_path / n_workers
        options = ["-E"] if form == "elf" else []
        harness.run_ok(*options, "-d", "0", "-b", "2", "--num-threads", n_workers, vmcore, output)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
