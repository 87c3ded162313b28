# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of facts about the crashed kernel: VMCOREINFO, DWARF, BTF, kallsyms. They open no dump."""
