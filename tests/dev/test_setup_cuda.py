"""How the CUDA library is built: for which devices, with which compiler, and into what. Needs no GPU."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

import check_cuda_resources  # noqa: E402
import setup_cuda  # noqa: E402

from natten_ops import dispatch  # noqa: E402

KNOWN = frozenset({(5, 0), (7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0)})
OLD = setup_cuda.Nvcc(Path('/cuda/bin/nvcc'), (12, 4), KNOWN)
NEW = setup_cuda.Nvcc(Path('/cuda/bin/nvcc'), (13, 0), KNOWN - {(5, 0)} | {(10, 0), (10, 3), (12, 0)})


@pytest.mark.parametrize(
    ('nvcc', 'wanted', 'chosen'),
    [
        (OLD, '', '7.5 8.0 8.6 8.9 9.0+PTX'),
        (NEW, ' ', '7.5 8.0 8.6 8.9 9.0+PTX 10.0 12.0+PTX'),
        (NEW, '8.0;9.0+PTX', '8.0 9.0+PTX'),
        (NEW, '12.0 8.7', '8.7 12.0'),
        (NEW, '9.0a, 10.3f', '9.0a 10.3f'),
        (OLD, '5.0;7.0 7.5;8.0;8.0', '7.5 8.0'),
    ],
)
def test_architectures(nvcc, wanted, chosen):
    assert ' '.join(setup_cuda.choose_architectures(nvcc, wanted)) == chosen


@pytest.mark.parametrize(
    ('wanted', 'words'),
    [
        ('Hopper', r'like "8.0;9.0\+PTX", got \'Hopper\''),
        ('8.0;90', "got '90'"),
        ('8.0;10.0', r'10.0, which /cuda/bin/nvcc of CUDA 12.4 does not compile for; correct it or use'),
        ('5.0 6.1', "'5.0 6.1' has no compute capability of 7.5 or newer.*NATTEN_OPS_CUDA=0"),
    ],
)
def test_bad_architectures(wanted, words):
    with pytest.raises(setup_cuda.BuildError, match=words):
        setup_cuda.choose_architectures(OLD, wanted)


@pytest.fixture
def make_nvcc(tmp_path, monkeypatch):
    """Makes folders with an nvcc of a version; there is no other."""
    monkeypatch.setattr(setup_cuda, 'CUDA_FOLDER', str(tmp_path / 'default'))

    def make(folder, version='13.0'):
        program = tmp_path / folder / 'bin' / 'nvcc'
        program.parent.mkdir(parents=True)
        program.write_text(
            '#!/bin/sh\n'
            'case "$1" in\n'
            f'--version) echo "Cuda compilation tools, release {version}, V{version}.88";;\n'
            '--list-gpu-arch) echo compute_75; echo compute_80; echo compute_120;;\n'
            '*) echo "error: it does not compile" >&2; exit 1;;\n'
            'esac\n'
        )
        program.chmod(0o755)
        return program

    return make


def test_where_nvcc_is_looked_for(make_nvcc, tmp_path):
    path = f'{tmp_path}/path/bin:/usr/bin'
    assert setup_cuda.find_nvcc({'PATH': path}) is None
    default = make_nvcc('default')
    assert setup_cuda.find_nvcc({'PATH': path}) == default
    on_path = make_nvcc('path')
    assert setup_cuda.find_nvcc({'PATH': path}) == on_path
    assert setup_cuda.find_nvcc({'PATH': path, 'CUDA_HOME': f'{tmp_path}/home'}) is None
    at_home = make_nvcc('home')
    assert setup_cuda.find_nvcc({'PATH': path, 'CUDA_HOME': f'{tmp_path}/home'}) == at_home
    assert setup_cuda.find_nvcc({'PATH': path, 'CUDA_PATH': f'{tmp_path}/home'}) == at_home


def test_what_nvcc_says_of_itself(make_nvcc):
    nvcc = setup_cuda.ask_nvcc(make_nvcc('default', '12.8'))
    assert nvcc.version == (12, 8) and nvcc.capabilities == {(7, 5), (8, 0), (12, 0)}
    with pytest.raises(setup_cuda.BuildError, match=r'/bin/false does not tell its version .*CUDA=0'):
        setup_cuda.ask_nvcc(Path('/bin/false'))


@pytest.mark.parametrize(
    ('visible', 'chosen'),
    [
        ([(9, 0), (9, 0)], '9.0'),
        ([(9, 0), (8, 6)], '8.6 9.0'),
        ([(8, 6), (13, 0)], '7.5 8.0 8.6 8.9 9.0+PTX 10.0 12.0+PTX'),  # PTX is for what nvcc does not know
        ([], '7.5 8.0 8.6 8.9 9.0+PTX 10.0 12.0+PTX'),
    ],
)
def test_visible_devices(visible, chosen):
    assert ' '.join(setup_cuda.choose_architectures(NEW, '', visible)) == chosen
    assert setup_cuda.choose_architectures(NEW, '8.0', visible) == ['8.0']


def test_without_nvcc_cuda_is_left_out(make_nvcc, capsys):
    assert setup_cuda.choose_nvcc(True, {'PATH': '/usr/bin'}) is None
    assert 'note: natten_ops is built without CUDA: nvcc is not in' in capsys.readouterr().out
    with pytest.raises(
        setup_cuda.BuildError, match=r'CUDA=1 cannot be done: .*; install CUDA 12.4 or newer'
    ):
        setup_cuda.choose_nvcc(True, {'PATH': '/usr/bin', 'NATTEN_OPS_CUDA': '1'})


def test_old_nvcc_counts_as_none(make_nvcc, capsys):
    program = make_nvcc('default', '12.3')
    assert setup_cuda.choose_nvcc(True, {'PATH': '/usr/bin'}) is None
    assert 'note: natten_ops is built without CUDA' in capsys.readouterr().out
    with pytest.raises(setup_cuda.BuildError, match=f'{program} is of CUDA 12.3, but 12.4 or newer'):
        setup_cuda.choose_nvcc(True, {'PATH': '/usr/bin', 'NATTEN_OPS_CUDA': '1'})


def test_choice(make_nvcc, capsys):
    program = make_nvcc('default', '12.4')
    variables = {'PATH': '/usr/bin'}
    assert setup_cuda.choose_nvcc(True, variables).path == program
    assert setup_cuda.choose_nvcc(False, variables) is None
    assert setup_cuda.choose_nvcc(False, variables | {'NATTEN_OPS_CUDA': '1'}).path == program
    assert setup_cuda.choose_nvcc(True, variables | {'NATTEN_OPS_CUDA': '0'}) is None
    assert capsys.readouterr().out == ''
    with pytest.raises(setup_cuda.BuildError, match=r"NATTEN_OPS_CUDA must be 0 .*, got 'yes'"):
        setup_cuda.choose_nvcc(True, variables | {'NATTEN_OPS_CUDA': 'yes'})


def test_compiler_that_fails(make_nvcc, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(setup_cuda, 'BUILD', tmp_path / 'build')
    nvcc = setup_cuda.ask_nvcc(make_nvcc('default'))
    with pytest.raises(setup_cuda.BuildError, match=f'does not compile with {nvcc.path}, see above'):
        setup_cuda.build(tmp_path / 'library.so', nvcc, ['7.5', '12.0+PTX'], [], [], {'MAX_JOBS': '1'})
    output = capfd.readouterr().out
    assert 'building for CUDA 7.5 12.0+PTX' in output and 'error: it does not compile' in output
    assert not (tmp_path / 'library.so').exists()


REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN10natten_ops4cuda6matrixILi32EEEvPfi' for 'sm_80'
ptxas info    : Function properties for _ZN10natten_ops4cuda6matrixILi32EEEvPfi
    {stack} bytes stack frame, {stores} bytes spill stores, 8 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 8192 bytes smem, 364 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN10natten_ops4cuda13scalar_kernelIdEEvPfi' for 'sm_90a'
ptxas info    : Function properties for _ZN10natten_ops4cuda13scalar_kernelIdEEvPfi
    128 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for __internal_slow
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, 364 bytes cmem[0]
"""


