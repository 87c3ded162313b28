# SPDX-License-Identifier: GPL-2.0-or-later
"""What each page is, and whether it stays."""
