"""Checkpoints while they are written: the old one stays until the new one is complete."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import MessageHub

from mmnat.errors import UserError
from mmnat.launch import checkpoint_files
from mmnat.launch.checkpoint_files import AtomicLocalBackend, KeepingCheckpointHook


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    AtomicLocalBackend().put(b'old', path)

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(checkpoint_files.os, 'fsync', fail)
    with pytest.raises(UserError, match=r'epoch_1\.pth cannot be written: No space left on device'):
        AtomicLocalBackend().put(b'new', path)
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    target, link = tmp_path / 'photo.jpg', tmp_path / 'epoch_1.pth'
    target.write_bytes(b'photo')
    link.symlink_to(target)
    AtomicLocalBackend().put(b'new', link)
    assert target.read_bytes() == b'photo' and link.read_bytes() == b'new' and not link.is_symlink()


class Runner(SimpleNamespace):
    """What the hook needs of a runner; it writes the step into the file."""

    def __init__(self, work_dir):
        hub = MessageHub.get_instance(f'test_{work_dir.name}')
        super().__init__(work_dir=str(work_dir), message_hub=hub, epoch=0, iter=0, kept=[])
        self.logger = SimpleNamespace(info=lambda *_: None)

    def save_checkpoint(self, out_dir, filename, *_, **__):
        self.kept.append(sorted(path.name for path in Path(out_dir).glob('*.pth')))
        Path(out_dir, filename).write_text(str(self.epoch))


@pytest.mark.parametrize('most', [1, 2])
def test_the_oldest_checkpoint_goes_when_the_newest_is_there(tmp_path, most):
    hook, runner = KeepingCheckpointHook(interval=1, max_keep_ckpts=most), Runner(tmp_path)
    hook.before_train(runner)
    for runner.epoch in range(4):
        hook.after_train_epoch(runner)
        names = [f'epoch_{epoch}.pth' for epoch in range(max(1, runner.epoch + 2 - most), runner.epoch + 2)]
        assert sorted(path.name for path in tmp_path.glob('*.pth')) == names
    # While the last one was written, all were there that had been kept until then.
    assert runner.kept[-1] == [f'epoch_{epoch}.pth' for epoch in range(4 - most, 4)]


def test_runs_use_them(monkeypatch):
    from mmengine.registry import HOOKS

    before = HOOKS.get('CheckpointHook')
    try:
        checkpoint_files.keep_good_checkpoints()
        assert HOOKS.get('CheckpointHook') is KeepingCheckpointHook
        assert type(get_file_backend('work/epoch_1.pth')) is AtomicLocalBackend
    finally:
        HOOKS.register_module(name='CheckpointHook', module=before, force=True)
        checkpoint_files.register_backend('local', LocalBackend, force=True, prefixes='')
