# SPDX-License-Identifier: GPL-2.0-or-later
"""Kept pages to stored pages: batches, equal pages found, compression, in as many workers as pay."""
