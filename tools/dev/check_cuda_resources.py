"""Say what every CUDA kernel takes of registers, stack and shared memory, and whether it spills.

Reads what ptxas reported when setup.py built the library (build/cuda/resources.txt). Ends with exit code 1
if a kernel spills registers or has a stack frame that is neither EXEMPT nor TOLERATED.
"""

import argparse
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmnat.errors import UserError, report_user_errors

REPORT = Path(__file__).resolve().parents[2] / 'build/cuda/resources.txt'
# Kernels that may spill, by a pattern of their names, and why.
EXEMPT = {
    r'\bscalar_\w+': 'serve every head_dim, dtype and stride that the others do not',
}
# Bytes of stack and spills, by patterns of name and architecture, that buy another block on a
# multiprocessor: some words that are needed once a strip or a band.
TOLERATED = {
    r'\bsmall_query_kernel<.*, 7, 14,.* (8\d|100)$': 24,
    r'\bsmall_forward_kernel<.*, 7, 14,.* 100$': 124,
    r'\bsmall_forward_kernel<.*, 7, 14,.* 120$': 52,
    r'\bsmall_forward_kernel<.*, 7, 8,.* 120$': 28,
    r'\bmatrix_key_kernel<.*<float, 32, false,.* 100$': 80,
}

_ENTRY = re.compile(r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<architecture>\w+)'")
_STACK = re.compile(r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads')
_USED = re.compile(r'Used (\d+) registers')
_SHARED = re.compile(r'(\d+) bytes smem')


@dataclass(frozen=True)
class Resources:
    """What a kernel takes, compiled for one architecture; all but registers in bytes.

    Attributes:
        name: Of the kernel, as it is written in C++.
        architecture: Compute capability, '80' or '90a'.
        registers: Of a thread.
        stack: Of a thread: arrays whose indices are not known, and spills.
        spills: Stores and loads of spilled registers.
        shared: Shared memory of a block, as far as it is known when compiled.
    """

    name: str
    architecture: str
    registers: int
    stack: int
    spills: int
    shared: int

    @property
    def is_exempt(self) -> bool:
        """Whether it may spill."""
        return any(re.search(pattern, self.name) for pattern in EXEMPT)

    @property
    def is_bad(self) -> bool:
        """Whether it spills and must not."""
        name = f'{self.name} {self.architecture}'
        tolerated = sum(most for pattern, most in TOLERATED.items() if re.search(pattern, name))
        return not self.is_exempt and self.stack + self.spills > tolerated


def parse(text: str) -> list[Resources]:
    """The kernels in a report of ptxas --verbose, in its order."""
    parts = re.split(r'(?=Compiling entry function)', text)[1:]
    entries = [(_ENTRY.search(part), _USED.search(part), _STACK.findall(part)) for part in parts]
    for part, found in zip(parts, entries, strict=True):
        if not all(found):
            raise UserError(
                f'a kernel is reported incompletely: {part[:200]!r}',
                'remove build/cuda and build the library again',
            )
    names = demangle([entry['name'] for entry, _, _ in entries])
    kernels = []
    for name, part, (entry, used, functions) in zip(names, parts, entries, strict=True):
        # Of the kernel and of functions that it calls.
        stack, stores, loads = (sum(map(int, column)) for column in zip(*functions, strict=True))
        shared = _SHARED.search(part)
        kernels.append(
            Resources(
                name,
                entry['architecture'],
                registers=int(used[1]),
                stack=stack,
                spills=stores + loads,
                shared=int(shared[1]) if shared else 0,
            )
        )
    return kernels


def demangle(names: Sequence[str]) -> list[str]:
    """Names of kernels as they are written in C++, without parameters; unchanged if c++filt is missing."""
    program = shutil.which('c++filt')
    if program is None or not names:
        return list(names)
    lines = subprocess.run(
        [program, '-p'], input='\n'.join(names), capture_output=True, text=True, check=True
    )
    noise = r'^void |natten_ops::cuda::|\(anonymous namespace\)::'
    return [re.sub(noise, '', name) for name in lines.stdout.splitlines()]


def read_report(path: Path) -> list[Resources]:
    """The kernels in the report that a build left; raises UserError if there is none."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(
            f'{path} cannot be read: {error.strerror}',
            'build the library with `NATTEN_OPS_CUDA=1 python setup.py build_ext --inplace`',
        ) from error
    kernels = parse(text)
    if not kernels:
        raise UserError(f'{path} names no kernel', 'build the library again')
    return kernels


def print_table(kernels: Iterable[Resources]) -> None:
    """Print one line per kernel and architecture."""
    print('architecture  registers  stack  spills  shared  kernel')
    for kernel in sorted(
        kernels, key=lambda kernel: (kernel.name, int(re.sub(r'\D', '', kernel.architecture)))
    ):
        verdict = '  SPILLS' if kernel.is_bad else '  (exempt)' if kernel.is_exempt else ''
        print(
            f'{kernel.architecture:>12}  {kernel.registers:>9}  {kernel.stack:>5}  {kernel.spills:>6}'
            f'  {kernel.shared:>6}  {kernel.name}{verdict}'
        )


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; exit with code 1 if a kernel spills that must not."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('report', nargs='?', type=Path, default=REPORT, help='what ptxas said; %(default)s')
    kernels = read_report(parser.parse_args(argv).report)
    print_table(kernels)
    bad = [kernel for kernel in kernels if kernel.is_bad]
    print(f'{len(kernels)} kernels, of which {len(bad)} spill registers or have a stack and must not')
    if bad:
        raise SystemExit(1)


if __name__ == '__main__':
    main()
