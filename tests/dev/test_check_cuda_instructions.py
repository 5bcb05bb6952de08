"""How the instructions of CUDA kernels are counted, and what has no budget for them. Needs no GPU."""

import itertools
import re
from importlib.machinery import ModuleSpec

import check_cuda_instructions as check
import check_cuda_resources
import machine_code
import pytest
from check_cuda_instructions import Budget

from mmnat.errors import UserError

FORWARD = 'small::small_forward_kernel<small::Variant<Float16, 7, 8, 0> >'
MATRIX = 'matrix::matrix_forward_kernel<matrix::Variant<Float16, 32, false, 0> >'


def disassembly(*lines: str) -> str:
    """Instructions as cuobjdump prints them; 'label:' names the address of the next one."""
    addresses, address = {}, itertools.count(0, 16)
    code = []
    for line in lines:
        if line.endswith(':'):
            addresses[line[:-1]] = f'{16 * len(code):#x}'
        else:
            code.append(line)
    printed = []
    for line in code:
        *words, last = line.split()
        line = ' '.join([*words, addresses.get(last, last)])
        printed.append(f'        /*{next(address):04x}*/       {line} ;      /* 0x000000010a0a7836 */')
        printed.append(' ' * 60 + '/* 0x000fe20000000f00 */')
    return '\n'.join(['\t.headerflags\t@"EF_CUDA_SM90"', *printed])


# A loop over patches, in which another one multiplies and a shuffle has a detour; a loop before it.
NESTED = disassembly(
    'LDC R1, c[0x0][0x28]',
    'copies:',
    'LDGSTS.E.BYPASS.128 [R3], desc[UR4][R6.64]',
    '@!P4 BRA P5, copies',
    '@P0 EXIT',
    'patches:',
    'IMAD.MOV.U32 R2, RZ, RZ, R3',
    'BRA.DIV UR5, parted',
    'SHFL.BFLY PT, R0, R1, 0x1, 0x1f',
    'together:',
    'steps:',
    'LDS.128 R4, [R0+0x40]',
    '@P2 BRA no_product',
    'HMMA.16816.F32 R8, R4, R6, R8',
    'no_product:',
    'HFMA2.MMA R0, -RZ, RZ, 0, 0',
    'BRA.U !UP0, steps',
    'MUFU.EX2 R3, R3',
    '@P0 BRA patches',
    'EXIT',
    'parted:',
    'WARPSYNC.COLLECTIVE R9, together',
    'BRA together',
    'end:',
    'BRA end',
)
# Two loops with products, one after the other.
TWO = disassembly(
    'border:',
    *['HMMA.16816.F32 R8, R4, R6, R8'] * 2,
    '@P0 BRA border',
    'inside:',
    'HMMA.16816.F32 R8, R4, R6, R8',
    'FADD R1, R1, R2',
    '@P0 BRA inside',
    'EXIT',
)


def test_loops():
    copies, patches = machine_code.find_loops(machine_code.parse(NESTED))
    assert not copies.loops and not copies.does('product')
    assert [i.name for i in copies.own] == ['LDGSTS.E.BYPASS.128', 'BRA']
    (steps,) = patches.loops
    assert [i.kind for i in steps.own] == ['LDS', 'control', 'product', 'half', 'control']
    assert [i.kind for i in patches.own] == ['move', 'control', 'shuffle', 'MUFU', 'control']


def test_inner_loops_count_as_often_as_they_run():
    _, patches = machine_code.find_loops(machine_code.parse(NESTED))
    assert patches.kinds().total() == 10 and patches.kinds([0]).total() == 5
    assert patches.kinds([3]) == dict(move=1, shuffle=1, MUFU=1, LDS=3, product=3, half=3, control=2 + 6)


def test_trips_of_loops_in_loops():
    loop = machine_code.find_loops(
        machine_code.parse(
            disassembly(
                'a:', 'MOV R0', 'b:', 'MOV R0', 'c:', 'HMMA R0', '@P0 BRA c', '@P0 BRA b',
                'd:', 'FADD R1', '@P0 BRA d', 'e:', 'HMMA R0', '@P0 BRA e', '@P0 BRA a', 'EXIT',
            )
        )
    )[0]  # fmt: skip
    assert [len(inner.loops) for inner in loop.loops] == [1, 0, 0]
    # b runs twice, c in it three times, d has no products, e runs five times.
    assert loop.kinds([2, 3, 5]) == dict(
        product=2 * 3 + 5, move=1 + 2, float=1, control=2 * (3 + 1) + 1 + 5 + 1
    )


def test_branches_that_cannot_be_read_are_told():
    with pytest.raises(UserError, match='no address to branch to'):
        machine_code.find_loops(machine_code.parse(disassembly('BRA nowhere')))


def test_count_of_a_kernel():
    (count,) = check.count_kernel(FORWARD, NESTED)  # the loop in the loop
    assert (count.kernel, count.patch, count.total, count.kinds['product']) == (FORWARD, 'patch', 5, 1)
    seven, thirteen = check.count_kernel(MATRIX, NESTED)  # the inner loop as often as there are eights
    assert (seven.patch, seven.total, thirteen.patch, thirteen.total) == ('window 7', 10, 'window 13', 15)
    assert seven.kinds['product'] == 1 and thirteen.kinds['product'] == 2


