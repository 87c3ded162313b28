# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled core, which npdump does without where there is no compiler; all else is in setup.cfg."""

from setuptools import Extension, setup

setup(
    ext_modules=[Extension("npdump._core", ["npdump/_core.c"], py_limited_api=True, optional=True)],
    # One wheel for Python 3.11 and all later ones.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
