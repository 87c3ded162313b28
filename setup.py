# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled core, which npdump does without where there is no compiler; all else is in setup.cfg."""

import os
import sys

from setuptools import Extension, setup

# The manual page is made from the package's own declaration of options; isolated builds don't look here by themselves.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
setup(
    ext_modules=[Extension("npdump._core", ["npdump/_core.c"], py_limited_api=True, optional=True)],
    # One wheel for Python 3.11 and all later ones.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
