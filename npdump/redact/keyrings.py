# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases what the kernel's keys hold, of whatever type they are.

References
----------
Linux ``include/linux/key.h`` (union key_payload), ``include/keys/user-type.h`` (struct user_key_payload).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.errors import AddressError
from npdump.extensions import keyrings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.objects import Object, PhysicalRange
    from npdump.redact import Ground

WHAT = "payloads of keys"


def erase(ground: Ground) -> Iterator[Object | PhysicalRange | tuple[int, int]]:
    """Yield the payloads; of types whose payload has another form, also all objects that the key leads to."""
    for key in keyrings.keys(ground.kernel):
        with ground.missing("keys"):
            yield from keyrings.payload_of(ground.kernel, key)
            if str(key.type.name) not in (*keyrings.OF_USERS, keyrings.KEYRING):
                yield from _others(ground, key)


def _others(ground: Ground, key: Object) -> Iterator[PhysicalRange]:
    for i in range(key.payload.data.type_.n_elements):
        address = int(key.payload.data[i])
        if ground.kernel.memory.is_kernel_vaddr(address):
            try:
                yield ground.object_at(address)
            except AddressError:
                continue  # a description of the type in the kernel's own data
