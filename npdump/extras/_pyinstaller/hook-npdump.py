# SPDX-License-Identifier: GPL-2.0-or-later
"""What PyInstaller can't see: plug-ins are imported by names that it finds nowhere."""

from PyInstaller.utils.hooks import collect_submodules  # type: ignore[import-untyped]

hiddenimports = collect_submodules("npdump", filter=lambda name: "_pyinstaller" not in name and "pytest" not in name)
