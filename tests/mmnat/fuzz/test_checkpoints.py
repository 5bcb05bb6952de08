"""Checkpoints from strangers: whatever is in them, reading ends in one line."""

import functools
import importlib
import io
import os
import struct
import subprocess
import warnings
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

from mmnat.checkpoints.reading import read_checkpoint
from mmnat.checkpoints.safety import forbid_unsafe_loading
from mmnat.commands import convert, predict
from mmnat.config import read_config
from mmnat.errors import CheckpointError
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


# Findings -------------------------------------------------------------------


class Call:
    """Is saved as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Built(Call):
    """The same, with a state that is set afterwards."""

    def __init__(self, function, *arguments, state):
        super().__init__(function, *arguments)
        self.call = (*self.call, state)


def with_code(statement):
    """A pickle of GLOBAL and REDUCE, as torch.load reads it in the format from before torch 1.6."""
    return saved({'state_dict': Call(*statement)})


@pytest.mark.parametrize(
    'statement',
    [
        (os.system, 'touch executed'),
        (eval, 'open("executed", "w")'),
        (exec, 'open("executed", "w")'),
        (open, 'executed', 'w'),
        (getattr, HistoryBuffer, '__init__'),
        (getattr, HistoryBuffer, 'register_statistics'),
        (torch.hub.load, 'a/b', 'c'),
        (torch._utils._rebuild_tensor, os.system, 'touch executed'),
        (torch._tensor._rebuild_from_type_v2, os.system, int, ('touch executed',), {}),
        (subprocess.Popen, ['touch', 'executed']),
        (np.fromfile, '/etc/passwd'),
        (np.load, '/etc/passwd', None, True),
        (importlib.import_module, 'antigravity'),
    ],
    ids=lambda call: call[0].__name__,
)
def test_code(check, readers, statement):
    content = with_code(statement)
    for reader in READERS:
        outcome = check(reader, content)
        assert outcome.kind == 'refused'
        assert 'could run code' in outcome.text or 'cut short or not a torch checkpoint' in outcome.text
    assert not (readers[0] / 'executed').exists()


def pointers():
    """Arrays whose dtype makes NumPy take bytes of the file for addresses: reading one crashes."""
    fields = (3, '|', None, ('f0',), {'f0': (np.dtype('O'), 0)}, 8, 1, 0)
    bare = (3, '|', None, None, None, -1, -1, 0)
    for name, state in (('V8', fields), ('O8', bare)):
        dtype = Built(np.dtype, name, False, True, state=state)
        yield Built(
            np._core.multiarray._reconstruct,
            np.ndarray,
            (0,),
            b'b',
            state=(1, (1,), dtype, False, b'A' * 8),
        )
        yield Call(np._core.multiarray.scalar, dtype, b'A' * 8)
        yield Call(np.ndarray, (1,), dtype, b'A' * 8)
    yield Call(np.ndarray, (10**12,))


POINTERS = ['array', 'scalar', 'call', *['object'] * 3, 'huge']


@pytest.mark.parametrize('hostile', list(pointers()), ids=POINTERS)
def test_arrays_of_pointers(tmp_path, hostile):
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': hostile}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    'array',
    [
        *(
            np.arange(6.0).reshape(2, 3),
            np.arange(6, dtype='>i2').reshape(3, 2, order='F'),
            np.zeros((0, 3)),
        ),
        *(np.array(['a', 'bcd']), np.array([b'ab']), np.array([True]), np.array([1j]), np.float16(2)),
        *(np.array([[1], [2, 3]], object), np.int64(-1), np.bool_(True), np.str_('ab'), np.array(4)),
    ],
    ids=repr,
)
def test_arrays_that_are_right(tmp_path, array):
    for _ in range(2):  # also as saved again
        torch.save({'a': array}, tmp_path / 'a.pth')
        found = read_checkpoint(tmp_path / 'a.pth')['a']
        assert np.all(found == array) and np.shape(found) == array.shape
        assert np.asarray(found).dtype == array.dtype.newbyteorder('=')  # NumPy swaps bytes
        torch.save({'a': found}, tmp_path / 'a.pth')
    names = zipfile.ZipFile(tmp_path / 'a.pth')
    assert b'mmnat' not in names.read(pickle_of(names.namelist()))


def stored(*records):
    """A zip file, which may have several records of one name."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, 'w') as target:
        warnings.simplefilter('ignore')
        for name, content in records:
            target.writestr(name, content)
    return file.getvalue()


