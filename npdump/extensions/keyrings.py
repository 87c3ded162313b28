# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases what the kernel's keys hold: those of the types user and logon, and big_key's and encrypted ones in memory.

References
----------
Linux ``include/linux/key.h``, ``include/keys/user-type.h`` (``struct user_key_payload``).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from npdump.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.objects import Crashed, Object

OF_USERS = ("user", "logon")
KEYRING = "keyring"


def erase(kernel: Crashed) -> Iterator[Object | tuple[int, int]]:
    """Yield the payloads; of types whose payload has another form, the key's own words that lead to it."""
    for key in keys(kernel):
        with suppress(AddressError):
            yield from payload_of(kernel, key)


def keys(kernel: Crashed) -> Iterator[Object]:
    """Yield all keys."""
    return kernel.walk_tree(kernel.object("key_serial_tree", "rb_root"), "key", "serial_node")


def payload_of(kernel: Crashed, key: Object) -> Iterator[Object | tuple[int, int]]:
    """Yield the payload of a key, or the words that lead to it."""
    name = str(key.type.name)
    if name in OF_USERS:
        at = int(key.payload.rcu_data0)
        if at:
            payload = kernel.at(at, "user_key_payload")
            yield payload.data.address_, int(payload.datalen)
    elif name != KEYRING:
        yield key.payload
