"""The notebooks run from their first to their last cell."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')
pytest.importorskip('mmdet')

NOTEBOOKS = sorted((ROOT / 'docs/notebooks').glob('*.ipynb'))


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ['operator', 'swap_train_predict']


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get('outputs') and cell.get('execution_count') is None


@pytest.mark.long
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    notebook = nbformat.read(path, as_version=4)
    resources = {'metadata': {'path': str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    assert any('image/png' in output.get('data', {}) for output in outputs)
    if path.stem == 'swap_train_predict':
        assert (tmp_path / 'run/iter_4.pth').is_file()
        assert len(list((tmp_path / 'predictions').glob('*.jpg'))) == 4
