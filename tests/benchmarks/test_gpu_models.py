"""The benchmark of backbones on a GPU: its rows and modes, with the CPU in the GPU's place."""

import json
import sys
from contextlib import contextmanager, nullcontext

import pytest
import torch

pytest.importorskip('mmengine')

from benchmarks import gpu_models
from benchmarks.lib.gpu import KernelTime, kernel_times, median_seconds
from mmnat.models import NAT


class Stream:
    def wait_stream(self, stream):
        pass


class Graph:
    """Launches what ran in the capture."""

    def replay(self):
        Graph.replays += 1


@contextmanager
def no_capture(graph):
    yield


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    Graph.replays = 0
    monkeypatch.setattr(gpu_models, 'DEVICE', 'cpu')
    monkeypatch.setattr(gpu_models, 'REPEATS', 2)
    monkeypatch.setattr(gpu_models, 'kernel_times', lambda call: [KernelTime('a', 1500, 2)] * 2)
    for name, value in dict(
        get_device_name='none', synchronize=None, empty_cache=None, reset_peak_memory_stats=None,
        max_memory_allocated=3 * 10**6, current_stream=Stream(), stream=nullcontext(),
    ).items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, 'Stream', Stream)
    monkeypatch.setattr(torch.cuda, 'CUDAGraph', Graph)
    monkeypatch.setattr(torch.cuda, 'graph', no_capture)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """What the benchmark writes of a small backbone and of those that are named."""
    small = dict(embed_dim=16, depths=(1, 1), num_heads=(1, 2), mlp_ratio=2.0, out_indices=(0, 1))
    monkeypatch.setitem(gpu_models.BACKBONES, 'small', lambda height, width: NAT(kernel_size=3, **small))

    def run(*words):
        path = tmp_path / 'rows.jsonl'
        gpu_models.main([*words, '--images', '2x32x32', '--out', str(path)])
        head, *found = map(json.loads, path.read_text().splitlines())
        assert head['gpu'] == 'none' and head['torch'] == torch.__version__
        return found

    return run


def test_rows(rows):
    found = rows('small', '--mode', 'eager', 'graph')
    assert [(row['mode'], row['direction']) for row in found] == [
        ('eager', 'forward'), ('eager', 'step'), ('graph', 'forward'), ('graph', 'step'),
    ]  # fmt: skip
    for row in found:
        assert row['backbone'] == 'small' and row['images'] == '2x32x32'
        assert row['milliseconds'] >= 0 and row['images_per_s'] > 0 and row['first_seconds'] >= 0
        assert row['gpu_milliseconds'] == 3 and row['launches'] == 4
        assert row.get('peak_mb') == (3 if row['mode'] == 'eager' else None)
    assert Graph.replays == 2 * (1 + 3 + 2)  # first, warm-up, measured


def test_what_fails_has_a_row_and_the_others_follow(rows, monkeypatch, capsys):
    def no_memory(graph):
        raise torch.OutOfMemoryError('CUDA out of memory.\nMore on this')

    monkeypatch.setattr(torch.cuda, 'graph', no_memory)
    monkeypatch.setitem(sys.modules, 'timm', None)
    found = rows('Swin-Tiny', 'small', '--mode', 'graph', 'eager')
    assert [(row['mode'], row['backbone'], 'failed' in row) for row in found] == [
        ('graph', 'Swin-Tiny', True), ('graph', 'small', True), ('graph', 'small', True),
        ('eager', 'Swin-Tiny', True), ('eager', 'small', False), ('eager', 'small', False),
    ]  # fmt: skip
    assert found[0]['failed'].startswith('ModuleNotFoundError: ') and 'timm' in found[0]['failed']
    assert found[1]['failed'] == 'OutOfMemoryError: CUDA out of memory.'
    assert capsys.readouterr().out.count('\n') == 1 + len(found)


def test_every_block_is_compiled():
    backbone = NAT(embed_dim=16, depths=(2, 1), num_heads=(1, 2), mlp_ratio=2.0, out_indices=(0, 1))
    with torch._dynamo.config.patch(recompile_limit=8):  # what it was comes back
        assert gpu_models.compile_blocks(backbone, backend='eager') == 3
        assert gpu_models.compile_blocks(torch.nn.Linear(1, 1)) == 0
    compiled = [name for name, module in backbone.named_modules() if module._compiled_call_impl]
    assert compiled == ['levels.0.blocks.0', 'levels.0.blocks.1', 'levels.1.blocks.0']


def test_backbones_of_the_comparison():
    dilated = gpu_models.dinat_s(224, 224)
    assert [[b.attn.dilation[0] for b in level.blocks] for level in dilated.layers] == [
        [1, 8], [1, 4], [1, 2, 1, 2, 1, 2], [1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['NAT-Huge'], "'NAT-Huge' is none of NAT-Tiny, DiNAT_s-Tiny, Swin-Tiny"),
        (['--images', '800x1216'], "'800x1216' is not like 4x800x1216"),
        (['--mode', 'slow'], "invalid choice: 'slow'"),
    ],
)
def test_bad_options(words, message, capsys):
    with pytest.raises(SystemExit):
        gpu_models.main(words)
    assert message in capsys.readouterr().err


def test_median_is_of_warm_calls():
    calls = []
    times = iter([5.0, 1.0, 3.0])
    assert median_seconds(lambda: calls.append(0), lambda call: next(times), 3) == 3
    assert len(calls) == 3


def test_kernels_are_what_runs_on_the_gpu(monkeypatch):
    class Event:
        def __init__(self, key, device, is_user_annotation=False):
            self.key, self.device_type = key, device
            self.is_user_annotation = is_user_annotation
            self.device_time_total, self.count = 20.0, 10

    events = [
        Event('kernel', torch.autograd.DeviceType.CUDA),
        Event('step', torch.autograd.DeviceType.CUDA, is_user_annotation=True),
        Event('cudaLaunchKernel', torch.autograd.DeviceType.CPU),
    ]

    class Profile:
        def key_averages(self):
            return events

    monkeypatch.setattr(torch.profiler, 'profile', lambda activities: nullcontext(Profile()))
    assert kernel_times(lambda: None, calls=5) == [KernelTime('kernel', 4.0, 2.0)]
