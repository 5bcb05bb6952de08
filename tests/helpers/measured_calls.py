"""Calls that the benchmarks' tests run in processes of their own, which import them by name."""

import dataclasses

import torch

from benchmarks.lib.workload import FORWARD, Computation

MEGABYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class KnownMemory:
    """Makes an intermediate of 64 MiB and an output of 16 MiB."""

    device: str = 'cpu'
    direction: str = FORWARD
    megabytes: int = 64

    def build(self):
        return Computation(self.function, (), ())

    def warm_up(self):
        return dataclasses.replace(self, megabytes=4)

    def function(self):
        return (torch.ones(self.megabytes, MEGABYTE // 4)[: self.megabytes // 4].clone(),)


def fail():
    raise ValueError('first line. Advice\nsecond line')


def allocate():
    torch.empty(2**60)
