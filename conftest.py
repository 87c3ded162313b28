# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that the examples in docstrings use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing import Any


@pytest.fixture(autouse=True)
def doctest_names(request: pytest.FixtureRequest) -> None:
    """Give examples ``npdump``, ``vmcore`` (a dump of Linux 6.1 with 256 MiB of memory) and ``tmp_path``."""
    if isinstance(request.node, pytest.DoctestItem):
        import npdump
        from tests.harness import distilled_vmcore

        names: dict[str, Any] = request.getfixturevalue("doctest_namespace")
        names["npdump"] = npdump
        names["vmcore"] = str(distilled_vmcore("x86_64-6.1"))
        names["tmp_path"] = request.getfixturevalue("tmp_path")
