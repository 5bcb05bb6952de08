"""The benchmarks: what they write, that the peers compute what they should, and how memory is measured."""

import os
import pickle
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip('mmengine')

from measured_calls import MEGABYTE, KnownMemory, allocate, fail  # noqa: E402

from benchmarks import cpu_phases, host_time, models, ops, plot  # noqa: E402
from benchmarks.lib import copies, operators, window_attention  # noqa: E402
from benchmarks.lib.cases import Case  # noqa: E402
from benchmarks.lib.devices import Cpu, Cuda, get_device  # noqa: E402
from benchmarks.lib.flex import flex_computation  # noqa: E402
from benchmarks.lib.process import NotRun, in_fresh_process  # noqa: E402
from benchmarks.lib.tables import Table, read_table  # noqa: E402
from benchmarks.lib.timing import Timing  # noqa: E402
from benchmarks.lib.workload import FORWARD, TRAINING, Memory, peak_memory  # noqa: E402
from natten_ops import dispatch, na2d  # noqa: E402

TINY = ['--repeats', '1', '--threads', '1']
ONE_CASE = ['--maps', '8x8x1', '--kernel-size', '3', '--dilation', '1', '--head-dim', '8', '--batch', '1']


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def check_head(head, threads='1'):
    assert head['threads'] == threads
    assert {'date', 'command', 'processor', 'cores', 'instruction set', 'memory', 'torch'} <= head.keys()
    peaks = {name for name in head if name.startswith('float32 GEMM peak')}
    assert peaks == {f'float32 GEMM peak, 1 thread, {moment}' for moment in ('begin', 'end')}


def test_operators(tmp_path):
    path = tmp_path / 'folder' / 'operators.csv'
    options = ['--maps', '12x16x2', '--kernel-size', '3', '--head-dim', '16', '--batch', '1', '2']
    ops.main([*options, '--dilation', '1', 'largest', '--out', str(path), *TINY])
    head, rows = read_table(path, ops.COLUMNS)
    check_head(head)
    names = {(row['batch'], row['dilation'], row['direction'], row['implementation']) for row in rows}
    assert len(names) == len(rows) == 2 * 2 * (3 + 1)
    assert {row['implementation'] for row in rows} == {'natten_ops', 'swin-sdpa', 'swin-matmul'}
    assert {row['dilation'] for row in rows if row['implementation'] == 'natten_ops'} == {'1', '4'}
    for row in rows:
        work = 4e-9 * int(row['batch']) * 12 * 16 * 2 * 16 * 9 * (1 if row['direction'] == FORWARD else 3.5)
        seconds = float(row['median_ms']) / 1e3
        assert float(row['gflop']) == pytest.approx(work, rel=1e-4)
        assert float(row['gflop_per_s']) == pytest.approx(work / seconds, rel=1e-4)
        at_peak = work / float(row['gemm_gflop_per_s'])
        assert float(row['ratio_to_gemm']) == pytest.approx(seconds / at_peak, rel=1e-4)
        assert float(row['gb_per_s']) == pytest.approx(float(row['necessary_mb']) / 1e3 / seconds, rel=1e-4)
        assert float(row['min_ms']) <= float(row['median_ms']) <= float(row['max_ms'])
        assert row['repeats'] == '1' and float(row['peak_extra_mb']) >= 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.long
def test_restart_with_another_instruction_set(tmp_path):
    path = tmp_path / 'operators.csv'
    command = [sys.executable, '-m', 'benchmarks.ops', *ONE_CASE, *TINY, '--out', str(path), '--no-peers']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    subprocess.run([*command, '--capability', 'default'], cwd=ROOT, env=environment, check=True)
    head, rows = read_table(path, ops.COLUMNS)
    assert head['instruction set'] in ('DEFAULT', 'NO AVX')
    assert '--capability default' in head['command']
    assert [row['implementation'] for row in rows] == ['natten_ops'] * 2


