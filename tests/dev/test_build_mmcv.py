"""tools/dev/build_mmcv.py: groups of source files, and the wheels that are kept."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import build_mmcv
import pytest

SOURCES = 'mmcv/ops/csrc/pytorch'
# In the place of mmcv's: "compiles" groups, and fails like ninja if one holds what does not go together.
SETUP = """
import pathlib, re, sys, zipfile
CONFLICT = {conflict!r}
groups = sorted(pathlib.Path('mmcv/ops/csrc/pytorch').rglob('*.cpp'))
texts = [group.read_text() for group in groups]
open('runs', 'a').write('x')
for group, text in zip(groups, texts):
    if all(name in text for name in CONFLICT):
        print(f'FAILED: [code=1] /build/{{group.stem}}.o')
        sys.exit('error: redefinition')
with zipfile.ZipFile(pathlib.Path(sys.argv[3]) / 'mmcv-1.whl', 'w') as wheel:
    wheel.writestr('sources', ' '.join(re.findall(r'"(.+[.]inc)"', ''.join(texts))))
"""


@pytest.fixture
def source(tmp_path):
    """Makes a source tree of mmcv whose files conflict as told."""

    def make(conflict=('nothing',)):
        folder = tmp_path / 'build/source'
        (folder / SOURCES / 'cpu').mkdir(parents=True)
        for name in ('a', 'b', 'c', 'd', 'e', 'cpu/roi_align', 'cpu/bezier_align', 'cpu/f', 'cpu/psamask'):
            (folder / SOURCES / f'{name}.cpp').write_text('int i;')
        (folder / 'setup.py').write_text(SETUP.format(conflict=conflict))
        build_mmcv.make_groups(folder / SOURCES)
        return folder

    return make


def included(source):
    """The files that each group includes."""
    groups = sorted((source / SOURCES).glob('*.cpp'))
    return [re.findall(r'"(.+)\.inc"', group.read_text()) for group in groups]


def test_every_file_is_in_one_group(source):
    groups = included(source())
    assert groups == [
        ['cpu/bezier_align', 'a', 'c', 'e'],
        ['cpu/roi_align', 'b', 'd'],
        ['cpu/f'],
        ['cpu/psamask'],
    ]


def test_a_group_that_does_not_compile_is_split(source, tmp_path):
    folder = source(conflict=('"a.inc"', '"e.inc"'))
    wheel = build_mmcv.compile_wheel(folder, tmp_path)
    assert included(folder)[:2] == [['cpu/bezier_align', 'a'], ['c', 'e']]
    assert (folder / 'runs').read_text() == 'xx'
    with zipfile.ZipFile(wheel) as archive:
        assert len(archive.read('sources').split()) == 9


def test_a_file_that_does_not_compile_ends_the_build(source, tmp_path, capsys):
    folder = source(conflict=('"d.inc"',))
    with pytest.raises(SystemExit, match='mmcv does not compile'):
        build_mmcv.compile_wheel(folder, tmp_path)
    assert 'redefinition' in capsys.readouterr().out and not folder.exists()


def test_wheels_are_kept_for_what_they_were_built_for(monkeypatch):
    key = build_mmcv.wheel_key()
    assert re.match(r'2\.3\.6-torch2\.\d+.*-cpython-3\d+-linux-', key)
    keys = {key}
    for name in ('__version__', 'cuda'):
        module = build_mmcv.torch if name == '__version__' else build_mmcv.torch.version
        monkeypatch.setattr(module, name, '13.9')
        monkeypatch.setattr(build_mmcv, 'CUDA_HOME', '/cuda')
        monkeypatch.setenv('FORCE_CUDA', '1')
        keys.add(build_mmcv.wheel_key())
    assert len(keys) == 3 and any(key.endswith('-cuda') for key in keys)


@pytest.fixture
def build(monkeypatch, tmp_path, capsys):
    """Runs the script with a compiler that only makes a wheel; returns that, and whether it was built."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(build_mmcv, 'unpack_source', lambda folder: folder)
    built = []

    def compile_wheel(source, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / 'mmcv-1.whl', 'w') as wheel:
            wheel.writestr('x', 'x' * 10_000)
        built.append(source)
        return folder / 'mmcv-1.whl'

    monkeypatch.setattr(build_mmcv, 'compile_wheel', compile_wheel)
    monkeypatch.setattr(build_mmcv, 'ROOT', tmp_path)

    def run():
        built.clear()
        build_mmcv.main()
        return Path(capsys.readouterr().out.splitlines()[-1]), bool(built)

    return run


def test_a_wheel_is_built_once(build, tmp_path):
    wheel, was_built = build()
    assert was_built and tmp_path / 'cache' in wheel.parents
    assert build() == (wheel, False)


def test_a_half_written_wheel_is_built_again(build):
    wheel, _ = build()
    os.truncate(wheel, wheel.stat().st_size // 2)
    assert build() == (wheel, True)
    assert zipfile.is_zipfile(wheel)


def test_a_cache_that_cannot_be_written_is_done_without(build, tmp_path):
    (tmp_path / 'cache').write_text('a file')
    wheel, was_built = build()
    assert was_built and tmp_path / 'build' in wheel.parents


@pytest.mark.long
def test_results_are_those_of_the_installed_mmcv():
    """The operators of mmdet's detectors work, and all of mmcv's are there."""
    program = """if True:
        import torch, mmcv.ops as ops
        from mmcv import _ext
        assert len([n for n in dir(_ext) if not n.startswith('_')]) >= 100
        boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 11., 11.], [20., 20., 30., 30.]])
        kept = ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1]
        assert kept.tolist() == [0, 2]
        image = torch.arange(64.).view(1, 1, 8, 8).requires_grad_()
        rois = torch.tensor([[0., 0., 0., 8., 8.]])
        pooled = ops.roi_align(image, rois, 2, 1.0, 0, 'avg', True)
        torch.testing.assert_close(pooled.flatten(), torch.tensor([13.5, 17.5, 45.5, 49.5]))
        pooled.sum().backward()
        torch.testing.assert_close(image.grad, torch.full((1, 1, 8, 8), 1 / 16))
        weight, offset = torch.randn(3, 1, 3, 3), torch.zeros(1, 18, 8, 8)
        same = torch.nn.functional.conv2d(image, weight, padding=1)
        torch.testing.assert_close(ops.deform_conv2d(image, offset, weight, 1, 1), same)
    """
    subprocess.run([sys.executable, '-c', program], check=True)
