# SPDX-License-Identifier: GPL-2.0-or-later
"""How many workers are used by default: what control groups and memory allow."""

from __future__ import annotations

import os

import pytest

from npdump.encode.resources import available_nbytes, usable_cpus

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path):
    """Make a /proc and a control group tree of what is given: {group: {file: text}}."""

    def make(group, settings, available_kib=1 << 20):
        proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "cgroup").write_text(f"0::/{group}\n")
        (proc / "meminfo").write_text(f"MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB\n")
        for name, files in settings.items():
            (cgroups / name).mkdir(parents=True, exist_ok=True)
            for file, text in files.items():
                (cgroups / name / file).write_text(text)
        return str(proc), str(cgroups)

    return make


N_CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, N_CPUS),
        ({"a/b": {"cpu.max": "max 100000\n"}}, N_CPUS),
        ({"a/b": {"cpu.max": "100000 100000\n"}}, 1),
        ({"a/b": {"cpu.max": "10000 100000\n"}}, 1),
        ({"a": {"cpu.max": "100000 100000\n"}, "a/b": {"cpu.max": "max 100000\n"}}, 1),
        ({"a/b": {"cpu.max": f"{(N_CPUS + 3) * 100000} 100000\n"}}, N_CPUS),
        ({"a/b": {"cpu.max": "nonsense\n"}}, N_CPUS),
    ],
)
def test_cpus(machine, settings, expected):
    assert usable_cpus(*machine("a/b", settings)) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1024 * MIB),
        ({"a/b": {"memory.max": "max\n", "memory.current": "5\n"}}, 1024 * MIB),
        ({"a/b": {"memory.max": f"{200 * MIB}\n", "memory.current": f"{150 * MIB}\n"}}, 50 * MIB),
        (
            {
                "a/b": {
                    "memory.max": f"{200 * MIB}\n",
                    "memory.current": f"{150 * MIB}\n",
                    "memory.stat": f"anon 7\nfile {100 * MIB}\n",
                }
            },
            150 * MIB,
        ),
        ({"a": {"memory.max": f"{9 * MIB}\n", "memory.current": f"{10 * MIB}\n"}, "a/b": {}}, 0),
    ],
)
def test_memory(machine, settings, expected):
    assert available_nbytes(*machine("a/b", settings)) == expected


def test_a_system_that_says_nothing(tmp_path):
    assert available_nbytes(str(tmp_path), str(tmp_path)) is None
    assert usable_cpus(str(tmp_path), str(tmp_path)) == N_CPUS