def test_peer_that_does_not_run_has_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(ops, 'guarded', lambda case, peers: ['reference', 'unknown'])
    path = tmp_path / 'operators.csv'
    ops.main([*ONE_CASE, *TINY, '--out', str(path)])
    _, rows = read_table(path, ops.COLUMNS)
    by_name = {row['implementation']: row for row in rows}
    assert float(by_name['reference']['median_ms']) > 0
    assert by_name['unknown']['note'].startswith('not run: KeyError')
    assert by_name['unknown']['median_ms'] == by_name['unknown']['ratio_to_gemm'] == ''


@pytest.mark.parametrize('dilation', [1, 2])
def test_peers_compute_neighborhood_attention(dilation):
    case = Case(11, 14, 2, 16, 1, 5, dilation, 'float64', 'cpu')
    builders = {
        'natten_ops': operators.natten_ops_computation,
        'reference': operators.reference_computation,
        'flex_attention': lambda case: flex_computation(case, compiled=False),
    }
    outputs = {}
    for name, build in builders.items():
        torch.manual_seed(0)
        (outputs[name],) = build(case).forward()
    for output in outputs.values():
        torch.testing.assert_close(output, outputs['natten_ops'])


def test_window_attention_is_self_attention_within_a_window():
    case = Case(7, 7, 2, 16, 1, 7, 1, 'float32', 'cpu')
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        computation = window_attention.window_computation(case, fused)
        results.append(computation.call(TRAINING)())
    torch.testing.assert_close(*results)
    tokens, query, key, value, rpb = computation.wanted
    output, partitioned = computation.forward()
    query, key, value = (x.transpose(1, 2).reshape(case.query_shape) for x in (query, key, value))
    torch.testing.assert_close(output, na2d(query, key, value, 7, rpb=rpb).flatten(-2))
    torch.testing.assert_close(partitioned, tokens.flatten(1, 2))


def test_windows_are_put_together_in_their_places():
    case = Case(9, 11, 1, 8, 2, 4, 1, 'float32', 'cpu')
    tokens = torch.randn(2, 9, 11, 8)
    windows = window_attention.partition(tokens, case.kernel_size)
    assert windows.shape == (2 * 3 * 3, 16, 8)
    torch.testing.assert_close(window_attention.put_together(windows, 2, (12, 12), 4)[:, :9, :11], tokens)


def test_peak_memory():
    memory = peak_memory(KnownMemory(), threads=1)
    assert memory.extra / MEGABYTE == pytest.approx(64, abs=2)
    assert memory.peak / MEGABYTE == pytest.approx(80, abs=2)


@pytest.mark.parametrize(
    ('function', 'arguments', 'reason'),
    [
        (fail, (), 'ValueError: first line$'),
        (allocate, (), 'needs more memory than its limit'),
        (os._exit, (3,), 'the process died with exit code 3'),
    ],
)
def test_fresh_process_says_why_it_failed(function, arguments, reason):
    with pytest.raises(NotRun, match=reason):
        in_fresh_process(function, *arguments, limit=60)


def test_fresh_process_is_ended_in_time():
    with pytest.raises(NotRun, match='took longer than 2 s'):
        in_fresh_process(time.sleep, 60, limit=2)


def test_default_cases():
    def cases(*options):
        return ops.list_cases(ops.parse_args(options))

    levels = [(200, 304, 2), (100, 152, 4), (50, 76, 8), (25, 38, 16)]
    largest = [28, 14, 7, 3]
    for device, batch, dtype, options in (('cpu', 1, 'float32', ['--quick']), ('cuda', 16, 'float16', [])):
        wanted = [
            Case(*level, 32, batch, 7, dilation, dtype, device)
            for level, most in zip(levels, largest, strict=True)
            for dilation in (1, most)
        ]
        assert cases('--device', device, *options) == wanted
        names = [name for name in (*ops.WINDOWS, 'reference', 'flex_attention', 'natten')]
        for case in wanted:
            apart = ops.guarded(case, True)
            together = ops.interleaved(case, True)
            peers = names if case.dilation == 1 else []
            assert [*together, *apart] == ['natten_ops', *peers]
            assert together == ['natten_ops'] if device == 'cuda' else apart == peers[2:]
            assert [*ops.interleaved(case, False), *ops.guarded(case, False)] == ['natten_ops']
    assert (
        len(cases()) == 8 * (2 + 1) * 2 * 2
    )  # maps, kernel 7 with two dilations and 13, head_dims, batches
    assert {case.dtype for case in cases('--device', 'cuda', '--dtype', 'bfloat16')} == {'bfloat16'}