def test_report_is_read():
    matrix, scalar = check_cuda_resources.parse(
        REPORT.format(stack=0, stores=0).replace(' 8 bytes', ' 0 bytes')
    )
    assert (matrix.architecture, matrix.registers, matrix.stack, matrix.spills) == ('80', 168, 0, 0)
    assert (scalar.architecture, scalar.registers, scalar.shared) == ('90a', 40, 0)
    assert matrix.shared == 8192 and not matrix.is_exempt and not matrix.is_bad


@pytest.mark.parametrize(
    ('name', 'is_exempt'),
    [
        ('scalar_key_kernel<scalar::Variant<float, 16, true> >', True),
        ('matrix::matrix_key_kernel<matrix::Variant<BFloat16, 128, false, true, 2> >', False),
        ('small::small_query_kernel<small::Variant<Float16, 7, 14, 6, false, 2> >', False),
    ],
)
def test_exempt_kernels(name, is_exempt):
    kernel = check_cuda_resources.Resources(name, '90', registers=255, stack=8, spills=4, shared=0)
    assert kernel.is_exempt == is_exempt and kernel.is_bad != is_exempt


@pytest.mark.parametrize(
    ('architecture', 'spills', 'is_bad'),
    [('100', 100, False), ('100', 104, True), ('90', 4, True)],
)
def test_spills_are_tolerated_up_to_a_bound(architecture, spills, is_bad):
    name = 'small::small_forward_kernel<small::Variant<Float16, 7, 14, 8, false, 2> >'
    kernel = check_cuda_resources.Resources(name, architecture, 128, stack=24, spills=spills, shared=0)
    assert kernel.is_bad == is_bad