def test_kernels_that_nothing_is_known_of():
    assert check.count_kernel('scalar_key_kernel<scalar::Variant<float, 16, true> >', NESTED) == []
    with pytest.raises(UserError, match='nothing is known of the loops of new_kernel<Float16>'):
        check.count_kernel('new_kernel<Float16>', NESTED)
    with pytest.raises(UserError, match=r'has no loop at \(0, 0\), that of "patch"'):
        check.count_kernel(FORWARD, TWO)


@pytest.mark.parametrize(
    ('table', 'problem'),
    [
        ({FORWARD: {'patch': Budget(1, 5, 5)}}, None),
        ({FORWARD: {'patch': Budget(1, 6, 6)}}, None),
        ({FORWARD: {'patch': Budget(1, 3, 4)}}, 'grew from 3 to 5 instructions, 4 are allowed'),
        ({FORWARD: {'patch': Budget(2, 20, 21)}}, '1 products instead of 2'),
        ({}, 'patch: not in cuda_instructions.json'),
        (
            {FORWARD: {'patch': Budget(1, 5, 5), 'old': Budget(1, 1, 1)}},
            'old: in .*, but not in the library',
        ),
    ],
)
def test_comparison_with_the_table(table, problem):
    problems = check.compare(check.count_kernel(FORWARD, NESTED), table)
    assert len(problems) == (problem is not None)
    if problem:
        assert problems[0].startswith(FORWARD)
        assert re.search(problem, problems[0])


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library with one kernel, and no table."""
    path = tmp_path / 'library.so'
    path.touch()
    name = '_ZN5small20small_forward_kernelIN5small7VariantI7Float16Li7ELi8ELi0EEEEEvv'
    text = f'code for sm_90\n\t\tFunction : {name}\n{NESTED}\n'
    monkeypatch.setattr(machine_code, 'disassemble', lambda *_: text)
    monkeypatch.setattr(check, 'TABLE', tmp_path / 'cuda_instructions.json')
    return path


def test_growth_is_told(library, capsys):
    check.main([str(library), '--update'])
    check.main([str(library)])
    assert f'5       5       5  {FORWARD}, patch' in capsys.readouterr().out
    text = check.TABLE.read_text()
    check.TABLE.write_text(text.replace('"measured": 5, "most": 5', '"measured": 3, "most": 3'))
    with pytest.raises(SystemExit) as exit_:
        check.main([str(library)])
    output = capsys.readouterr().out
    assert exit_.value.code == 1 and f'error: {FORWARD}, patch: grew from 3 to 5' in output
    check.TABLE.unlink()
    with pytest.raises(SystemExit) as exit_:
        check.main([str(library)])
    assert exit_.value.code == 1 and 'not in cuda_instructions.json' in capsys.readouterr().out


def test_library_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        check.main([str(tmp_path / 'library.so')])
    assert exit_.value.code == 2 and 'build it with' in capsys.readouterr().err


def test_where_the_disassembler_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_code, 'find_nvcc', lambda _: None)
    monkeypatch.setattr(machine_code.importlib.util, 'find_spec', lambda _: None)
    assert machine_code.find_programs({'PATH': f'{tmp_path}/empty:{tmp_path}'}) is None
    with pytest.raises(UserError, match='cuobjdump and nvdisasm are not beside nvcc'):
        monkeypatch.setattr(machine_code, 'find_programs', lambda: None)
        machine_code.disassemble(tmp_path, '90')
    monkeypatch.undo()
    for program in machine_code.PROGRAMS:
        (tmp_path / program).touch(0o755)
    assert machine_code.find_programs({'PATH': f'{tmp_path}/empty:{tmp_path}'}) == tmp_path


@pytest.mark.parametrize(
    ('package', 'folder'), [('nvidia', 'nvidia/cu13/bin'), ('triton', 'triton/backends/nvidia/bin')]
)
def test_disassembler_of_a_python_package(package, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(machine_code, 'find_nvcc', lambda _: None)
    find = {package: ModuleSpec(package, None, is_package=True)}
    find[package].submodule_search_locations.append(str(tmp_path / package))
    monkeypatch.setattr(machine_code.importlib.util, 'find_spec', find.get)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / 'cuobjdump').touch(0o755)
    assert machine_code.find_programs({'PATH': ''}) is None
    (tmp_path / folder / 'nvdisasm').touch(0o755)
    assert machine_code.find_programs({'PATH': ''}) == tmp_path / folder


def has_build() -> bool:
    report = check_cuda_resources.REPORT
    return check.LIBRARY.exists() and report.exists() and "'sm_90'" in report.read_text()


@pytest.mark.long
@pytest.mark.skipif(not has_build(), reason='the CUDA library was not built for 9.0 (`make wheel`)')
@pytest.mark.skipif(not machine_code.find_programs(), reason='there is no disassembler')
def test_no_kernel_exceeds_its_budget():
    nvcc, table = check.read_table(check.TABLE)
    if check.nvcc_version() != nvcc:
        pytest.skip(f'the budgets are for the machine code of nvcc {nvcc}')
    counts = check.count(check.LIBRARY)
    check.print_table(counts, table)
    assert not check.compare(counts, table)