class NoGpu(TorchFunctionMode):
    """Makes on the CPU what is wanted on CUDA."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get('device') == 'cuda':
            kwargs['device'] = 'cpu'
        return function(*args, **kwargs)


class CudaWithoutGpu(Cpu):
    name = 'cuda'


def test_operators_on_cuda(tmp_path, monkeypatch, capsys):
    """What is written, with the CPU in the GPU's place."""
    monkeypatch.setattr(ops, 'get_device', lambda name: CudaWithoutGpu())
    monkeypatch.setattr(ops, 'describe_machine', lambda threads, device: {'GPU': 'none'})
    monkeypatch.setattr(ops, 'peak_memory', lambda workload, threads: Memory(5 * 10**6, 10**6))
    monkeypatch.setattr(copies, 'BYTES', 2**20)
    monkeypatch.setattr(dispatch, 'CUDA_PROBLEM', '')
    monkeypatch.chdir(tmp_path)
    options = ['--maps', '12x16x2', '--batch', '1', '--kernel-size', '3', '--dilation', '1', '2']

    def run_peer(workload, threads, yardstick, repeats, budget):
        if workload.implementation == 'swin-matmul':
            raise NotRun('no memory')
        again = pickle.loads(pickle.dumps(yardstick))
        assert again.device.name == 'cuda' and again.rate() > 0
        return Timing(2e-3, 1e-3, 3e-3, 3, 10.0), Memory(2 * 10**6, 10**6), 'a note'

    monkeypatch.setattr(ops, 'measure_peer', run_peer)
    with NoGpu():
        ops.main(['--device', 'cuda', *options, *TINY])
    head, rows = read_table(tmp_path / 'benchmarks/results/operator_cuda.csv', ops.COLUMNS)
    copies_measured = [fact for name, fact in head.items() if name.startswith('copy within cuda memory, ')]
    assert len(copies_measured) == 2 and all('GB/s read and written, 1 MiB' in f for f in copies_measured)
    assert [(row['dilation'], row['implementation']) for row in rows] == 2 * [
        ('1', 'natten_ops'), ('1', 'swin-sdpa'), ('1', 'swin-matmul'),
    ] + 2 * [('2', 'natten_ops')]  # fmt: skip
    for row in rows:
        assert row['dtype'] == 'float16' and row['gemm_gflop_per_s'] == row['ratio_to_gemm'] == ''
        if row['implementation'] == 'swin-matmul':
            assert row['note'] == 'not run: no memory' and row['median_ms'] == ''
            continue
        tensors = 4 if row['direction'] == FORWARD else 12
        megabytes = 2 * (tensors * 12 * 16 * 2 * 32 + tensors // 4 * 2 * 25) / 1e6
        assert float(row['necessary_mb']) == pytest.approx(megabytes, rel=1e-4)
        assert float(row['gb_per_s']) == pytest.approx(megabytes / float(row['median_ms']), rel=1e-4)
        percent = 100 * float(row['gb_per_s']) / float(row['copy_gb_per_s'])
        assert float(row['percent_of_copy']) == pytest.approx(percent, rel=1e-4)
        assert float(row['peak_extra_mb']) == 1
    printed = capsys.readouterr().out
    assert 'percent_of_copy' in printed and 'ratio_to_gemm' not in printed


def test_cuda_is_timed_between_events(monkeypatch):
    """On a device that is only written down: the wait and the cache's eviction come before the events."""
    happened = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            happened.append('event')

        def synchronize(self):
            happened.append('synchronize')

        def elapsed_time(self, end):
            return 2.5

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, '_sleep', lambda cycles: happened.append('wait'))
    monkeypatch.setattr(Cuda, 'cache_bytes', 16)
    with NoGpu():
        assert get_device('cuda').seconds(lambda: happened.append('call')) == 2.5e-3
    assert happened == ['wait', 'event', 'call', 'event', 'synchronize']


