"""Walking a config, and the paths of its fields."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmnat.config_tree import copy_with, join, split, walk

KEYS = st.lists(st.text(min_size=1) | st.integers(-3, 30), min_size=1)


def test_walk_gives_dicts_in_order_with_their_paths():
    config = dict(
        type='A', neck=[dict(type='B', norm=dict(type='C')), 3], heads=(dict(type='D'),), keys={'a.b': {}}
    )
    found = [(path, part.get('type')) for path, part in walk(config, 'model')]
    assert found == [
        ('model', 'A'),
        ('model.neck[0]', 'B'),
        ('model.neck[0].norm', 'C'),
        ('model.heads[0]', 'D'),
        ('model.keys', None),
        ("model.keys['a.b']", None),
    ]
    assert [path for path, _ in walk(config)][:3] == ['', 'neck[0]', 'neck[0].norm']
    assert list(walk(3, 'number')) == list(walk('text', 'text')) == []


def test_parts_may_change_when_they_come():
    config = dict(inner=dict(a=1))
    for _, part in walk(config):
        if 'inner' in part:
            part |= dict(inner=dict(b=dict(c=2)), added=dict())
    assert [path for path, _ in walk(config)] == ['', 'inner', 'inner.b', 'added']


def test_copies_change_the_copy_only():
    config = dict(a=[dict(x=1, drop=2)], b=(dict(drop=3),), drop=4)
    copied = copy_with(config, lambda part: {key: value for key, value in part.items() if key != 'drop'})
    assert copied == dict(a=[dict(x=1)], b=(dict(),))
    assert config == dict(a=[dict(x=1, drop=2)], b=(dict(drop=3),), drop=4)


@given(KEYS)
def test_a_path_leads_back_to_its_keys(keys):
    path = ''
    for key in keys:
        path = join(path, key)
    assert split(path) == keys


@pytest.mark.parametrize('path', ['', '.a', 'a.', 'a..b', 'a[b]', 'a[0]b', 'a[0', "a['b]", 'a[0.5]'])
def test_what_is_no_path_is_named(path):
    with pytest.raises(ValueError, match='path must read like') as error:
        split(path)
    assert repr(path) in str(error.value)
