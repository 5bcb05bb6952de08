"""The command `mmnat` itself: its help, its version, and how it starts the others."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mmnat import __main__, commands
from mmnat.environment import describe_environment


def test_every_module_is_a_command():
    modules = {path.stem for path in Path(commands.__path__[0]).glob('[!_]*.py')}
    assert modules == {name.replace('-', '_') for name in __main__.NAMES}


def test_help_lists_every_command_with_the_first_sentence_of_its_docstring(capsys):
    __main__.main([])
    printed = capsys.readouterr().out
    for name in __main__.NAMES:
        module = import_module(f'mmnat.commands.{name.replace("-", "_")}')
        assert f'{name:<11} {module.__doc__.splitlines()[0].rstrip(".")}' in printed


def test_help_imports_neither_torch_nor_openmmlab():
    show = "print({'torch', 'mmengine'} & set(sys.modules))"
    program = f'import sys; from mmnat.__main__ import main; main([]); {show}'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == 'set()'


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_info:
        __main__.main(['trian'])
    assert exit_info.value.code == 2 and "invalid choice: 'trian'" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, 'mmnat.commands.train', raising=False)
    monkeypatch.delattr(commands, 'train', raising=False)
    monkeypatch.setitem(sys.modules, 'mmengine.config', None)
    with pytest.raises(SystemExit) as exit_info:
        __main__.main(['train', 'config.py'])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: mmnat train needs mmengine, which is not installed; run pip install')


@pytest.mark.parametrize('name', __main__.NAMES)
def test_help_of_a_command_names_it_as_it_is_called(name, capsys):
    with pytest.raises(SystemExit) as exit_info:
        __main__.main([name, '--help'])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: mmnat {name} ')


def test_version_names_what_computes(capsys):
    __main__.main(['--version'])
    printed = capsys.readouterr().out
    assert all(f'{name} ' in printed for name in ('mmnat', 'torch', 'mmdet', 'mmseg', 'kernels, CPU'))
    assert 'not installed' not in printed and 'compiled, using ' in printed


def test_version_says_why_the_reference_computes(monkeypatch):
    from natten_ops import dispatch

    monkeypatch.setattr(dispatch, 'CPU_PROBLEM', 'the compiled library does not load (test)')
    monkeypatch.setattr(dispatch, 'CUDA_PROBLEM', 'this torch was built without CUDA (test)')
    facts = describe_environment()
    assert facts['kernels, CPU'].endswith('reference computes: the compiled library does not load (test)')
    assert facts['kernels, CUDA'] == 'none: this torch was built without CUDA (test)'
