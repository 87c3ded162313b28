"""Readers of facts about the crashed kernel: VMCOREINFO, DWARF, BTF, kallsyms. They open no dump."""
