"""Byte layouts of file formats: declarations only, no logic and no I/O."""
