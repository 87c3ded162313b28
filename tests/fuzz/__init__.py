# SPDX-License-Identifier: GPL-2.0-or-later
"""A structure-aware fuzzer of everything that npdump reads.

`seeds` are small files of each kind, by the builders of the tests, with the places of their fields; `mutate` damages
them there and elsewhere; `readers` says what npdump is asked about a file of each kind, and what a good answer is;
``make fuzz SECONDS=...`` (`__main__`) goes on for so long. ``corpus/`` has what was found once, as tests.
"""