def test_without_cuda_kernels_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(ops, 'get_device', lambda name: CudaWithoutGpu())
    monkeypatch.setattr(dispatch, 'CUDA_PROBLEM', 'build it')
    with pytest.raises(SystemExit):
        ops.main(['--device', 'cuda'])
    assert capsys.readouterr().err == 'error: natten_ops has no kernels for CUDA; build it\n'


def test_operator_benchmark_needs_torch_only():
    """So that it runs where a GPU is, and none of the other packages."""
    program = (
        'import runpy, sys\n'
        'for name in ("mmengine", "mmcv", "mmdet", "mmseg", "matplotlib", "PIL", "cv2"):\n'
        '    sys.modules[name] = None\n'
        'sys.argv = ["benchmarks/ops.py", "--help"]\n'
        'runpy.run_module("benchmarks.ops", run_name="__main__")\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    run = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0 and '--device' in run.stdout, run.stderr


@pytest.mark.parametrize(
    ('tool', 'options', 'message'),
    [
        (ops, ['--maps', 'coco', '5x5'], "200x304x2, got '5x5'"),
        (ops, ['--maps', '5x0x1'], "--maps must be a positive int, got '0'"),
        (ops, ['--maps', '12x12x1', '--kernel-size', '7', '--dilation', '2'], 'got 12x12'),
        (ops, ['--maps', '6x6x1', '--kernel-size', '7'], 'needs a map of 7 tokens on each side'),
        (ops, ['--kernel-size', '-3'], '--kernel-size'),
        (ops, ['--batch', '1.5'], "--batch must be a positive int, got '1.5'"),
        (ops, ['--dtype', 'int8'], "invalid choice: 'int8'"),
        (ops, ['--repeats', '0'], "--repeats must be a positive int, got '0'"),
        (ops, ['--threads', '4096'], '--threads must be at most'),
        (ops, ['--device', 'xpu'], "--device must be cpu or cuda, got 'xpu'"),
        (ops, ['--device', 'cuda'], '--device cuda needs a GPU, and torch'),
        (models, ['--device', 'cuda'], "--device must be cpu, got 'cuda'"),
        (ops, ['--out', '/proc/none/x.csv'], '/proc/none/x.csv cannot be written'),
        (ops, ['--out', str(ROOT)], f'{ROOT} cannot be written'),
        (models, ['--image-size', '800'], '--image-size must be HxW'),
        (models, ['--image-size', '0x7'], "--image-size must be a positive int, got '0'"),
        (models, ['--unknown'], 'unrecognized arguments: --unknown'),
        (host_time, ['--rounds', '0'], "--rounds must be a positive int, got '0'"),
    ],
)
def test_bad_options(tool, options, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit) as exit_:
        tool.main(options)
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith('error: ') and message in error and error.count('\n') == 1


def test_host_time(capsys):
    host_time.main(['--kernel-size', '3', '5', '--rounds', '1'])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if ' forward' in line]
    assert [row[0] for row in rows] == ['3'] * 6 + ['5'] * 6
    assert [row[2] for row in rows] == list(host_time.COMPUTATIONS) * 4
    for row in rows:
        assert float(row[3]) > 0
        assert (float(row[4]) == 1) == (row[2] == host_time.TORCH)


def test_table_replaces_a_file_only_when_complete(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('good')
    table = Table(('a',), {})
    table.add({'unknown': 1})
    with pytest.raises(ValueError, match='unknown'):
        table.write(path, {})
    assert path.read_text() == 'good'


def operator_rows():
    for name, heads in plot.MAPS.items():
        for direction in plot.DIRECTIONS:
            for scale, implementation in enumerate(plot.IMPLEMENTATIONS, 1):
                row = {
                    'map': name,
                    'heads': int(heads),
                    'threads': 2,
                    'direction': direction,
                    **plot.SHOWN,
                }
                row |= {'implementation': implementation, 'gflop': 0.5, 'gemm_gflop_per_s': 150.0}
                yield row | ({'note': 'not run: why'} if scale == 5 else {'median_ms': 3.0 * scale})


def test_plot(tmp_path):
    table = Table(ops.COLUMNS, {})
    for row in operator_rows():
        table.add(row)
    path, picture = tmp_path / 'operators.csv', tmp_path / 'new' / 'speed.png'
    table.write(path, {'processor': 'a processor'})
    plot.main([str(path), '--out', str(picture)])
    assert picture.read_bytes().startswith(b'\x89PNG') and picture.stat().st_size > 10_000
    assert [file.name for file in picture.parent.iterdir()] == ['speed.png']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'cannot be read'),
        ('a,b\n1,2\n', 'has no column head_dim'),
        (','.join(ops.COLUMNS) + '\n', 'has no figures of the COCO levels'),
    ],
)
def test_plot_of_a_wrong_file(text, message, tmp_path, capsys):
    path = tmp_path / 'table.csv'
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit):
        plot.main([str(path), '--out', str(tmp_path / 'speed.png')])
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not (tmp_path / 'speed.png').exists()


