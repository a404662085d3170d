"""Samples of what a process uses, and the verdict on them."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

__all__ = ["Sample", "judge", "take_sample"]

#: How much the memory of the second half of a run may be above that of the second quarter. Allocators do not give back
#: everything, and so it grows a little longer than the load.
GROWTH = 1.1


@attrs.frozen
class Sample:
    """A sample of the resources that the process uses.

    Attributes:
        memory: The resident memory in bytes.
        descriptors: The number of open file descriptors.
        tasks: The number of Trio tasks.
    """

    memory: int
    descriptors: int
    tasks: int


def take_sample() -> Sample:
    return Sample(_memory(), len(os.listdir("/dev/fd")), trio.lowlevel.current_statistics().tasks_living)


def _memory() -> int:
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # The peak, which is flat as well if the memory is.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def judge(idle: Sample, load: Sequence[Sample], after: Sample) -> list[str]:
    """Return what is wrong: everything that has grown.

    Args:
        idle: A sample before the first connection.
        load: The samples under load.
        after: A sample after the last connection.
    """
    faults = []
    if after.descriptors != idle.descriptors:
        faults.append(f"{after.descriptors} descriptors are open, {idle.descriptors} before")
    if after.tasks != idle.tasks:
        faults.append(f"{after.tasks} tasks are left, {idle.tasks} before")
    # The first quarter of the samples is for warming up.
    quarter = len(load) // 4
    if quarter:
        for name in ("memory", "descriptors", "tasks"):
            before = max(getattr(sample, name) for sample in load[quarter : 2 * quarter])
            later = max(getattr(sample, name) for sample in load[2 * quarter :])
            if later > before * GROWTH:
                faults.append(f"{name} grew from {before} in the second quarter to {later} in the second half")
    return faults
