# SPDX-License-Identifier: GPL-2.0-or-later
"""A pytest plugin for who tests with dumps: equal dumps, and references that are no dumps.

    def test_filter(vmcore, tmp_path, assert_same_dump, dump_reference):
        make_dump(vmcore, tmp_path / "dump")
        assert_same_dump("expected-dump", tmp_path / "dump")
        dump_reference(tmp_path / "dump", "references/dump.json")

``pytest --npdump-update`` writes the references again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["assert_same_dump", "dump_reference", "pytest_addoption"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--npdump-update``."""
    group = parser.getgroup("npdump")
    group.addoption("--npdump-update", action="store_true", help="write the references of dumps again")


@pytest.fixture(scope="session")
def assert_same_dump() -> Callable[..., None]:
    """Return a function that fails, and says what differs, unless two dumps are the same.

    It takes two paths, and as named arguments how many differences of each area are tolerated, as ``extra=100``;
    see `npdump.compare.AREAS`.
    """
    # Imported here: a plugin that is loaded in every run of pytest must cost nothing.
    import npdump
    from npdump.compare import compare
    from npdump.compare.report import as_text

    def check(one: str | os.PathLike[str], other: str | os.PathLike[str], **allowed: int) -> None:
        __tracebackhide__ = True
        with npdump.open(one) as first, npdump.open(other) as second:
            found = compare(first.source, second.source, pages=first.pages_if_known(), allowed=allowed)
        if not found.is_same:
            pytest.fail(as_text(found), pytrace=False)

    return check


@pytest.fixture
def dump_reference(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that fails unless a dump is that of a reference in JSON, a skeleton of counts and digests."""
    import npdump
    from npdump.answers.skeleton import Skeleton, differences, make_skeleton

    is_updating = request.config.getoption("--npdump-update")

    def check(dump: str | os.PathLike[str], reference: str | os.PathLike[str]) -> None:
        __tracebackhide__ = True
        path = Path(reference)
        with npdump.open(dump) as opened:
            found = make_skeleton(opened.source)
        if is_updating:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found.as_json())
            return
        if not path.exists():
            pytest.fail(f"{path}: there is no such reference: pytest --npdump-update makes it", pytrace=False)
        words = differences(Skeleton.from_json(path.read_text()), found)
        if words:
            pytest.fail(f"{dump} is not what {path} says:\n" + "\n".join(words), pytrace=False)

    return check
