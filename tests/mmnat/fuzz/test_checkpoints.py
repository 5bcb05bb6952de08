"""Checkpoints from strangers: whatever is in them, reading ends in one line."""

import io
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')

from hostile_files import ODD_VALUES, Confined, examples, mutated, places, replaced
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer
from tiny_training import draw_data, write_configs

from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.commands import convert, predict
from mmnat.config import read_config
from mmnat.models import BACKBONES
from mmnat.models.pretrained import load_pretrained
from mmnat.preflight.models import build_model
from mmnat.preflight.optimizer import build_optimizer
from mmnat.preflight.weights import check_checkpoint, check_load_from, check_resume

BACKBONE = dict(embed_dim=32, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], mlp_ratio=2.0, kernel_size=3)


@pytest.fixture(scope='module')
def readers(tmp_path_factory):
    """A folder, and all that reads checkpoints, by name; each takes a path in the folder."""
    folder = tmp_path_factory.mktemp('checkpoints')
    draw_data(folder / 'data')
    write_configs(folder, folder / 'data')
    config = str(folder / 'detector.py')
    cfg = read_config(config)
    model, backbone = build_model(cfg), BACKBONES['NAT'](**BACKBONE)
    optimizer = build_optimizer(cfg, model)
    forbid_unsafe_loading()

    def resume(path):
        check_resume({'load_from': path}, model, optimizer)

    def picture(path):
        predict.main([config, path, str(folder / 'data/images/0.jpg'), '--out-dir', str(folder / 'out')])

    found = {
        'convert': lambda path: convert.main([path, str(folder / 'converted.pth'), '--force']),
        'init_cfg': lambda path: load_pretrained(backbone, path),
        'load_from': lambda path: check_load_from(path, model),
        'resume': resume,
        'test': lambda path: check_checkpoint(path, model),
        'predict': picture,
    }
    return folder, found, model, optimizer, backbone


@pytest.fixture(scope='module')
def confined(readers):
    folder, found, *_ = readers
    with Confined(lambda item: found[item[0]](item[1]), folder) as confined:
        yield confined
        confined.report('checkpoints')


@pytest.fixture(scope='module')
def whole(readers):
    """A checkpoint as a training writes it."""
    _, _, model, optimizer, _ = readers
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    hub = dict(log_scalars=OrderedDict(loss=log), runtime_info=OrderedDict(), resumed_keys=OrderedDict())
    meta = dict(epoch=0, iter=2, dataset_meta=dict(classes=('disc', 'square')), seed=np.int64(3))
    return dict(
        meta=meta,
        state_dict=model.state_dict(),
        message_hub=hub,
        optimizer=optimizer.state_dict(),
        numpy=np.arange(5, dtype='>f4'),
    )


