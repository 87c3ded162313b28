# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged dumps, and the programs that `npdump check` says will open them: do they?

``make openers`` damages a whole dump many times and asks crash, drgn, gdb and libkdumpfile themselves.
"""
