"""The emulator that runs CUDA kernels on the CPU: what it computes, and what it detects."""

import os
import re
import subprocess

import numpy as np
import pytest
import torch
from simt import build

pytestmark = pytest.mark.skipif(not build.asan_library(), reason='needs GCC and its AddressSanitizer')

ORDERS = (0, 1, 2, 3)  # ascending, descending, two random ones
THREADS = 64
INPUT = np.array([(i * i % 31 - 15) / 4 for i in range(16 * 16 + 16 * 8)])


@pytest.fixture(scope='module', autouse=True)
def built():
    """Compiles once, also where that fails."""
    build.selftest()


def start(*arguments, stdin=b'', capability=90):
    environment = os.environ | dict(
        NATTEN_OPS_SIMT_CAPABILITY=str(capability), ASAN_OPTIONS='detect_leaks=0', LD_PRELOAD=''
    )
    command = [str(build.selftest()), *map(str, arguments)]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True)


def numbers(case, order=0):
    run = start(case, order)
    assert run.returncode == 0, run.stderr.decode()
    return np.array(run.stdout.split(), dtype=np.float64)


def error(case, **options):
    """The message of a launch that is refused, the second time as the first."""
    run = start(case, **options)
    assert run.returncode == 0, run.stderr.decode()
    first, second = run.stdout.decode().splitlines()
    assert first == second and first.startswith('error: ')
    return first.removeprefix('error: ')


def report(case):
    """What the sanitizers print about a program that they end."""
    run = start(case)
    assert run.returncode != 0 and not run.stdout
    return run.stderr.decode()


@pytest.mark.parametrize('order', ORDERS)
def test_threads_and_blocks(order):
    threads = np.arange(THREADS)
    wanted = np.concatenate([1000 * block + threads for block in range(4)])
    assert (numbers('indices', order) == wanted).all()


@pytest.mark.parametrize('order', ORDERS)
def test_shuffles(order):
    threads = np.arange(THREADS)
    exchanged, shifted, either, _ = numbers('shuffles', order).reshape(4, THREADS)
    assert (exchanged == threads ^ 5).all()
    assert (shifted == threads // 32 * 32 + (threads + 1) % 32).all()
    assert (either == (threads >= 32)).all()


@pytest.mark.parametrize('order', ORDERS)
def test_block_reduction(order):
    sums = numbers('block_sums', order).reshape(4, THREADS)[:3]
    assert (sums == [[2016], [2016 + 64], [2016 + 128]]).all()


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_matrix_products(dtype):
    a, b = INPUT[:256].reshape(16, 16), INPUT[256:].reshape(16, 8)
    products = numbers(f'matrix_products_{dtype}')[:128].reshape(16, 8)
    assert (products == a @ b).all()  # multiples of 1/16, exact in float


def test_tf32_products():
    a, b = INPUT[:128].reshape(16, 8), INPUT[128:192].reshape(8, 8)
    products = numbers('tf32_products')[:128].reshape(16, 8)
    assert (products == a @ b).all()  # multiples of 1/16, exact also in TF32


def test_copies_land_when_they_are_waited_for():
    shown = numbers('copies')[:60].reshape(5, 3, 4)
    nan, zero = np.full(4, np.nan), np.zeros(4)
    wanted = [
        [nan, nan, nan],
        [nan, nan, nan],  # all but two batches: none
        [INPUT[:4], nan, nan],
        [INPUT[:4], zero, nan],  # the third one is in no batch
        [INPUT[:4], zero, INPUT[4:8]],
    ]
    np.testing.assert_array_equal(shown, wanted)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_conversions(dtype):
    """As torch has them, for all numbers of 16 bits, for those between two of them, and for others."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).float()
    finite = every[every.isfinite()].sort().values
    between = (finite[1:].double() + finite[:-1].double()).div(2).float()
    floats = [every, between, between.nextafter(-finite[0]), between.nextafter(finite[0])]
    floats.append(torch.randint(-(2**31), 2**31, (100_000,)).int().view(torch.float32))
    floats = torch.cat(floats)
    run = start(f'convert_{str(dtype).removeprefix("torch.")}', stdin=floats.numpy().tobytes())
    assert run.returncode == 0, run.stderr.decode()
    table = np.frombuffer(run.stdout, dtype=[('narrow', np.int16), ('wide', np.float32)])
    narrow = torch.from_numpy(table['narrow'].copy()).view(dtype)
    nan = floats.isnan()
    assert torch.equal(narrow[~nan].view(torch.int16), floats[~nan].to(dtype).view(torch.int16))
    assert (table['narrow'][nan.numpy()] == 0x7FFF).all()  # what the device makes of NaN
    np.testing.assert_array_equal(table['wide'], narrow.float().numpy())


@pytest.mark.parametrize(
    'case', ['missing_block_barrier', 'missing_warp_barrier', 'same_output_of_two_blocks']
)
def test_races_change_results(case):
    results = [numbers(case, order).tobytes() for order in ORDERS]
    assert results == [numbers(case, order).tobytes() for order in ORDERS]
    assert len(set(results)) > 1


def test_missing_copy_wait_gives_nan():
    assert np.isnan(numbers('missing_copy_wait')[:THREADS]).all()


@pytest.mark.parametrize(
    ('case', 'message'),
    [
        ('beyond_shared_memory', 'AddressSanitizer: heap-buffer-overflow'),
        ('beyond_global_memory', 'AddressSanitizer: heap-buffer-overflow'),
        ('beyond_an_array', 'AddressSanitizer: stack-buffer-overflow'),
        ('misaligned_word', 'load of misaligned address'),
    ],
)
def test_sanitizers_end_the_program(case, message):
    text = report(case)
    assert message in text and 'selftest.cpp' in text


@pytest.mark.parametrize(
    ('case', 'message'),
    [
        (
            'different_collectives',
            'block 0, warp 1: some threads wait in shuffle_xor, others wait in block_barrier',
        ),
        (
            'different_lines',
            'block 0, warp 1: some threads wait in warp_barrier, others wait in warp_barrier',
        ),
        ('exited_thread', 'block 0, warp 1: some threads wait in warp_barrier, others have exited'),
        ('exited_warp', 'block 0: some warps have exited, others wait in block_barrier'),
        ('part_of_a_warp', 'block 0: warp 1 is not whole, but its threads wait in warp_any'),
        (
            'load_misaligned',
            'block 0, thread 0: load_matrices_transposed: shared address is not aligned to its bytes',
        ),
        (
            'load_from_global',
            'block 0, thread 0: load_matrices_transposed: address is not in shared memory',
        ),
        ('copy_beyond', 'block 0, thread 0: copy_async: address is not in shared memory'),
        ('copy_from_misaligned', 'block 0, thread 0: copy_async: global address is not aligned'),
        ('copy_twice', 'block 0, thread 0: copy_async: bytes that a copy is under way to'),
        ('no_blocks', 'launch: number of blocks'),
        ('too_much_shared_memory', 'launch: too much shared memory'),
        ('another_stream', "launch: not on the caller's stream"),
    ],
)
def test_launch_returns_what_is_wrong(case, message):
    text = error(case)
    assert re.sub(r' \(selftest.cpp:\d+\)', '', text) == message
    assert text.startswith('launch') or 'selftest.cpp' in text


@pytest.mark.parametrize(('dtype', 'case'), [('bfloat16', 'bfloat16_product'), ('TF32', 'tf32_product')])
def test_products_need_capability_80(dtype, case):
    assert f'{dtype} needs compute capability 8.0' in error(case, capability=75)
    assert start(case, capability=80).stdout.startswith(b'0\n')
