"""A full disk: each command ends with one line that says so, and leaves whole what is there."""

import re
import shutil
import tempfile

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from earlier_runs import forget_earlier_runs
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from small_disk import NEEDS_MOUNT, disk
from tiny_training import draw_data, write_configs

from mmnat.__main__ import main
from mmnat.checkpoints.reading import read_checkpoint

assert disk  # a fixture
pytestmark = [pytest.mark.long, NEEDS_MOUNT]
FULL = 'No space left on device'


@pytest.fixture(scope='module')
def run():
    def run(*arguments):
        """Run a command; returns its exit code."""
        forget_earlier_runs(also=[MMLogger])  # which would keep the standard output
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            return end.code or 0
        return 0

    return run


@pytest.fixture(scope='module')
def trained(tmp_path_factory, run):
    """Data, configs, a detector and a segmentor trained on them, and weights to convert."""
    root = tmp_path_factory.mktemp('trained')
    draw_data(root / 'data')
    write_configs(root, root / 'data')
    for name in ('detector', 'segmentor'):
        assert run('train', root / f'{name}.py', '--work-dir', root / name) == 0
    weights = read_checkpoint(root / 'detector/iter_2.pth')['state_dict']
    torch.save(dict(state_dict=weights), root / 'weights.pth')
    return root


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


COMMANDS = {
    'convert': '{root}/weights.pth {disk}/out.pth --force --config {root}/detector.py',
    'label-maps': '{root}/data/coco.json {disk}/maps',
    'swap': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --backbone nat_mini --pretrained none'
    ' --out {disk}/out.py --force',
    'predict detector': '{root}/detector.py {root}/detector/iter_2.pth {root}/data/images'
    ' --out-dir {disk}/out',
    'predict segmentor': '{root}/segmentor.py {root}/segmentor/iter_2.pth {root}/data/images'
    ' --out-dir {disk}/out',
    'test detector pictures': '{root}/detector.py {root}/detector/iter_2.pth --work-dir {other}'
    ' --show-dir {disk}/out',
    'test segmentor pictures': '{root}/segmentor.py {root}/segmentor/iter_2.pth --work-dir {other}'
    ' --show-dir {disk}/out',
    'test detector predictions': '{root}/detector.py {root}/detector/iter_2.pth --work-dir {other}'
    ' --out {disk}/out.pkl',
    'test segmentor label maps': '{root}/segmentor.py {root}/segmentor/iter_2.pth --work-dir {other}'
    ' --out {disk}/out',
    'test detector': '{root}/detector.py {root}/detector/iter_2.pth --work-dir {disk}/out',
    'train segmentor': '{root}/segmentor.py --work-dir {disk}/out',
}


@pytest.mark.parametrize('filled', ['before', 'on the way'])
@pytest.mark.parametrize('name', COMMANDS)
def test_one_line_and_no_half_file(run, trained, disk, tmp_path, capsys, monkeypatch, name, filled):
    """The output of an earlier run, which would be replaced, stays as it is, or is whole and new."""
    command = [name.split()[0]]
    command += COMMANDS[name].format(root=trained, disk=disk.folder, other=tmp_path / 'other').split()
    assert run(*command) == 0
    good = {path: content for path, content in files(disk.folder).items() if not is_log(path)}
    if name == 'label-maps':
        shutil.rmtree(disk.folder / 'maps')
        good = {}
    if filled == 'before':
        disk.fill()
    else:
        fill_on_the_way(disk, monkeypatch)
    capsys.readouterr()
    code = run(*command)
    errors = capsys.readouterr().err
    assert code == 2, errors[-2000:]
    assert 'Traceback' not in errors and 'Logging error' not in errors, errors[-3000:]
    messages = re.findall('^error: .*', errors, re.MULTILINE)
    assert len(messages) == 1 and '; ' in messages[0] and (FULL in messages[0] or 'MiB left' in messages[0])
    left = files(disk.folder)
    for path, content in good.items():
        assert left[path] == content, path
    extra = [path for path in left.keys() - good.keys() if not is_log(path) and path.name != 'filler']
    assert not extra


@pytest.mark.parametrize('name', COMMANDS)
def test_a_disk_that_cannot_be_written(run, trained, disk, tmp_path, capsys, name):
    command = [name.split()[0]]
    command += COMMANDS[name].format(root=trained, disk=disk.folder, other=tmp_path / 'other').split()
    disk.remount('ro')
    code = run(*command)
    errors = capsys.readouterr().err
    assert code == 2, errors[-2000:]
    messages = re.findall('^error: .*', errors, re.MULTILINE)
    assert 'Traceback' not in errors and len(messages) == 1
    assert '; ' in messages[0] and re.search('[Rr]ead-only', messages[0]), messages


def is_log(path):
    """Files that grow, or that each run writes into a folder of its own."""
    return path.suffix in ('.log', '.json') or ('vis_data' in path.parts and path.suffix == '.py')


def fill_on_the_way(disk, monkeypatch):
    """Fill the disk when the first file is about to be replaced, or an iteration ends."""
    make, call = tempfile.mkdtemp, Runner.call_hook

    def fill_first(*args, **kwargs):
        folder = make(*args, **kwargs)
        if str(disk.folder) in folder:
            disk.fill()
        return folder

    def fill_before(runner, name, **kwargs):
        if name in ('after_test_iter', 'after_train_iter'):
            disk.fill()
        call(runner, name, **kwargs)

    monkeypatch.setattr(tempfile, 'mkdtemp', fill_first)
    monkeypatch.setattr(Runner, 'call_hook', fill_before)


def test_the_disk_is_full(disk):
    """The helper itself."""
    disk.fill()
    with pytest.raises(OSError, match=FULL):
        (disk.folder / 'file').write_bytes(b'x' * 5000)
    disk.make_room()
    (disk.folder / 'file').write_bytes(b'x' * 5000)
