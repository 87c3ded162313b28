# SPDX-License-Identifier: GPL-2.0-or-later
"""The crashed kernel: facts about it, its memory, where its page structs are, and what it logged."""
