"""Changes to a config, and their record."""

import pytest

from mmnat.swap import Change, ConfigEditor, Report


@pytest.fixture
def editor():
    schedule = [dict(type='LinearLR'), dict(type='CosineAnnealingLR', eta_min=1e-5)]
    keys = {'backbone.norm': dict(decay_mult=0.0), 'norm': dict(lr_mult=2)}
    return ConfigEditor(
        dict(
            model=dict(neck=dict(type='FPN', in_channels=[256, 512]), heads=(dict(index=0), dict(index=1))),
            optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys)),
            param_scheduler=schedule,
            load_from=None,
        )
    )


def test_set_changes_and_records(editor):
    editor.set('model.neck.in_channels', [64, 128], 'our levels')
    assert editor.config['model']['neck']['in_channels'] == [64, 128]
    assert editor.report.changes == [Change('model.neck.in_channels', [256, 512], [64, 128], 'our levels')]
    assert str(editor.report) == '  model.neck.in_channels: [256, 512] -> [64, 128]  (our levels)'


def test_elements_of_lists_and_tuples(editor):
    editor.set('param_scheduler[1].eta_min', 1e-6, 'scaled')
    editor.set('model.heads[0].index', 3, 'coarsest')
    assert editor.config['param_scheduler'][1]['eta_min'] == 1e-6
    assert editor.config['model']['heads'][0]['index'] == 3
    editor.set('param_scheduler[0]', dict(type='PolyLR'), 'replaced')
    assert [scheduler['type'] for scheduler in editor.config['param_scheduler']] == [
        'PolyLR',
        'CosineAnnealingLR',
    ]


def test_keys_with_dots(editor):
    path = "optim_wrapper.paramwise_cfg.custom_keys['backbone.norm']"
    assert editor.get(path) == dict(decay_mult=0.0) and editor.get(f'{path}.decay_mult') == 0.0
    editor.remove(path, 'of the old backbone')
    assert editor.get('optim_wrapper.paramwise_cfg.custom_keys') == dict(norm=dict(lr_mult=2))
    assert editor.report.changes == [Change(path, dict(decay_mult=0.0), None, 'of the old backbone')]


def test_missing_dicts_are_made(editor):
    editor.set('custom_imports.imports', ['mmdet_nat'], 'registers')
    editor.set('load_from.path', 'a.pth', 'None counts as missing')
    assert editor.config['custom_imports'] == dict(imports=['mmdet_nat'])
    assert editor.config['load_from'] == dict(path='a.pth')


@pytest.mark.parametrize(
    'path', ['absent', 'model.absent.deep', 'load_from.deep', 'param_scheduler[2]', 'model.neck.type.deep']
)
def test_missing_fields_have_a_default(path, editor):
    assert editor.get(path) is None and editor.get(path, 3) == 3


def test_what_stays_the_same_is_not_recorded(editor):
    editor.set('model.neck.in_channels', (256, 512), 'a tuple counts as a list')
    editor.set('load_from', None, 'none before')
    assert editor.report.changes == [] and editor.config['model']['neck']['in_channels'] == (256, 512)


def test_the_report_may_show_something_shorter(editor):
    editor.set('model.neck', dict(type='A'), 'why', shown=('long', 'short'))
    assert editor.config['model']['neck'] == dict(type='A')
    assert editor.report.changes == [Change('model.neck', 'long', 'short', 'why')]


def test_absent_fields_cannot_be_removed(editor):
    with pytest.raises(KeyError, match='absent'):
        editor.remove('model.absent', 'why')
    assert editor.report == Report()
