# SPDX-License-Identifier: GPL-2.0-or-later
"""Synthetic x86_64 vmcores and an independent classifier, written with `struct` and NumPy alone.

Nothing here imports npdump: what the tests expect must not come from the code under test.
`vmcore.build` makes a dump file and the model of what is in it; `oracle.classify` says, page by page, what a filter
has to drop.
"""
