"""Annotation files from strangers: reading them, and what mmdet and pycocotools do with those that pass."""

import json
import os

import pytest

pytest.importorskip('mmdet')

from coco_split import CLASSES, new_coco, write_images
from hostile_files import ODD_VALUES, Confined, examples, mutated, places, put_no_file, replaced
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from mmnat.commands import label_maps
from mmnat.config import register_modules
from mmnat.preflight.datasets import check_datasets
from mmnat.preflight.evaluators import check_evaluators
from mmnat.preflight.objects import check_training_objects

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture(scope='module')
def readers(tmp_path_factory):
    """A folder, and what reads annotation files, by name; each takes a path in the folder."""
    import mmdet.datasets

    folder = tmp_path_factory.mktemp('annotations')
    write_images(folder)
    register_modules('mmdet')
    numbers = iter(range(10**9))

    def train(path):
        """Check a file as `mmnat train` does; load every sample of one that passes, and evaluate them."""
        dataset = dict(
            type='CocoDataset',
            ann_file=path,
            data_prefix=dict(img=str(folder)),
            pipeline=PIPELINE,
            metainfo=dict(classes=CLASSES),
        )
        evaluator = dict(type='CocoMetric', ann_file=path, metric=['bbox', 'segm'])
        cfg = Config(
            dict(default_scope='mmdet', val_dataloader=dict(dataset=dataset), val_evaluator=evaluator)
        )
        found = check_datasets(cfg, ['val_dataloader'])
        splits = [part.split for part in found]
        check_training_objects(splits, 'val_dataloader', None)
        check_evaluators(cfg, 'val', splits, None)
        loaded = mmdet.datasets.CocoDataset(**{key: dataset[key] for key in dataset if key != 'type'})
        for index in range(len(loaded)):
            assert loaded[index] is not None
        _evaluate(path)

    def draw(path):
        label_maps.main([path, str(folder / f'labels_{os.getpid()}_{next(numbers)}')])

    return folder, {'train': train, 'label-maps': draw}


