# SPDX-License-Identifier: GPL-2.0-or-later
"""struct new_utsname: who the crashed kernel says it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npdump.facts import Facts

__all__ = ["FIELDS_NBYTES", "N_FIELDS", "from_facts", "parse"]

N_FIELDS = 6
"""sysname, nodename, release, version, machine, domainname."""

FIELD_NBYTES = 65
"""__NEW_UTS_LEN + 1."""

FIELDS_NBYTES = N_FIELDS * FIELD_NBYTES


def parse(raw: bytes) -> tuple[bytes, ...]:
    """Split a struct new_utsname into its six strings."""
    fields = (raw[i * FIELD_NBYTES : (i + 1) * FIELD_NBYTES] for i in range(N_FIELDS))
    return tuple(field.partition(b"\0")[0] for field in fields)


def from_facts(facts: Facts | None, machine: str) -> tuple[bytes, ...]:
    """Make the best of what is known where the structure itself can't be read."""
    release = (facts.release if facts else None) or ""
    return b"Linux", b"", release.encode()[: FIELD_NBYTES - 1], b"", machine.encode(), b""
