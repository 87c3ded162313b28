# SPDX-License-Identifier: GPL-2.0-or-later
"""The process: arguments, streams, signals, exit codes. Nothing below imports it."""
