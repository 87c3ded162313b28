# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian guests that crash, and what their capture kernels save; long, and so a target of make: see __main__.py."""
