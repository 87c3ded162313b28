# SPDX-License-Identifier: GPL-2.0-or-later
"""One value of VMCOREINFO changed, on every real dump: what npdump then loses, it must have said something about.

`changes` makes the texts, `dumps` finds the dumps, `scans` holds what a changed text keeps against what the true one
keeps, `commands` asks the other questions, and ``make sweep`` (`__main__`) does all of it in several processes.
"""
