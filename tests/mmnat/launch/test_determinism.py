"""What the environment needs so that a run on a GPU can be deterministic."""

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config

from mmnat.launch.determinism import prepare_cublas


@pytest.mark.parametrize(
    ('randomness', 'before', 'wanted'),
    [
        (dict(seed=1, deterministic=True), {}, {'CUBLAS_WORKSPACE_CONFIG': ':4096:8'}),
        (
            dict(deterministic=True),
            {'CUBLAS_WORKSPACE_CONFIG': ':16:8'},
            {'CUBLAS_WORKSPACE_CONFIG': ':16:8'},
        ),
        (dict(seed=1), {}, {}),
        (None, {}, {}),
    ],
)
def test_what_cublas_needs(randomness, before, wanted):
    variables = dict(before)
    prepare_cublas(Config(dict(randomness=randomness)), variables)
    assert variables == wanted
