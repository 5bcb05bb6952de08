"""A user's folder: data, configs of a detector and a segmentor, and the commands that run in it."""

import functools
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forked_commands import ForkedCommands
from tiny_training import DETECTOR, SEGMENTOR, draw_data

VALIDATION = """
test_dataloader['dataset']['data_root'] = 'data/val/'
val_dataloader, val_evaluator, val_cfg = test_dataloader, test_evaluator, dict(type='ValLoop')
train_cfg['val_interval'] = 2
"""
FILES = """
test_evaluator.update(ann_file='data/val/coco.json', metric=['bbox', 'segm'])
"""
#: The same with boxes only.
BOXES = """
model['roi_head'].update(mask_head=None, mask_roi_extractor=None)
pipeline[1].update(with_mask=False)
test_evaluator['metric'] = 'bbox'
"""
CHECKPOINTS = {name: f'work_dirs/{name}/iter_2.pth' for name in ('detector', 'segmentor')}


class Project:
    """The folder. Its configs train, test and predict as they are; a test spoils something.

    Args:
        folder: The folder, which is made.
        commands: Runs the commands.

    Attributes:
        folder: The folder.
        train, val: The annotation files, written before a command runs; None to leave them as they are.
    """

    def __init__(self, folder: Path, commands: ForkedCommands) -> None:
        self.folder = folder
        self._commands = commands
        draw_data(folder / 'data/train')
        draw_data(folder / 'data/val', level=10, count=1)
        self.train, self.val = (self._read(name) for name in ('train', 'val'))
        for name, text in (('detector', DETECTOR + FILES), ('segmentor', SEGMENTOR)):
            text = (text + VALIDATION).replace('DATA', 'data/train')
            self.path(f'{name}.py').write_text(text)

    def path(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.folder / name

    def add(self, lines: str, config: str = 'detector.py') -> None:
        """Append lines to a config."""
        with self.path(config).open('a', encoding='utf-8') as file:
            file.write(lines + '\n')

    def run(self, command: str) -> tuple[int, str]:
        """Write the annotation files and run a command. Returns the exit code and what it printed."""
        for name in ('train', 'val'):
            coco = getattr(self, name)
            if coco is not None:
                self.path(f'data/{name}/coco.json').write_text(json.dumps(coco))
        log = self.folder.parent / f'{self.folder.name}.log'
        log.unlink(missing_ok=True)
        code, _ = self._commands.run(shlex.split(command), self.folder, log)
        return code, log.read_text(errors='replace')

    def take_checkpoints(self, trained: 'Project') -> None:
        """Copy the checkpoints of another project as ``detector.pth`` and ``segmentor.pth``."""
        for name, path in CHECKPOINTS.items():
            shutil.copy(trained.path(path), self.path(f'{name}.pth'))

    def files(self) -> list[str]:
        """All files and folders."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob('*'))

    def _read(self, name: str) -> dict:
        return json.loads(self.path(f'data/{name}/coco.json').read_text())


def case(
    command: str, *, error: str | None = None, warning: str | None = None, makes: str | Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a function that changes a project, so that it becomes a test of what the command then does.

    Args:
        command: The command, without ``mmnat``.
        error: A pattern of the error, with which the command has to end before it writes anything. None: it
            has to succeed.
        warning: A pattern of the only warning. None: there has to be none.
        makes: Files that have to be there afterwards; by default the checkpoint of a training.

    Returns:
        The decorator.
    """

    def decorate(change: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(change)
        def test(project: Project, **arguments: Any) -> None:
            change(project, **arguments)
            check(project, command, error, warning, [makes] if isinstance(makes, str) else makes)

        return test

    return decorate


def check(
    project: Project, command: str, error: str | None, warning: str | None, makes: Sequence[str]
) -> None:
    """Run a command in a project and check the outcome, see :func:`case`."""
    before = project.files()
    code, printed = project.run(command)
    lines = printed.splitlines()
    errors = [line for line in lines if line.startswith('error: ')]
    warnings = [line for line in lines if line.startswith('warning: ')]
    assert 'Traceback (most recent call last)' not in printed, printed[-3000:]
    if error is None:
        assert code == 0, printed[-3000:]
        name = Path(shlex.split(command)[1]).stem
        made = makes or ([CHECKPOINTS[name]] if command.startswith('train') else [])
        assert not [path for path in made if not project.path(path).is_file()], project.files()
    else:
        assert (code, len(errors)) == (2, 1), printed[-3000:]
        assert re.search(error, errors[0]), errors[0]
        assert project.files() == before
    if warning is None:
        assert error is not None or not warnings, warnings
    else:
        assert len(warnings) == 1 and re.search(warning, warnings[0]), warnings