@pytest.fixture(scope='module')
def check(readers, confined):
    """Check what becomes of a content, saved by torch, or of the bytes of a file."""
    folder = readers[0]

    def check(reader, content, suffix='.pth', **options):
        path = folder / f'hostile{suffix}'
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path, **options)
        outcome = confined((reader, str(path)))
        assert outcome.is_right, outcome
        if outcome.kind == 'refused':
            assert str(path) in outcome.text
        return outcome

    return check


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def rezipped(content, edit, method=zipfile.ZIP_STORED):
    """A zip file after ``edit`` has changed the contents, which it gets by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        records = {name: source.read(name) for name in source.namelist()}
    edit(records)
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', method) as target:
        for name, record in records.items():
            target.writestr(name, record)
    return file.getvalue()


def pickle_of(records):
    return next(name for name in records if name.endswith('/data.pkl'))


READERS = ('convert', 'init_cfg', 'load_from', 'resume', 'test')


def test_right_ones_are_read(check, readers, whole):
    for reader in ('load_from', 'resume', 'test'):
        for zipped in (True, False):
            outcome = check(reader, whole, _use_new_zipfile_serialization=zipped)
            assert outcome.kind == 'accepted', outcome
    assert check('predict', whole).kind == 'accepted'
    for reader in ('convert', 'init_cfg'):
        outcome = check(reader, readers[4].state_dict())
        assert outcome.kind == 'accepted', outcome
    compressed = rezipped(saved(whole), lambda records: None, zipfile.ZIP_DEFLATED)
    assert check('test', compressed).kind == 'accepted'


# Mutations ------------------------------------------------------------------


def small():
    """Files of a few hundred bytes, of both formats, which have all that checkpoints have."""
    content = dict(
        state_dict=OrderedDict({'a': torch.zeros(3), 'b': torch.ones(2, 2)[:, 1]}),
        meta=dict(classes=('a', 'b'), seed=np.float32(3), palette=np.zeros((2, 3), np.uint8)),
        message_hub=HistoryBuffer([1.0], [1]),
    )
    return [saved(content), saved(content, _use_new_zipfile_serialization=False)]


def _fuzz_bytes(check, count, long):
    originals = small()

    @examples(count, long)
    @given(st.sampled_from(READERS), mutated(originals))
    def raw(reader, content):
        check(reader, content)

    @examples(2 * count, long)
    @given(st.sampled_from(READERS), st.data())
    def inside(reader, data):
        def edit(records):
            name = pickle_of(records)
            records[name] = data.draw(mutated([records[name]]))

        check(reader, rezipped(originals[0], edit))

    raw()
    inside()


def test_bytes(check):
    _fuzz_bytes(check, 40, long=False)


@pytest.mark.long
def test_many_bytes(check):
    _fuzz_bytes(check, 40, long=True)


# Contents -------------------------------------------------------------------


def odd_tensors():
    """Tensors that torch saves, and that are no weights."""
    sparse = torch.eye(3).to_sparse()
    return [
        *(torch.empty(32, 3, device='meta'), sparse, torch.eye(3).to_sparse_csr()),
        *(torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), torch.zeros(()), torch.zeros(0)),
        *(
            torch.zeros(1).expand(2**40),
            torch.zeros(3, dtype=torch.complex64),
            torch.full((32,), torch.nan),
        ),
        *(torch.ones(32, dtype=torch.bool), torch.zeros([1] * 60), torch.zeros(3, dtype=torch.float8_e5m2)),
        *(np.array(['a']), np.array([[1], [2, 3]], object), np.zeros(32), np.float64(3), slice(1, 2)),
    ]


NAMES = [
    'levels.0.blocks.999999999.attn.rpb',
    'a\nb',
    '\ud800',
    '',
    '.',
    'module.',
    5,
    None,
    ('a', 'b'),
    'x' * 10**5,
]
NAMES += [
    'levels.' + '9' * 5000 + '.blocks.0.attn.rpb',
    'norm0.weight',
    'head.weight',
    'backbone.levels.0.blocks.3.a',
]


def _fuzz_contents(check, readers, whole, count, long):
    backbone = readers[4].state_dict()
    values = st.one_of(
        ODD_VALUES, st.sampled_from(range(len(odd_tensors()))).map(lambda i: odd_tensors()[i])
    )

    @examples(count, long)
    @given(st.sampled_from(READERS), st.data())
    def contents(reader, data):
        content = {'state_dict': dict(backbone)} if reader in ('convert', 'init_cfg') else copied(whole)
        for _ in range(data.draw(st.integers(1, 2))):
            paths = [path for path in places(content) if path[0] != 'state_dict' or len(path) == 1]
            names = [('state_dict', name) for name in content.get('state_dict', ())]
            path = data.draw(st.sampled_from(paths) | st.sampled_from(names or paths))
            value = data.draw(st.just(...) | values)
            kind = data.draw(st.sampled_from(('replace', 'add')))
            parent = content
            for key in path[:-1]:
                parent = parent[key]
            if kind == 'add' and isinstance(parent, dict) and value is not ...:
                parent[data.draw(st.sampled_from(NAMES))] = value
            else:
                replaced(content, path, value)
            if not isinstance(content.get('state_dict'), dict):
                break
        check(reader, content)

    contents()


def copied(content):
    """The same dicts and lists anew; tensors and the like are shared."""
    if isinstance(content, dict):
        return {key: copied(value) for key, value in content.items()}
    return [copied(value) for value in content] if isinstance(content, list) else content


def test_contents(check, readers, whole):
    _fuzz_contents(check, readers, whole, 30, long=False)


@pytest.mark.long
def test_many_contents(check, readers, whole):
    _fuzz_contents(check, readers, whole, 30, long=True)
