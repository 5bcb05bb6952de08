"""The project as its users have it: a wheel installed outside of the clone, and the command `mmnat`."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from fruits import lay_out_fruits

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmnat.data.scenes import make_demo_data

ROOT = Path(__file__).resolve().parents[1]
FRUITS_NUTS = 'mask-rcnn_nat-demo_fpn_fruits-nuts'
FEW = [
    *('train_dataloader.dataset.times=1', 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=1'),
    *('train_dataloader.dataset.dataset.indices=4', 'val_dataloader.dataset.indices=2'),
    *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False'),
    *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
]
pytestmark = [pytest.mark.long, pytest.mark.alone]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Run a program of an environment that has a wheel of this project, in a folder without a clone."""
    folder = tmp_path_factory.mktemp('installed')
    pip = (sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', folder)
    environment = {'NATTEN_OPS_CUDA': '0', 'PATH': f'{Path(sys.executable).parent}:/usr/bin:/bin'}
    subprocess.run([*pip, ROOT], env=environment, check=True)
    venv.create(folder / 'venv', with_pip=True)
    python = folder / 'venv/bin/python'
    (wheel,) = folder.glob('*.whl')
    subprocess.run([python, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', wheel], check=True)
    # torch and OpenMMLab are those of this environment; its editable installation of mmnat is not seen.
    (packages,) = (folder / 'venv/lib').glob('python*/site-packages')
    (packages / 'beside.pth').write_text(sysconfig.get_path('purelib'))
    work = folder / 'work'
    make_demo_data(folder / 'scenes', train=6, val=1, seed=1)
    lay_out_fruits(folder / 'scenes', work / 'data/fruits_nuts')

    def run(program, *arguments):
        command = [folder / 'venv/bin' / program, *map(str, arguments)]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run.folder = work
    return run


def test_the_wheel_is_what_runs(run):
    where = run('python', '-c', 'import mmnat, natten_ops; print(mmnat.__file__, natten_ops.__file__)')
    assert all(str(run.folder.parent) in path for path in where.split())
    assert 'compiled, using ' in run('mmnat', '--version')


def test_trains_and_predicts_by_the_name_of_a_config(run):
    assert FRUITS_NUTS in run('mmnat', 'configs', 'fruits')
    run('mmnat', 'train', FRUITS_NUTS, '--cfg-options', *FEW)
    checkpoint = run.folder / f'work_dirs/{FRUITS_NUTS}/epoch_1.pth'
    image = sorted((run.folder / 'data/fruits_nuts/images').iterdir())[0]
    run('mmnat', 'predict', FRUITS_NUTS, checkpoint, image)
    assert (run.folder / 'predictions' / image.name).is_file()


def test_swaps_into_a_config_of_mmdet(run):
    config = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    printed = run('mmnat', 'swap', config, '--backbone', 'nat_tiny', '--check', '--out', 'swapped.py')
    assert 'a loss step and a prediction ran' in printed
    assert 'nat_tiny.pth' in (run.folder / 'swapped.py').read_text()


def test_the_scripts_for_mim_are_there(run):
    folder = run(
        'python', '-c', 'from mmengine.utils import get_installed_path as p; print(p("mmnat"))'
    ).strip()
    assert run('python', Path(folder, '.mim/tools/train.py'), '--help').startswith('usage: mmnat train ')
