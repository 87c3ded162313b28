"""As makedumpfile's extensions/sample.c: says what it finds of the kernel, and leaves all pages to the dump level."""

from npdump.extensions import UNDECIDED


def decide(pages, kernel):
    """Say where init_task is and what a task_struct is like, once."""
    if pages.pfn_start == 0:
        task, mm = kernel.object("init_task"), kernel.names.record("mm_struct").members
        kernel.observer.message(f"init_task is at {task.address_:#x}, of {task.nbytes_} bytes; {task.mm!r}")
        kernel.observer.message("areas are in a " + ("maple tree" if "mm_mt" in mm else "red-black tree"))
    return UNDECIDED
