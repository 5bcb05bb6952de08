"""The machine code of compiled CUDA kernels: instructions, and the loops that they form.

cuobjdump disassembles the library. Loops are those of the control flow: a branch back to an instruction
that every way to the branch passes. Detours of shuffles for warps whose threads have parted (BRA.DIV) are
left out, because the kernels' warps stay together, and a called function counts as one instruction.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from setup_cuda import find_nvcc

from mmnat.errors import UserError

PROGRAMS = ('cuobjdump', 'nvdisasm')  # the first one runs the second one
# Where Python packages have them: nvidia-cuda-cuobjdump with nvidia-cuda-nvdisasm, and triton.
PACKAGES = {'nvidia': 'cu*/bin', 'triton': 'backends/nvidia/bin'}

_FUNCTION = re.compile(r'^\s*Function : (\S+)', re.MULTILINE)
_INSTRUCTION = re.compile(r'^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][^;]*?)\s*;', re.MULTILINE)

# Kinds of instructions, by a pattern of their names; the first that fits counts.
KINDS = {
    'product': r'[A-Z]G?MMA\b',
    'LDSM': r'LDSM',
    'LDS': r'LDS',
    'STS': r'STS|STSM',
    'global': r'LDG|STG|LDGSTS|LD\b|ST\b|RED|ATOM|CCTL|UBLKCP|UTMA',
    'MUFU': r'MUFU',
    'shuffle': r'SHFL|VOTE|MATCH|REDUX',
    'float': r'F(ADD|MUL|FMA|MNMX|SEL|SET|SETP|CHK|SWZADD)|D(ADD|MUL|FMA|SETP)',
    'half': r'H(ADD|MUL|FMA|MNMX|SET|SETP)2',
    'convert': r'[FI]2[FI]P?|FRND|I2FP',
    'move': r'MOV|IMAD\.MOV|CS2R|S2R|P2R|R2P|LDC',
    'uniform': r'U[A-Z]|R2UR|S2UR',
    'control': r'BRA|BSSY|BSYNC|EXIT|WARPSYNC|BAR|NOP|DEPBAR|LDGDEPBAR|CALL|RET|YIELD|BREAK|ERRBAR|MEMBAR',
    'integer': r'I|LEA|LOP|SHF|SEL|VI|PLOP|PRMT|SGXT|BREV|POPC|FLO|BMSK',
}
# How many instructions of a kind make a loop one that does the kernel's work, if not 1.
LEAST = {'float': 64}


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        address: In the kernel's code.
        predicate: The condition for it, such as '!P0'; empty if there is none.
        text: Name and operands.
    """

    address: int
    predicate: str
    text: str

    @property
    def name(self) -> str:
        """With what modifies it: 'IMAD.MOV.U32'."""
        return self.text.partition(' ')[0]

    @property
    def kind(self) -> str:
        """One of KINDS, or 'other'."""
        return next((kind for kind, pattern in KINDS.items() if re.match(pattern, self.name)), 'other')

    @property
    def target(self) -> int | None:
        """Where it branches to; None if it does not, or only for warps whose threads have parted."""
        if not re.match(r'BRA(?!\.DIV)\b', self.name):
            return None
        found = re.search(r'0x([0-9a-f]+)$', self.text)
        if found is None:
            raise UserError(
                f'{self.text!r} has no address to branch to', 'teach machine_code.py to read it'
            )
        return int(found[1], 16)

    @property
    def is_last(self) -> bool:
        """Whether the next instruction never follows it."""
        if self.predicate not in ('', 'PT'):
            return False
        if self.target is not None:
            return not re.search(r'\bU?P\w+,', self.text)  # another condition
        return re.match(r'(EXIT|RET|BRX|JMX)\b', self.name) is not None


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel.

    Attributes:
        begin: Address of its first instruction.
        own: Its instructions, but for those of the loops in it.
        loops: The loops in it, by address.
    """

    begin: int
    own: tuple[Instruction, ...]
    loops: tuple['Loop', ...]

    def kinds(self, trips: Sequence[int] = (), work: str = 'product') -> Counter[str]:
        """How many instructions of each kind one iteration has.

        Args:
            trips: Iterations of the loops in it that do the work, by address, an outer loop before those in
                it; 1 for those left out, and for other loops.
            work: See :meth:`does`.
        """
        return self._kinds(iter(trips), work)

    def _kinds(self, trips: Iterator[int], work: str) -> Counter[str]:
        total = Counter(instruction.kind for instruction in self.own)
        for loop in self.loops:
            is_work = loop.does(work)
            count = next(trips, 1) if is_work else 1
            for kind, number in loop._kinds(trips if is_work else iter(()), work).items():
                total[kind] += count * number
        return total

    def does(self, work: str) -> bool:
        """Whether it, or a loop in it, has enough instructions of a kind to be what the kernel is for."""
        own = sum(instruction.kind == work for instruction in self.own)
        return own >= LEAST.get(work, 1) or any(loop.does(work) for loop in self.loops)


def find_programs(variables: Mapping[str, str] = os.environ) -> Path | None:
    """The folder with PROGRAMS: nvcc's, one of PATH, or one of PACKAGES; None without any."""
    nvcc = find_nvcc(variables)
    folders = [nvcc.resolve().parent] if nvcc else []
    folders += map(Path, variables.get('PATH', os.defpath).split(os.pathsep))
    for package, pattern in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            folders += sorted(Path(place).glob(pattern))
    for folder in folders:
        if all(shutil.which(program, path=str(folder)) for program in PROGRAMS):
            return folder
    return None


