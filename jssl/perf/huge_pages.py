"""Huge pages for the large arrays of a command, on Linux.

A step on a CPU takes and gives back its temporary memory, often a gigabyte. In pages of 4 kB the
kernel's work on it is a tenth of the step; in huge pages it is a third of that
(benchmarks/NOTES.md). glibc asks for huge pages if GLIBC_TUNABLES says so when a process starts.
Source: The GNU C Library manual, section "Memory Allocation Tunables", glibc.malloc.hugetlb.
"""

import os
import pathlib
import sys

SETTING = "glibc.malloc.hugetlb=1"
STATE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
OLDEST = (2, 35)  # the first glibc that knows the setting


def restart() -> None:
    """Starts this program again with huge pages, in the same process; returns if it has no use.

    It has none if the variable is set, if this is not glibc on Linux, or if the system gives huge
    pages always or never. The program must have done nothing yet that it may not do twice.
    """
    if "GLIBC_TUNABLES" in os.environ or _glibc() < OLDEST or "[madvise]" not in _state():
        return
    os.environ["GLIBC_TUNABLES"] = SETTING
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _glibc() -> tuple[int, ...]:
    """Returns the version of glibc; (0,) if the C library is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, OSError, ValueError):  # no such function, or no such name
        return (0,)
    return tuple(map(int, version.split("."))) if name == "glibc" else (0,)


def _state() -> str:
    """Returns when the system gives huge pages, such as "always [madvise] never"."""
    try:
        return STATE.read_text()
    except OSError:
        return ""
