# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores (``s3://``, ``gs://``, ``az://``) and web servers (``https://``): which one a URL leads to, and what it says.

All of these are one library's, obstore: opening a store takes it 0.06 to 0.2 s, s3fs 1.4 s; 64 MiB in ranges of 8 MiB
took 1.2 s of the same server, by s3fs 2.1 s; and it needs no library for each store. It resumes connections that break,
and finds credentials where the stores' own tools do, in the environment and from the machine's metadata, but not in
the profiles below ``~/.aws``: these are boto3's matter, if it is installed.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from npdump.errors import MissingDependency, ReadError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Place", "exists", "explained", "explanation", "list_objects", "locate", "obstore"]

_NO_STORES = ("file", "memory")
"""obstore knows these too; but files are made by `npdump.sinks.file`, which keeps them from others."""

_URL = re.compile(r"https?://\S+")
_SECONDS = re.compile(r" in [\d.]+[mµn]?s\b")
_PREFIX = re.compile(r"^Generic \w+ error: ")
_RETRIES = re.compile(r", max_retries: \d+, retry_timeout: \d+s\b")
_STATUS = re.compile(r"status code: (?P<number>\d{3}) ?(?P<words>[A-Za-z -]*)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
"""Of the answers of S3, of which the rest may hold signatures and tokens."""

_AWS_KEY = "AWS_ACCESS_KEY_ID"
_AWS_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
_REFUSED = (
    "the store refuses access{}: it takes the credentials of the environment, those of the machine, and for s3:// "
    "those of ~/.aws if boto3 is installed"
)


class Place(NamedTuple):
    """An object, and how to get at it.

    Attributes
    ----------
    url : str
        What messages call it.
    store : obstore.store.ObjectStore
    key : str
    """

    url: str
    store: Any
    key: str


def obstore() -> Any:
    """Return the library.

    Raises
    ------
    MissingDependency
    """
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        text = "URLs need obstore, which is not installed: pip install 'npdump[remote]'"
        raise MissingDependency(text) from error
    return obstore


def locate(url: str) -> Place:
    """Return where a URL leads; nothing is asked of the store.

    Raises
    ------
    MissingDependency
    SourceError
        If there are no such stores.
    """
    scheme, _, rest = url.partition("://")
    root, _, key = rest.partition("/")
    shown = f"{scheme}://{root.rpartition('@')[2]}/{key.partition('?')[0]}"
    if scheme in _NO_STORES:
        raise SourceError(f"{shown}: no object has such a name: give the path of a file as it is", path=shown)
    if "@" in root or "?" in key:
        raise SourceError(
            f"{shown}: a URL with a password or a query in it isn't taken: others would read it", path=shown
        )
    library = obstore()
    options: dict[str, Any] = {"client_options": {"allow_http": True}} if scheme == "http" else {}
    try:
        if scheme == "s3" and (provider := _profile()) is not None:
            options["credential_provider"] = provider
        return Place(shown, library.store.from_url(f"{scheme}://{root}", **options), key)
    except MissingDependency:
        raise
    except Exception as error:  # of whatever kind: it is the store's
        raise SourceError(f"{shown}: {explanation(error)}", path=shown) from error


def _profile() -> Any:
    """Return what gives the credentials of ``AWS_PROFILE`` or the default profile, None if there are others or none."""
    if _AWS_KEY in os.environ:
        return None
    name = os.environ.get("AWS_PROFILE")
    files = tuple(os.path.expanduser(os.environ.get(key, default)) for key, default in _AWS_FILES.items())
    if name is None and not any(os.path.exists(file) for file in files):
        return None
    return _provider(name, files)


@cache
def _provider(name: str | None, files: tuple[str, ...]) -> Any:
    """Return obstore's credentials of boto3; the environment, which says the same as the arguments, is asked by that.

    Raises
    ------
    MissingDependency
        If a profile was asked for by name.
    """
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if name is None:
            return None
        raise MissingDependency("AWS_PROFILE needs boto3, which is not installed: pip install boto3") from error
    try:
        return Boto3CredentialProvider()
    except ValueError:
        return None  # there are files, without credentials in them


def explanation(error: Exception) -> str:
    """Return what a store's error says, in one line and without what may have signatures in it: addresses, answers."""
    kind, text = type(error).__name__, str(error)
    code = _CODE.search(text)
    named = f" ({code[1]})" if code is not None else ""
    status = _STATUS.search(text)
    number = int(status["number"]) if status is not None else 0
    if number in (401, 403) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return _REFUSED.format(named)
    if number == 404 or isinstance(error, FileNotFoundError):
        return f"there is no such object{named}"
    if status is not None:
        hint = ": have the credentials expired, or is the region another one?" if number == 400 else ""
        return f"the store answers {number} {status['words'].strip()}{named}{hint}"
    if "Range request not supported" in text:
        return "the server gives whole files alone, and no ranges of bytes: download the file first"
    first = text.partition("\n")[0]
    for pattern, new in ((_PREFIX, ""), (_SECONDS, ""), (_RETRIES, ""), (_URL, "…")):
        first = pattern.sub(new, first)
    return first[:200]


@contextmanager
def explained(url: str, what: str, offset: int | None = None) -> Iterator[None]:
    """Have errors of a store say in one line what of which URL failed; with an offset they are `ReadError`."""
    try:
        yield
    except Exception as error:  # obstore's errors have no class of their own that all of them are of
        kind = SourceError if offset is None else ReadError
        raise kind(f"{url}: {what}: {explanation(error)}", path=url, offset=offset) from error


def list_objects(url: str) -> Iterator[tuple[str, int, int]]:
    """Yield URL, size and time (nanoseconds) of all objects below a URL.

    Raises
    ------
    SourceError
    """
    place = locate(url)
    root = place.url.removesuffix(place.key)
    with explained(place.url, "can't be listed"):
        for chunk in obstore().list(place.store, place.key.rstrip("/") or None):
            for entry in chunk:
                yield root + entry["path"], entry["size"], int(entry["last_modified"].timestamp() * 1e9)


def exists(url: str) -> bool:
    """Return whether there is an object; raises SourceError if the store doesn't say."""
    place = locate(url)
    with explained(place.url, "can't be looked up"):
        try:
            obstore().head(place.store, place.key)
        except FileNotFoundError:
            return False
    return True
