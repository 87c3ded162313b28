# SPDX-License-Identifier: GPL-2.0-or-later
"""Where PyInstaller finds the hook for npdump, by the entry point ``pyinstaller40``."""

from __future__ import annotations

import os

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """Return the folders that PyInstaller looks for hooks in."""
    return [os.path.dirname(__file__)]