@pytest.fixture
def measured(tmp_path):
    pytest.importorskip('mmdet')

    def run(name):
        models.main([f'--{name}', '--image-size', '32x64', '--out-dir', str(tmp_path), *TINY])
        path = tmp_path / models.FILES[name]
        columns = {
            'modules': models.MODULE_COLUMNS,
            'backbones': models.BACKBONE_COLUMNS,
            'profile': models.PROFILE_COLUMNS,
        }[name]
        head, rows = read_table(path, columns)
        check_head(head)
        return rows

    return run


def test_modules(measured, monkeypatch):
    monkeypatch.setattr(models, 'LEVELS', models.LEVELS[:1])
    rows = measured('modules')
    assert len(rows) == 2 * 4
    for ours, window, shifted, mean in (rows[:4], rows[4:]):
        assert ours['module'] == 'NeighborhoodAttention2D' and mean['module'] == 'ShiftWindowMSA mean'
        for figure in ('median_ms', 'peak_mb'):
            average = (float(window[figure]) + float(shifted[figure])) / 2
            assert float(mean[figure]) == pytest.approx(average, rel=1e-4)
        speed = float(mean['median_ms']) / float(ours['median_ms'])
        assert float(ours['speed_to_swin']) == pytest.approx(speed, rel=1e-4)
        assert float(mean['speed_to_swin']) == float(mean['memory_to_swin']) == 1


@pytest.mark.long
def test_backbones(measured):
    rows = measured('backbones')
    assert len(rows) == 2 * 3
    for row in rows:
        assert float(row['images_per_s']) == pytest.approx(1e3 / float(row['median_ms']), rel=1e-4)
        swin = next(r for r in rows if r['backbone'] == 'Swin-Tiny' and r['direction'] == row['direction'])
        memory = float(row['peak_mb']) / float(swin['peak_mb'])
        assert float(row['memory_to_swin']) == pytest.approx(memory, rel=1e-4)


@pytest.mark.long
def test_profile(measured):
    rows = measured('profile')
    for backbone in ('NAT-Tiny', 'DiNAT-Tiny', 'Swin-Tiny'):
        for direction in (FORWARD, TRAINING):
            of_one = [row for row in rows if (row['backbone'], row['direction']) == (backbone, direction)]
            assert sum(float(row['percent']) for row in of_one) == pytest.approx(100, abs=0.1)
            kinds = {row['kind'] for row in of_one}
            assert {'attention', 'linear', 'norm', 'gelu', 'other'} <= kinds


@pytest.mark.long  # compiles the kernels
@pytest.mark.skipif(platform.machine() != 'x86_64', reason='reads the clock of x86 processors')
def test_cpu_phases(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_phases, 'CASES', [(20, 48, 2, 16, 5)])
    cpu_phases.main(['--repeats', '1', '--out', str(tmp_path / 'phases.csv')])
    _, found = read_table(tmp_path / 'phases.csv', cpu_phases.COLUMNS)
    for direction, products in (('forward', 2), ('backward', 4)):
        whole, *phases = [row for row in found if row['direction'] == direction]
        assert whole['phase'] == 'all' and all(row['phase'] in cpu_phases.PHASES for row in phases)
        for column in ('milliseconds', 'inside', 'border'):
            parts = sum(float(row[column]) for row in phases)
            assert parts == pytest.approx(float(whole[column]), rel=1e-3)
        assert len(phases) > products