@functools.cache
def bomb():
    """A record of 300 megabytes, as one."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as target,
        target.open('a/data.pkl', 'w') as record,
    ):
        for _ in range(300):
            record.write(bytes(2**20))
    return file.getvalue()


def announcing(old, new):
    """A small checkpoint whose pickle has other bytes in a place."""

    def edit(records):
        name = pickle_of(records)
        assert old in records[name]
        records[name] = records[name].replace(old, new)

    return rezipped(saved({'state_dict': {'a': torch.zeros(4)}}), edit)


HUGE = b'J' + struct.pack('<i', 2**31 - 1)


@pytest.mark.parametrize('reader', ['convert', 'test'])
@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (bomb, 'would expand to'),
        (lambda: stored(('a/data.pkl', b'N.'), ('a/data.pkl', b'N.'), ('a/version', b'3')), ''),
        (lambda: stored(('../data.pkl', b'N.'), ('../version', b'3'), ('/etc/x', b'')), ''),
        (lambda: announcing(b'K\x04tq', HUGE + b'tq'), ''),  # elements of the storage
        (lambda: announcing(b'K\x04\x85', HUGE + b'\x85'), ''),  # the shape
        (lambda: announcing(b'K\x01\x85', HUGE + b'\x85'), ''),  # the strides
        (lambda: announcing(b'QK\x00', b'Q' + HUGE), ''),  # the offset
        (lambda: b'\x80\x02' + b']' * 10**5 + b'.', ''),
        (lambda: b'\x80\x02X\xff\xff\xff\x7f', ''),  # a string of two gigabytes
        (lambda: saved({5: torch.zeros(1)}), ''),
        (lambda: saved({'state_dict': {None: torch.zeros(1)}}), ''),
        (lambda: saved({'state_dict': {'a': torch.empty(2, device='meta')}}), ''),
        (lambda: saved({'state_dict': {'a': torch.eye(2).to_sparse()}}), ''),
        (lambda: saved({'\ud800\x1b[31m\n': torch.zeros(1)}), ''),
        (lambda: saved({'levels.0.blocks.999999999.attn.rpb': torch.zeros(1, 5, 5)}), ''),
        (lambda: saved({'levels.0.blocks.9999.attn.rpb': torch.zeros(1, 5, 5)}), ''),
        (lambda: saved({'levels.%s.blocks.0.attn.rpb' % ('9' * 5000): torch.zeros(1, 5, 5)}), ''),
        (lambda: saved({'state_dict': {'a': torch.zeros(1)}, 'meta': 5}), ''),
    ],
)
def test_findings(check, reader, content, expected):
    outcome = check(reader, content())
    assert outcome.kind == 'refused' and expected in outcome.text


def test_numbers_that_are_not_finite_are_read(check, whole):
    weights = {name: torch.full_like(value, torch.nan) for name, value in whole['state_dict'].items()}
    assert check('test', {'state_dict': weights}).kind == 'accepted'


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (dict(meta=dict(epoch='1', iter=2)), "meta.epoch is '1', no count"),
        (dict(meta=dict(epoch=1, iter=-2)), 'meta.iter is -2, no count'),
        (dict(meta=dict(epoch=1, iter=2, dataset_meta=[])), 'meta.dataset_meta is not a dict'),
        (dict(meta=dict(dataset_meta=dict(classes=5))), 'meta.dataset_meta.classes is no list of names'),
        (dict(message_hub=[]), 'message_hub has not log_scalars'),
        (dict(optimizer=[]), 'is damaged'),
        (dict(optimizer=dict(param_groups=[dict(params=[[]])])), 'is damaged'),
        (dict(optimizer=dict(param_groups=[{}])), 'is damaged'),
    ],
)
def test_training_state(check, whole, change, expected):
    outcome = check('resume', whole | change)
    assert outcome.kind == 'refused' and expected in outcome.text


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
    _fuzz_bytes(check, 20, long=False)


@pytest.mark.long
def test_many_bytes(check):
    _fuzz_bytes(check, 20, long=True)


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
    _fuzz_contents(check, readers, whole, 15, long=False)


@pytest.mark.long
def test_many_contents(check, readers, whole):
    _fuzz_contents(check, readers, whole, 15, long=True)
