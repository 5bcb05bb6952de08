"""Types that are not registered: the message names the field and the nearest names."""

import pytest
from mmengine.registry import MODELS

from mmnat.errors import UserError
from mmnat.preflight.registries import build_registered


@pytest.fixture(autouse=True, scope='module')
def parent():
    """A model that builds a part of itself."""

    class PreflightParent:
        def __init__(self, part, **rest):
            if part is None:
                raise KeyError('part')
            self.part = MODELS.build(part)

    MODELS.register_module(module=PreflightParent)
    yield PreflightParent
    MODELS.module_dict.pop('PreflightParent')


def message(cfg):
    with pytest.raises(UserError) as error:
        build_registered(MODELS, cfg, 'model')
    return str(error.value)


def test_registered_types_are_built(parent):
    built = build_registered(
        MODELS, dict(type='PreflightParent', part=dict(type='BaseDataPreprocessor')), 'model'
    )
    assert isinstance(built, parent)


def test_unregistered():
    assert message(dict(type='PreflightParrent')).startswith(
        "model.type = 'PreflightParrent' is not registered (nearest: PreflightParent"
    )
    inner = message(dict(type='PreflightParent', part=dict(type='BaseDataPreprocesor')))
    assert inner.startswith(
        "model.part.type = 'BaseDataPreprocesor' is not registered (nearest: BaseDataPreprocessor"
    )


def test_types_that_need_no_registry_are_not_blamed():
    cfg = dict(nms=[dict(type='soft_nms')], type='PreflightParent', part=dict(type='BaseDataPreprocesor'))
    assert message(cfg).startswith("model.part.type = 'BaseDataPreprocesor' is not registered")


def test_type_of_another_kind():
    found = message(dict(type='PreflightParent', part=dict(type='SGD')))
    assert "model.part.type = 'SGD' is registered as optimizer, which cannot be used there" in found


def test_other_key_errors_pass():
    with pytest.raises(KeyError, match='part'):
        build_registered(MODELS, dict(type='PreflightParent', part=None), 'model')