def _evaluate(path):
    """Compare each object with itself, as a perfect model would predict it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(path)
    results = [
        dict(image_id=item['image_id'], category_id=item['category_id'], score=0.5, segmentation=mask)
        for item in truth.dataset['annotations']
        for mask in [truth.annToRLE(item)]
    ]
    for kind in ('bbox', 'segm'):
        if results:
            evaluation = COCOeval(truth, truth.loadRes([dict(result) for result in results]), kind)
            evaluation.evaluate()
            evaluation.accumulate()


@pytest.fixture(scope='module')
def check(readers):
    """Check what becomes of a content: an object to dump as JSON, or bytes."""
    folder, found = readers
    with Confined(lambda item: found[item[0]](item[1]), folder) as confined:

        def check(reader, content):
            path = folder / 'hostile.json'
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            path.write_bytes(text)
            outcome = confined((reader, str(path)))
            assert outcome.is_right, outcome
            if outcome.kind == 'refused':
                assert str(folder) in outcome.text or 'val_dataloader.dataset' in outcome.text
            return outcome

        yield check
        confined.report('annotations')


READERS = ('train', 'label-maps')


def new():
    """The data set of the other tests, with a run-length encoding of each kind."""
    coco = new_coco()
    runs = dict(size=[60, 80], counts=[10, 4000, 790])
    coco['annotations'][0]['segmentation'] = runs
    coco['annotations'][3]['segmentation'] = dict(size=[60, 80], counts=ENCODED)
    return coco


def _encoded():
    from pycocotools import mask

    return mask.frPyObjects(dict(size=[60, 80], counts=[10, 4000, 790]), 60, 80)['counts'].decode()


ENCODED = _encoded()


@pytest.mark.parametrize('reader', READERS)
def test_a_right_one_passes(check, reader):
    assert check(reader, new()).kind == 'accepted'


# Findings -------------------------------------------------------------------


def with_mask(segmentation):
    coco = new()
    coco['annotations'][2]['segmentation'] = segmentation
    return coco


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
    ('segmentation', 'problem'),
    [
        # pycocotools crashed.
        ([[0, 0, 1e9, 0, 1e9, 1e9]], 'further away than 1e+07 pixels'),
        ([[0, 0, 1e308, 0, 5, 5]], 'further away than 1e+07 pixels'),
        ([[0, 0, 10**400, 0, 5, 5]], 'further away than 1e+07 pixels'),
        ([[0, 0, float('nan'), 0, 5, 5]], 'not numbers'),
        # It took gigabytes.
        ([[0, 0, 9e6, 9e6, 0, 9e6]], 'an outline that is far longer'),
        ([[0, 0, 79, 59] * 100_000], 'an outline that is far longer'),
        # It compared such masks without an end, or read memory that was never written.
        (dict(size=[60, 80], counts=''), 'counts of 0 pixels'),
        (dict(size=[60, 80], counts='1'), 'counts of 1 pixels'),
        (dict(size=[60, 80], counts='PPYo1000'), 'counts of '),
        (dict(size=[60, 80], counts='o' * 50), 'no run-length encoding'),
        (dict(size=[60, 80], counts='é漂'), 'no run-length encoding'),
        (dict(size=[60, 80], counts=[-5, 4805]), 'not numbers of pixels'),
        (dict(size=[60, 80], counts=[10**9] * 3), 'not numbers of pixels'),
        (dict(size=[10**9, 10**9], counts=[10**18]), '1000000000'),
        (dict(size=[[[]]], counts=[4800]), '[[[]]]'),
    ],
)
def test_masks(check, reader, segmentation, problem):
    outcome = check(reader, with_mask(segmentation))
    assert outcome.kind == 'refused' and problem in outcome.text


def test_outlines_of_all_pixels_are_right(check):
    """A mask can look like a comb."""
    comb = [[value for x in range(0, 79) for value in ((x, 1, x, 58) if x % 2 else (x, 58, x, 1))]]
    assert check('label-maps', with_mask([*comb, [-30.5, -20, 120, -20, 120, 90.5]])).kind == 'accepted'


def edited(section, **values):
    coco = new()
    coco[section][1].update(values)
    if section != 'annotations':
        coco['annotations'] = []
    return coco


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (b'[' * 100_000, 'nested too deep'),
        (b'{"images": ' * 100_000, 'nested too deep'),
        (b'{"images": ' + b'9' * 5000 + b'}', 'not JSON'),
        (b'', 'not JSON'),
        (b'\0' * 10, 'not JSON'),
        (b'{"images": "\xff"}', 'not JSON'),
        (b'[1]', 'not an object'),
        (edited('images', width=1e999), 'images[1].width is inf'),
        (edited('images', width=10**9 - 1, height=10**9 - 1), 'more than OpenCV reads'),
        (edited('images', id='7'), 'in part numbers, in part strings'),
        (edited('categories', id='7'), 'in part numbers, in part strings'),
        (edited('annotations', iscrowd=[]), 'iscrowd is [], not 0 or 1'),
        (edited('annotations', iscrowd=2**63), 'not 0 or 1'),
        (edited('images', width='x' * 10**6), 'width is '),
        (edited('annotations', image_id=10**400), 'image_id = 1000'),
    ],
)
def test_contents(check, reader, content, problem):
    outcome = check(reader, content)
    assert outcome.kind == 'refused' and problem in outcome.text


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('kind', ['pipe', 'folder', 'device', 'loop'])
def test_what_is_no_file(readers, reader, kind):
    folder, found = readers
    path = folder / 'no_file.json'
    put_no_file(path, kind)
    with Confined(lambda path: found[reader](path), folder) as confined:
        outcome = confined(str(path))
    assert outcome.kind == 'refused' and str(path) in outcome.text


# Fuzz -----------------------------------------------------------------------


def _fuzz(check, count, long):
    original = json.dumps(new()).encode()

    @examples(count, long)
    @given(st.sampled_from(READERS), mutated([original]))
    def raw(reader, content):
        check(reader, content)

    @examples(2 * count, long)
    @given(st.sampled_from(READERS), st.data())
    def values(reader, data):
        coco = new()
        for _ in range(data.draw(st.integers(1, 3))):
            paths = places(coco)
            if paths:
                path = data.draw(st.sampled_from(paths))
                replaced(coco, path, data.draw(st.just(...) | ODD_VALUES | NUMBERS | RUNS))
        check(reader, coco)

    raw()
    values()


NUMBERS = st.sampled_from([-1, 0, 5, 79, 80, 60.0, 1e7, 1e9, -1e9, 2**31 - 1, 2**32, 4800, 4801, 1e-320])
RUNS = st.one_of(
    st.text(st.characters(min_codepoint=47, max_codepoint=112), max_size=12),
    st.lists(st.integers(-1, 5000), max_size=5),
    st.lists(st.lists(NUMBERS, min_size=4, max_size=10), min_size=1, max_size=2),
    st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12).map(
        lambda counts: dict(size=[60, 80], counts=counts)
    ),
)


def test_annotations(check):
    _fuzz(check, 20, long=False)


@pytest.mark.long
def test_many_annotations(check):
    _fuzz(check, 20, long=True)
