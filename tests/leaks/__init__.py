# SPDX-License-Identifier: GPL-2.0-or-later
"""The leak meter: which canaries of a crashed guest are in a dump; long, and so a target of make: see __main__.py."""