def disassemble(library: Path, architecture: str) -> str:
    """What cuobjdump says of a library's kernels for one architecture, such as '90'.

    Raises:
        UserError: If there is no disassembler, or it finds nothing.
    """
    folder = find_programs()
    if folder is None:
        raise UserError(
            f'{" and ".join(PROGRAMS)} are not beside nvcc, on PATH or in a Python package',
            'install nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm with pip',
        )
    environment = os.environ | {'PATH': f'{folder}{os.pathsep}{os.environ.get("PATH", os.defpath)}'}
    command = [folder / PROGRAMS[0], '-sass', '-arch', f'sm_{architecture}', library]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode or not _FUNCTION.search(run.stdout):
        raise UserError(
            f'{library} has no machine code for sm_{architecture} that {folder / PROGRAMS[0]} can read:'
            f' {run.stderr.strip()[:200]}',
            'build it for that architecture, with a CUDA that is not newer than the disassembler',
        )
    return run.stdout


def split(text: str) -> dict[str, str]:
    """What cuobjdump printed of each kernel, by its name in the object file."""
    _, *parts = _FUNCTION.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def parse(text: str) -> list[Instruction]:
    """The instructions of one kernel."""
    return [
        Instruction(int(address, 16), predicate, instruction)
        for address, predicate, instruction in _INSTRUCTION.findall(text)
    ]


def find_loops(code: Sequence[Instruction]) -> tuple[Loop, ...]:
    """The loops of a kernel that are in no other loop, by address; loops with one beginning are one."""
    blocks = _Blocks(code)
    bodies: dict[int, set[int]] = {}  # the blocks of each loop, by its first one
    for block in blocks.reachable:
        for head in blocks.successors[block]:
            if head in blocks.dominators[block]:
                bodies.setdefault(head, {head}).update(blocks.before(block, head))
    return _nested(blocks, bodies, set(blocks.reachable))


def _nested(blocks: '_Blocks', bodies: Mapping[int, set[int]], among: set[int]) -> tuple[Loop, ...]:
    """The loops whose blocks are ``among`` these and in no other such loop."""
    inside = {head: body for head, body in bodies.items() if body <= among}
    loops = []
    for head, body in sorted(inside.items()):
        if any(body < other for other in inside.values()):
            continue
        others = {key: value for key, value in inside.items() if value < body}
        own = body.difference(*others.values())
        instructions = tuple(i for block in sorted(own) for i in blocks.instructions[block])
        loops.append(Loop(blocks.address(head), instructions, _nested(blocks, others, body)))
    return tuple(loops)


class _Blocks:
    """Code in blocks, runs of instructions that are entered only at their beginning; numbered by address.

    Attributes:
        instructions: Of each block.
        successors: The blocks that may follow each.
        reachable: The blocks that can be reached, in an order in which most come after those before them.
        dominators: For each of these, the blocks that every way to it passes, and itself.
    """

    def __init__(self, code: Sequence[Instruction]) -> None:
        self.instructions = self._split(code)
        number = {block[0].address: i for i, block in enumerate(self.instructions)}
        self.successors: list[list[int]] = []
        for i, block in enumerate(self.instructions):
            last = block[-1]
            following = [] if last.is_last or i + 1 == len(self.instructions) else [i + 1]
            if last.target is not None:
                following.append(number[last.target])
            self.successors.append(following)
        self.reachable = self._find_reachable()
        self._predecessors: dict[int, list[int]] = {block: [] for block in self.reachable}
        for block in self.reachable:
            for successor in self.successors[block]:
                self._predecessors[successor].append(block)
        self.dominators = self._find_dominators()

    @staticmethod
    def _split(code: Sequence[Instruction]) -> list[list[Instruction]]:
        starts = {instruction.target for instruction in code}
        blocks: list[list[Instruction]] = [[]]
        for instruction in code:
            if blocks[-1] and instruction.address in starts:
                blocks.append([])
            blocks[-1].append(instruction)
            if instruction.target is not None or instruction.is_last:
                blocks.append([])
        return [block for block in blocks if block]

    def _find_reachable(self) -> list[int]:
        order: list[int] = []
        seen = {0}
        stack = [(0, iter(self.successors[0]))]
        while stack:
            block, rest = stack[-1]
            successor = next((s for s in rest if s not in seen), None)
            if successor is None:
                order.append(block)
                stack.pop()
            else:
                seen.add(successor)
                stack.append((successor, iter(self.successors[successor])))
        return order[::-1]

    def _find_dominators(self) -> dict[int, set[int]]:
        everything = set(self.reachable)
        dominators = {block: everything for block in self.reachable} | {0: {0}}
        changes = True
        while changes:
            changes = False
            for block in self.reachable[1:]:
                found = set.intersection(*(dominators[p] for p in self._predecessors[block])) | {block}
                if found != dominators[block]:
                    dominators[block] = found
                    changes = True
        return dominators

    def before(self, block: int, head: int) -> set[int]:
        """The blocks from which a block can be reached without passing ``head``, and itself."""
        found, stack = {head}, [block]
        while stack:
            current = stack.pop()
            if current not in found:
                found.add(current)
                stack.extend(self._predecessors[current])
        return found - {head}

    def address(self, block: int) -> int:
        """Of its first instruction."""
        return self.instructions[block][0].address
