"""Say how many instructions the CUDA kernels take: on tensor cores for a patch of 16 tokens.

Reads the machine code of the library that setup.py built. Ends with exit code 1 if a kernel takes more than
its budget in cuda_instructions.json, or is not in that file. After a change that is worth its instructions,
or a new kernel, --update writes the file anew.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import machine_code
import setup_cuda
from check_cuda_resources import demangle

from mmnat.errors import UserError, report_user_errors

LIBRARY = setup_cuda.BUILD / setup_cuda.LIBRARY
TABLE = Path(__file__).with_name('cuda_instructions.json')
ARCHITECTURE = '90'
SLACK = 0.03  # of a budget, over what was measured


@dataclass(frozen=True)
class Patch:
    """Which loop of a kernel computes a patch in each iteration.

    Attributes:
        kernels: A pattern of their names.
        name: What kind of patch it is.
        place: Which of the loops that do the work it is, counted by address; then which of those in it, ...
        trips: Iterations of the loops in it that do the work (Loop.kinds), if they are not 1.
        work: The instructions that this is (Loop.does).
    """

    kernels: str
    name: str
    place: tuple[int, ...]
    trips: tuple[int, ...] = ()
    work: str = 'product'


def _steps(kernel: str, channels: str, place: tuple[int, ...], step: int, loops: int) -> tuple[Patch, ...]:
    """The patches of a kernel for windows of any size, with as many keys on all sides.

    Args:
        kernel: What its name has after ``matrix_``.
        channels: A pattern of them.
        place: See Patch.
        step: Rows (in one dimension: eights) that are visited at once.
        loops: How often all partners are visited, each time in a loop for the eights of a row, and in it
            one for the rows; in one dimension there is only the latter.
    """
    patches = []
    for window in (7, 13):
        rows, eights = math.ceil((window + 7) / step), math.ceil((window + 1) / 8)
        pattern = rf'\bmatrix_{kernel}_kernel<.*, ({channels}), false,'
        patches.append(Patch(pattern, f'window {window}', place, (eights, rows) * loops))
    in_a_row = math.ceil((7 + 15) / 8 / step)
    pattern = rf'\bmatrix_{kernel}_kernel<.*, ({channels}), true,'
    patches.append(Patch(pattern, 'window 7', place, (in_a_row,) * loops))
    return tuple(patches)


# In the kernels for small windows, trips do not depend on the problem.
PATCHES = (
    Patch(r'\bsmall_forward_kernel<', 'patch', (0, 0)),
    Patch(r'\bsmall_query_kernel<', 'patch', (0, 0)),
    Patch(r'\bsmall_key_kernel<', 'patch', (0, 0)),
    *_steps('forward', '32|64|128', (0,), 4, 1),
    *_steps('query', '32|64|128', (0, 0), 2, 1),
    *_steps('key', '32|64', (0,), 2, 1),
    *_steps('key', '128', (0,), 2, 2),
    # Every case of a row of partners once.
    Patch(r'\bstaged_\w+<', 'rows', (0,), work='float'),
)
# Kernels without a budget, by a pattern of their names, and why.
NO_BUDGET = {
    r'\bscalar_\w+': 'serve every head_dim, dtype and stride that the others do not',
    r'\btable_sum_kernel\b': 'takes a few microseconds',
}


@dataclass(frozen=True)
class Count:
    """Instructions of a kernel for one patch, by kind (machine_code.KINDS)."""

    kernel: str
    patch: str
    kinds: Counter[str]

    @property
    def total(self) -> int:
        """All of them."""
        return self.kinds.total()


@dataclass(frozen=True)
class Budget:
    """What the table has for a kernel's patch.

    Attributes:
        products: Instructions that multiply matrices; with others, the loop is not that of one patch.
        measured: Instructions, when the table was written.
        most: Instructions that it may have.
    """

    products: int
    measured: int
    most: int


# By kernel and patch.
Table = Mapping[str, Mapping[str, Budget]]


def count(library: Path) -> list[Count]:
    """The counts for all kernels that have a budget.

    Raises:
        UserError: If PATCHES does not know a kernel, or the library cannot be read.
    """
    texts = machine_code.split(machine_code.disassemble(library, ARCHITECTURE))
    counts = []
    for name, text in zip(demangle(list(texts)), texts.values(), strict=True):
        counts += count_kernel(name, text)
    return sorted(counts, key=lambda each: (each.kernel, each.patch))


def count_kernel(name: str, text: str) -> list[Count]:
    """The counts of one kernel; ``text`` is what cuobjdump printed of it."""
    if any(re.search(pattern, name) for pattern in NO_BUDGET):
        return []
    patches = [patch for patch in PATCHES if re.search(patch.kernels, name)]
    if not patches:
        raise UserError(
            f'nothing is known of the loops of {name}', f'add it to PATCHES or NO_BUDGET in {__file__}'
        )
    loops = machine_code.find_loops(machine_code.parse(text))
    return [
        Count(name, patch.name, _find(loops, patch, name).kinds(patch.trips, patch.work))
        for patch in patches
    ]


def _find(loops: Sequence[machine_code.Loop], patch: Patch, name: str) -> machine_code.Loop:
    for number in patch.place:
        loops = [loop for loop in loops if loop.does(patch.work)]
        if number >= len(loops):
            raise UserError(
                f'{name} has no loop at {patch.place}, that of "{patch.name}"',
                f'correct PATCHES in {__file__}',
            )
        found, loops = loops[number], loops[number].loops
    return found


def compare(counts: Iterable[Count], table: Table) -> list[str]:
    """What is wrong, a line each."""
    problems = []
    found = {(each.kernel, each.patch): each for each in counts}
    for (kernel, patch), each in found.items():
        budget = table.get(kernel, {}).get(patch)
        if budget is None:
            problems.append(f'{kernel}, {patch}: not in {TABLE.name}')
        elif each.kinds['product'] != budget.products:
            problems.append(
                f'{kernel}, {patch}: {each.kinds["product"]} products instead of {budget.products};'
                ' if its loop still computes one patch, correct the table'
            )
        elif each.total > budget.most:
            problems.append(
                f'{kernel}, {patch}: grew from {budget.measured} to {each.total} instructions,'
                f' {budget.most} are allowed'
            )
    entries = {(kernel, patch) for kernel, patches in table.items() for patch in patches}
    problems += [
        f'{kernel}, {patch}: in {TABLE.name}, but not in the library'
        for kernel, patch in sorted(entries - set(found))
    ]
    return problems


def read_table(path: Path) -> tuple[str, Table]:
    """The nvcc that the counts are of, such as '13.0', and the budgets."""
    content = json.loads(path.read_text())
    return content['nvcc'], {
        kernel: {patch: Budget(**numbers) for patch, numbers in patches.items()}
        for kernel, patches in content['kernels'].items()
    }


def write_table(path: Path, nvcc: str, counts: Iterable[Count]) -> None:
    """Write budgets for what was counted, one patch a line."""
    kernels: dict[str, list[str]] = {}
    for each in counts:
        most = math.floor(each.total * (1 + SLACK))
        numbers = json.dumps(dict(products=each.kinds['product'], measured=each.total, most=most))
        kernels.setdefault(each.kernel, []).append(f'      {json.dumps(each.patch)}: {numbers}')
    entries = [
        f'    {json.dumps(kernel)}: {{\n' + ',\n'.join(lines) + '\n    }'
        for kernel, lines in kernels.items()
    ]
    path.write_text(
        f'{{\n  "nvcc": {json.dumps(nvcc)},\n  "kernels": {{\n' + ',\n'.join(entries) + '\n  }\n}\n'
    )


def nvcc_version() -> str:
    """That of the compiler in use, which decides on the machine code; empty if there is none."""
    path = setup_cuda.find_nvcc()
    return '.'.join(map(str, setup_cuda.ask_nvcc(path).version)) if path else ''


def print_table(counts: Iterable[Count], table: Table) -> None:
    """Print one line per kernel and patch, and below it of which kinds its instructions are."""
    print('instructions  before  budget  kernel')
    for each in counts:
        budget = table.get(each.kernel, {}).get(each.patch)
        before, most = (budget.measured, budget.most) if budget else ('', '')
        print(f'{each.total:>12}  {before:>6}  {most:>6}  {each.kernel}, {each.patch}')
        kinds = ', '.join(f'{number} {kind}' for kind, number in each.kinds.most_common() if number)
        print(f'{"":30}{kinds}')


@report_user_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; exit with code 1 if a kernel is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('library', nargs='?', type=Path, default=LIBRARY, help='default: %(default)s')
    parser.add_argument(
        '--update', action='store_true', help='write the budgets anew, for what is measured'
    )
    arguments = parser.parse_args(argv)
    if not arguments.library.exists():
        raise UserError(
            f'{arguments.library} does not exist',
            'build it with `NATTEN_OPS_CUDA=1 python setup.py build_ext --inplace`',
        )
    counts = count(arguments.library)
    nvcc, table = read_table(TABLE) if TABLE.exists() else ('', {})
    print_table(counts, table)
    if arguments.update:
        write_table(TABLE, nvcc_version(), counts)
        return
    problems = compare(counts, table)
    for problem in problems:
        print(f'error: {problem}')
    if problems:
        print(f'note: the table is of nvcc {nvcc}, this is {nvcc_version()}' * (nvcc != nvcc_version()))
        raise SystemExit(1)


if __name__ == '__main__':
    main()
