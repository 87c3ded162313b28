# SPDX-License-Identifier: GPL-2.0-or-later
"""An ssh server on the loopback, for one user with one key: where dumps are sent to."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin")


class Server(NamedTuple):
    """A running server: its port, the user's name, the private key, and its own public one."""

    port: int
    user: str
    key: Path
    host_key: str

    def known_hosts(self, host: str) -> str:
        """Return the line that a client knows it by."""
        return f"[{host}]:{self.port} {self.host_key}\n"


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Run one with its files in a new folder."""
    folder.mkdir(parents=True)
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "npdump", "-f", folder / name]
        subprocess.run(command, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "user.pub",
        "StrictModes": "no",
        "PidFile": "none",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "Subsystem": "sftp internal-sftp",
    }
    settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    process = subprocess.Popen([SERVER, "-D", "-f", "/dev/null", *settings], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        yield Server(port, getpass.getuser(), folder / "user", host_key)
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.05)
    raise TimeoutError(f"sshd doesn't answer at port {port}")
