"""The rules for the C++ sources: who may include torch, and that every file is packaged and checked."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / 'natten_ops/csrc'
FILES = [path for path in sorted(CSRC.rglob('*')) if path.is_file() and path.suffix != '.md']


def included(path):
    return re.findall(r'#\s*include [<"](.*)[>"]', path.read_text())


def test_torch_is_included_only_from_its_folder():
    users = [
        path
        for path in FILES
        if any(name.startswith(('torch/', 'ATen/', 'c10/')) for name in included(path))
    ]
    assert users and {path.parent for path in users} == {CSRC / 'torch'}


def test_torch_is_included_only_by_its_stable_abi():
    # The last one is the C interface under it, which torch keeps stable, too.
    stable = ('torch/csrc/stable/', 'torch/headeronly/', 'torch/csrc/inductor/aoti_torch/c/shim.h')
    names = {name for path in FILES for name in included(path) if name.startswith('torch/')}
    assert names and all(name.startswith(stable) for name in names)


@pytest.mark.parametrize('file', ['MANIFEST.in', 'Makefile'])
def test_every_kind_of_file_is_packaged_and_checked(file):
    listed = set(re.findall(r'\*(\.\w+)', (ROOT / file).read_text()))
    assert FILES and {path.suffix for path in FILES} <= listed


def test_what_is_compiled_several_times_says_so():
    headers = sorted(CSRC.rglob('*.inl'))
    assert headers
    for path in headers:
        first = path.read_text().partition('\n')[0]
        assert first.startswith('// Included once per vector width, by ')
        users = {user.name for user in FILES if path.name in included(user)}
        assert users == set(re.findall(r'\w+\.cpp', first)) >= {'avx2.cpp', 'avx512.cpp', 'baseline.cpp'}
