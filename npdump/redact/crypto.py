# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases keys of encrypted disks, and what the kernel's ciphers made of keys.

A transform (``struct crypto_tfm``) names its algorithm, and behind that is what it works with: key schedules as a rule.
They are on no list: each slab object that names an algorithm and is none itself is one.

References
----------
Linux ``include/linux/crypto.h``, ``drivers/md/dm-crypt.c`` (struct crypt_config), ``drivers/md/dm-ioctl.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.errors import AddressError, FactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.kernel.objects import Object, PhysicalRange
    from npdump.redact import Ground

WHAT = "keys of encrypted disks and of ciphers"

DM, CRYPT = "dm_mod", "dm_crypt"
MAX_KEY_NBYTES = 1 << 16
MAX_TARGETS = 1 << 16
SECRETS = {"crypt_iv_lmk_ops": (("lmk", "seed"),), "crypt_iv_tcw_ops": (("tcw", "iv_seed"), ("tcw", "whitening"))}
"""What some ways of making initial vectors have beside the key, by the variable that names the way."""


def erase(ground: Ground) -> Iterator[Runs | PhysicalRange | tuple[int, int]]:
    """Yield the keys, and what follows the name of the algorithm in each transform."""
    ground.algorithms  # noqa: B018  # where these can't be found, neither can transforms
    tfm = ground.kernel.names.record("crypto_tfm").members
    skip = tfm["__crt_ctx"].offset - tfm["__crt_alg"].offset - ground.kernel.memory.word.itemsize
    found = ground.survey.tfms
    found = found[found[:, 0] + skip < found[:, 1]]
    found[:, 0] += skip
    yield found
    yield from _disks(ground)


def _disks(ground: Ground) -> Iterator[PhysicalRange | tuple[int, int]]:
    """Yield the keys of all devices of dm-crypt."""
    kernel = ground.kernel
    module = DM if DM in kernel.names.modules else "vmlinux"
    if CRYPT not in kernel.names.modules and kernel.names.find_record("crypt_config") is None:
        return
    crypt = CRYPT if CRYPT in kernel.names.modules else "vmlinux"
    if kernel.names.symbol("name_rb_tree", module) is None:
        raise FactError("the kernel does not tell where the devices of its device mapper are")
    cells = kernel.walk_tree(kernel.object("name_rb_tree", "rb_root", module), "hash_cell", "name_node", module)
    for cell in cells:
        with ground.missing("devices of the device mapper"):
            for table in (int(cell.md.map), int(cell.new_map)):
                if table:
                    yield from _keys(ground, kernel.at(table, "dm_table", module), crypt)


def _keys(ground: Ground, table: Object, module: str) -> Iterator[PhysicalRange | tuple[int, int]]:
    kernel = ground.kernel
    for i in range(min(int(table.num_targets), MAX_TARGETS)):
        target = table.targets[i]
        if str(target.type.name) != "crypt":
            continue
        config = kernel.at(int(target.private), "crypt_config", module)
        nbytes = int(config.key_size)
        if nbytes > MAX_KEY_NBYTES:
            raise AddressError(f"{config!r} would have a key of {nbytes} bytes")
        yield config.key.address_, nbytes
        if int(config.authenc_key):
            yield ground.object_at(int(config.authenc_key))
        for name, paths in SECRETS.items():
            if int(config.iv_gen_ops) and int(config.iv_gen_ops) == kernel.names.symbol(name, module):
                for path in paths:
                    secret = config.iv_gen_private
                    for member in path:
                        secret = getattr(secret, member)
                    if int(secret):
                        yield ground.object_at(int(secret))
