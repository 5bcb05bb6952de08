"""The projects whose mistakes these tests make, and a server of the commands."""

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from forked_commands import ForkedCommands
from user_project import CHECKPOINTS, Project


@pytest.fixture(scope='session')
def commands():
    commands = ForkedCommands('mmdet', 'mmseg')
    yield commands
    commands.close()


@pytest.fixture
def project(tmp_path, commands):
    return Project(tmp_path / 'project', commands)


@pytest.fixture(scope='session')
def trained(tmp_path_factory, commands):
    """A project whose models are trained."""
    project = Project(tmp_path_factory.mktemp('trained') / 'project', commands)
    for name in CHECKPOINTS:
        code, printed = project.run(f'train {name}.py')
        assert code == 0, printed[-3000:]
    return project
