# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls that fail and signals that come at any moment: nothing may look whole and not be.

`scenarios` are the command lines, `injection` has strace(1) make one system call fail, `judge` reads what is left with
the independent readers, and ``make faults`` (`__main__`) does all of it.
"""
