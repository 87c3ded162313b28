# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged pages for the compiled core, built with sanitizers: ``python -m tests.core_asan MODULE [PAGES]``.

``make core-asan`` builds the module and runs this under AddressSanitizer and UndefinedBehaviorSanitizer, which report
what the core does wrong. The engines aren't built so: pages beside those that are filled must stay as they are.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys

import numpy as np

PAGE = 4096
N = 256
"""Pages in a call; every second one of the output is not to be touched."""


def load(path: str) -> None:
    """Take the core from a file, before anything of npdump takes that of the package."""
    loader = importlib.machinery.ExtensionFileLoader("npdump._core", path)
    spec = importlib.util.spec_from_file_location("npdump._core", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["npdump._core"] = module


def pages(noise: np.random.Generator) -> np.ndarray:
    """Pages that compress more or less well."""
    made = noise.integers(0, 256, (N, PAGE), np.uint8)
    made[noise.integers(0, 256, (N, PAGE)) < noise.integers(0, 257, (N, 1))] = 0
    made[:, ::8] //= 16
    return made


def campaign(n_pages: int) -> None:
    """Uncompress so many damaged pages by all engines, and say how many were pages all the same."""
    from npdump import codecs
    from npdump.core import CORE

    assert CORE is not None
    noise = np.random.default_rng(1)
    chosen = list(codecs.all_codecs())
    rows, n_done, n_good, n_refused = np.arange(N) * 2, 0, 0, 0
    out = np.empty((2 * N, PAGE), np.uint8)
    while n_done < n_pages:
        for codec in chosen:
            room, sizes = np.empty(codecs.out_nbytes(N, PAGE), np.uint8), np.empty(N, np.uint32)
            nbytes = codec.encoder(PAGE)(pages(noise), np.arange(N), room, sizes)
            stops = np.cumsum(sizes.astype(np.int64))
            data, starts, lengths = room[:nbytes].copy(), stops - sizes, sizes.astype(np.int64)
            for n_flips in (0, 1, 30, 300, 5000):
                at = noise.integers(0, nbytes, n_flips)
                data[at] ^= noise.integers(1, 256, n_flips, np.uint8)
                cut = noise.integers(0, 8, N) == 0
                lengths[cut] = noise.integers(0, lengths[cut] + 1)
                out[:] = 0xA5
                good = np.asarray(codec.decoder(PAGE)(data, starts, lengths, out, rows))
                assert (out[1::2] == 0xA5).all(), f"{codec.name}: a page that wasn't asked for was written"
                assert n_flips or good[~cut & (sizes < PAGE)].all(), (
                    f"{codec.name}: a page that isn't damaged was refused"
                )
                n_done, n_good = n_done + N, n_good + int(good.sum())
            wild = noise.integers(-5, nbytes + 5, N), noise.integers(-5, nbytes + 5, N)
            try:
                codec.decoder(PAGE)(data, *wild, out, noise.integers(-2, 2 * N + 2, N))
            except ValueError:
                n_refused += 1
    sys.stdout.write(f"{n_done} pages, {n_good} of them whole; {n_refused} calls with places out of range refused\n")


if __name__ == "__main__":
    load(sys.argv[1])
    campaign(int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
