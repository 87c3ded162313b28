# SPDX-License-Identifier: GPL-2.0-or-later
"""Who can read a dump."""

from npdump.cli.commands import MAKE_DUMPS
from npdump.cli.flags._declare import Rule, flag

TITLE = "encryption"

FLAGS = (
    flag(
        "--encrypt-to",
        metavar="RECIPIENT",
        action="append",
        default=[],
        help="encrypt DUMPFILE, or the stream of -F, with age: RECIPIENT is a public key (age1..., ssh-ed25519 ..., "
        "ssh-rsa ...) or a file of such; may be given several times, and each of them can decrypt it; inside is the "
        "flattened format; age -d decrypts it too",
    ),
    flag(
        "--identity",
        metavar="FILE",
        help="decrypt an encrypted VMCORE with the private key in FILE, which age-keygen(1) or ssh-keygen(1) made; "
        "the decrypted dump is in a temporary file without a name (--work-dir) while npdump runs",
    ),
)

RULES = (
    Rule(
        lambda o: o.encrypt_to and o.command not in MAKE_DUMPS,
        "--encrypt-to: no dump is written that could be encrypted",
    ),
    Rule(
        lambda o: o.encrypt_to and (o.jobs is not None or o.scheduler is not None),
        "--encrypt-to with --jobs or --scheduler: one process encrypts",
    ),
    Rule(
        lambda o: o.encrypt_to and any("://" in path for path in o.dumpfiles),
        "--encrypt-to with an object in a store: give -F, and send the stream there",
    ),
)
