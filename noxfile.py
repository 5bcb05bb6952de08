"""The one wheel beside every supported torch and Python: `make test-matrix`.

A session makes an environment of its own, installs torch and dist/mmnat-*.whl there, and runs tests of the
operator and the backbones outside of this folder, so that nothing but the wheel can be imported. One alone:
``nox -s "wheel(python='3.11', torch='2.11.0')"``.
"""

import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
OLDEST_TORCH, NEWEST_TORCH = '2.10.0', '2.14.1'
# Every torch on one Python, and every Python with the oldest and the newest torch.
COMBINATIONS = [
    *((python, NEWEST_TORCH) for python in ('3.10', '3.11', '3.12', '3.13', '3.14')),
    *((python, OLDEST_TORCH) for python in ('3.10', '3.12', '3.13', '3.14')),
    *(('3.11', torch) for torch in (OLDEST_TORCH, '2.11.0', '2.12.0', '2.13.0')),
]
TESTS = ('natten_ops/test_*.py', 'mmnat/models/test_*.py')
# What these need beside torch. numpy's newest versions are not for every Python.
NEEDED = (
    'numpy',
    'pytest',
    'pytest-xdist',
    'hypothesis',
    'onedl-mmengine==0.10.12',
    'opencv-python-headless',
)

nox.options.default_venv_backend = 'venv'
nox.options.stop_on_first_error = False


@nox.session
@nox.parametrize(('python', 'torch'), COMBINATIONS)
def wheel(session: nox.Session, torch: str) -> None:
    """Install the wheel beside a torch and run tests."""
    wheels = list(ROOT.glob('dist/mmnat-*.whl'))
    if len(wheels) != 1:
        session.error(f'dist/ must hold one wheel of mmnat, got {len(wheels)}; run `make wheel`')
    session.install('--no-compile', f'torch=={torch}', *NEEDED)
    session.install('--no-deps', str(wheels[0]))
    session.chdir(session.create_tmp())
    program = f"""if True:
        import natten_ops, mmnat.models, torch
        assert torch.__version__.startswith({torch!r}), torch.__version__
        assert 'site-packages' in natten_ops.__file__ and 'site-packages' in mmnat.models.__file__
        from natten_ops import dispatch
        assert not dispatch.CPU_PROBLEM
        print('torch', torch.__version__, 'CUDA:', dispatch.CUDA_PROBLEM or 'loaded')
    """
    session.run('python', '-c', program)
    tests = [str(path) for pattern in TESTS for path in sorted((ROOT / 'tests').glob(pattern))]
    options = ('-n', 'auto', '-p', 'no:cacheprovider', '-m', 'not long', '-c', str(ROOT / 'pyproject.toml'))
    session.run('python', '-m', 'pytest', *options, *tests, env={'OMP_NUM_THREADS': '1'})
    shutil.rmtree(session.virtualenv.location)  # gigabytes; kept only if something failed
