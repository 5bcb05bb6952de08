"""Configs with mistakes: `mmnat train` and `mmnat test` end in one line before they build a run.

A config is code, which is executed. It is not from strangers; but nobody writes it without a mistake.
"""

import contextlib

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from hostile_files import ODD_VALUES, Confined, examples, places, replaced
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from tiny_training import draw_data, write_configs

from mmnat.commands import test, train
from mmnat.config import read_config
from mmnat.preflight.models import build_model

NAMES = ('detector', 'segmentor')


class Reached(Exception):
    """All checks passed."""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    draw_data(folder / 'data')
    write_configs(folder, folder / 'data')
    for name in NAMES:  # also imports the frameworks, before processes are forked
        cfg = read_config(str(folder / f'{name}.py'))
        torch.save(build_model(cfg).state_dict(), folder / f'{name}.pth')
    return folder


@pytest.fixture(scope='module')
def check(folder):
    """Check what becomes of the text of a config."""

    def stop(*_):
        raise Reached

    def run(item):
        command, path, checkpoint = item
        for module in (train, test):
            module.build_runner = stop
        arguments = [path, checkpoint] if command == 'test' else [path]
        main = test.main if command == 'test' else train.main
        with contextlib.suppress(Reached):
            main.__wrapped__([*arguments, '--work-dir', str(folder / 'work')])

    with Confined(run, folder, per_process=30) as confined:

        def check(command, text, name='detector'):
            path = folder / f'hostile_{name}.py'
            path.write_bytes(text if isinstance(text, bytes) else text.encode('utf-8', 'surrogatepass'))
            outcome = confined((command, str(path), str(folder / f'{name}.pth')))
            assert outcome.is_right, outcome
            return outcome

        yield check
        confined.report('configs')


def good(folder, name):
    """A config as nested dicts and lists, with what it inherits."""
    return plain(Config.fromfile(folder / f'{name}.py', import_custom_modules=False)._cfg_dict.to_dict())


def plain(value):
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def written(cfg):
    return ''.join(f'{key} = {source(value)}\n' for key, value in cfg.items())


def source(value):
    if isinstance(value, dict):
        return '{' + ', '.join(f'{key!r}: {source(part)}' for key, part in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(source, value)) + ']'
    return f"float('{value}')" if isinstance(value, float) else repr(value)


@pytest.mark.parametrize('name', NAMES)
def test_a_right_one_passes(check, folder, name):
    for command in ('train', 'test'):
        outcome = check(command, written(good(folder, name)), name)
        assert outcome.kind == 'accepted', outcome


# Findings -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('field', 'value', 'expected'),
    [
        ('model', ['a'], "model = ['a'] is not a dict; correct it"),
        ('train_dataloader', 'a', "train_dataloader = 'a' is not a dict"),
        ('train_dataloader.dataset', ..., 'train_dataloader.dataset = None is not a dict'),
        ('train_dataloader.dataset.dataset', None, '.dataset.dataset = None is not a dict'),
        (
            'train_dataloader.dataset.times',
            ...,
            'train_dataloader.dataset.times = None is not a whole number',
        ),
        ('train_dataloader.dataset.times', 0, 'train_dataloader.dataset.times = 0 is not positive'),
        ('train_dataloader.dataset.dataset.type', 3, '.dataset.dataset.type = 3 is not a string'),
        ('train_dataloader.dataset.dataset.pipeline', 'a', "pipeline = 'a' is not a list"),
        ('train_dataloader.dataset.dataset.pipeline.0', 'a', "pipeline[0] = 'a' is not a dict"),
        ('train_dataloader.dataset.dataset.data_root', 5, 'data_root = 5 is not a string'),
        ('train_dataloader.dataset.dataset.data_prefix.img', 5, 'data_prefix.img = 5 is not a string'),
        ('train_dataloader.dataset.dataset.metainfo.classes', 5, 'classes = 5 is not a list or a string'),
        (
            'train_dataloader.dataset.dataset.indices',
            'all',
            "indices = 'all' is not a whole number or a list",
        ),
        ('train_dataloader.batch_size', '2', "train_dataloader.batch_size = '2' is not a number"),
        ('optim_wrapper.optimizer', 'SGD', "optim_wrapper.optimizer = 'SGD' is not a dict"),
        ('optim_wrapper.optimizer.lr', '1e-4', 'optim_wrapper cannot be built'),
        ('default_hooks.checkpoint', 'a', "default_hooks.checkpoint = 'a' is not a dict"),
        ('default_hooks', [], 'default_hooks = [] is not a dict'),
        ('default_hooks.checkpoint.type', None, 'default_hooks.checkpoint.type = None is not a string'),
        ('custom_hooks', {}, 'custom_hooks = {} is not a list'),
        ('train_cfg.type', None, 'train_cfg.type = None is not a string'),
        ('visualizer.vis_backends', [{'type': 0.5}], 'vis_backends[0].type = 0.5 is not a string'),
        ('visualizer.vis_backends', [{'type': ''}], "type = '' is not registered"),
        ('randomness.seed', 'a', "randomness.seed = 'a' is not a whole number"),
        ('load_from', {}, 'load_from = {} is not a string'),
        ('model.data_preprocessor.mean', [1, 2], 'cannot be built: `mean` should have 1 or 3 values'),
        ('model.backbone.depths', [10**400], 'the model of the config cannot be built'),
        ('model.rpn_head.loss_cls', {'loss_weight': 1.0}, 'must contain the key "type"'),
    ],
)
def test_types(check, folder, field, value, expected):
    cfg = good(folder, 'detector')
    *parents, last = [int(key) if key.isdigit() else key for key in field.split('.')]
    part = cfg
    for key in parents:
        part = part.setdefault(key, {}) if isinstance(part, dict) else part[key]
    replaced(part, [last], value)
    outcome = check('train', written(cfg))
    assert outcome.kind == 'refused' and expected in outcome.text


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('model = ' + '[' * 5000, 'does not load: SyntaxError'),
        ('model = ' + '-' * 100_000 + '1', 'does not load: '),
        ('model = {"a": ' * 150 + '1' + '}' * 150, 'does not load: '),
        pytest.param(
            "_base_ = 'hostile_detector.py'", 'does not load: RecursionError', marks=pytest.mark.long
        ),
        ("_base_ = 'absent.py'", 'absent.py'),
        ('_base_ = 5', 'does not load: '),
        ("_base_ = ['/dev/zero']", '/dev/zero'),
        (b'model = 1\0', 'does not load: '),
        (b'# \xff\xfe', 'does not load: '),
        ('x = 1 / 0', 'line 1, does not load: ZeroDivisionError'),
        ('default_scope = []', 'default_scope = []'),
    ],
)
def test_texts(check, folder, text, expected):
    outcome = check('train', text)
    assert outcome.kind == 'refused' and expected in outcome.text


# Fuzz -----------------------------------------------------------------------


def _fuzz(check, folder, count, long):
    configs = {name: good(folder, name) for name in NAMES}

    @examples(count, long)
    @given(st.sampled_from(NAMES), st.sampled_from(('train', 'train', 'test')), st.data())
    def values(name, command, data):
        cfg = plain(configs[name])
        for _ in range(data.draw(st.integers(1, 2))):
            paths = places(cfg)
            path = data.draw(st.sampled_from(paths))
            replaced(cfg, path, data.draw(st.just(...) | ODD_VALUES))
        check(command, written(cfg), name)

    values()


def test_configs(check, folder):
    _fuzz(check, folder, 6, long=False)


@pytest.mark.long
def test_many_configs(check, folder):
    _fuzz(check, folder, 6, long=True)
