# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers about a dump, one a file: what `npdump.Dump` and the commands are made of."""