@pytest.mark.parametrize(('stack', 'stores'), [(16, 0), (0, 4)])
def test_spills_are_told(stack, stores, tmp_path, capsys):
    path = tmp_path / 'report.txt'
    path.write_text(REPORT.format(stack=stack, stores=stores))
    with pytest.raises(SystemExit) as exit_:
        check_cuda_resources.main([str(path)])
    output = capsys.readouterr().out
    assert exit_.value.code == 1 and '2 kernels, of which 1 spill' in output
    assert re.search(r'80 +168 .*matrix.*SPILLS', output) and re.search('scalar.*exempt', output)


@pytest.mark.parametrize('text', [None, '', "Compiling entry function 'a' for 'sm_80'"])
def test_report_that_is_none(text, tmp_path, capsys):
    path = tmp_path / 'report.txt'
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as exit_:
        check_cuda_resources.main([str(path)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.startswith('error: ') and 'build' in error


# What `make wheel` compiled, for all devices.
LIBRARY = setup_cuda.BUILD / setup_cuda.LIBRARY
needs_build = pytest.mark.skipif(
    not check_cuda_resources.REPORT.exists(), reason='the CUDA library was not built (`make wheel`)'
)


@pytest.mark.long
@needs_build
def test_no_specialized_kernel_spills():
    kernels = check_cuda_resources.read_report(check_cuda_resources.REPORT)
    check_cuda_resources.print_table(kernels)
    architectures = {kernel.architecture for kernel in kernels}
    for name in {kernel.name for kernel in kernels}:
        assert {kernel.architecture for kernel in kernels if kernel.name == name} == architectures
    assert not [kernel for kernel in kernels if kernel.is_bad]


@pytest.mark.long
@needs_build
def test_library_needs_only_torch():
    """What it does not define is the C++ library's or torch's stable ABI; CUDA's runtime is hidden."""
    undefined, defined = (
        subprocess.run(['nm', '-D', option, LIBRARY], capture_output=True, text=True, check=True).stdout
        for option in ('--undefined-only', '--defined-only')
    )
    symbols = [line.split() for line in undefined.splitlines()]
    unversioned = {name for kind, name in symbols if kind == 'U' and '@' not in name}
    assert 'aoti_torch_get_current_cuda_stream' in unversioned
    assert not [name for name in unversioned if not re.match(r'(aoti_)?torch_', name)]
    assert not re.search(r'\bcu[A-Z]|\bcuda[A-Z]|natten_ops', defined)


@pytest.mark.long
@needs_build
@pytest.mark.skipif(not dispatch.CUDA_PROBLEM, reason='torch has CUDA')
def test_library_is_not_loaded_without_cuda():
    assert setup_cuda.LIBRARY not in Path('/proc/self/maps').read_text()
