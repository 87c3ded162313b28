"""Keeps the memory of chosen processes at any dump level: of those whose names are in NPDUMP_KEEP, as "sshd,cron"."""

import os


def keep(kernel):
    """Yield the page frames that their page tables map."""
    wanted = os.environ.get("NPDUMP_KEEP", "").split(",")
    for task in kernel.tasks(threads=False):
        if str(task.comm) in wanted and task.mm:
            yield kernel.user_pages(task.mm)
