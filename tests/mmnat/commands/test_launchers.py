"""The command-line launchers: their runs on tiny models, and the inputs they refuse."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

TOOLS = Path(__file__).resolve().parents[3] / 'tools'

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from earlier_runs import forget_earlier_runs  # noqa: E402
from mmengine.logging import HistoryBuffer  # noqa: E402
from mmengine.registry import TRANSFORMS  # noqa: E402
from tiny_training import draw_data, write_configs  # noqa: E402

from mmnat.checkpoints.reading import read_checkpoint  # noqa: E402
from mmnat.commands import predict, test, train  # noqa: E402
from mmnat.errors import CheckpointError  # noqa: E402


@pytest.fixture(scope='module')
def launch():
    """Run launchers in this process: starting one costs seconds of imports."""
    mains = {'train': train.main, 'test': test.main, 'predict': predict.main}

    def launch(name, *args):
        forget_earlier_runs()
        mains[name]([str(arg) for arg in args])

    return launch


@pytest.fixture(scope='module')
def trained(tmp_path_factory, launch):
    """Data, configs, and a detector and a segmentor trained on them for two iterations."""
    root = tmp_path_factory.mktemp('trained')
    draw_data(root / 'data')
    write_configs(root, root / 'data')
    for name in ('detector', 'segmentor'):
        launch('train', root / f'{name}.py', '--work-dir', root / name)
    return root


@pytest.fixture
def inputs(tmp_path):
    """Data and configs for a test to spoil."""
    draw_data(tmp_path / 'data')
    write_configs(tmp_path, tmp_path / 'data')
    return tmp_path


@pytest.fixture
def refused(launch, capsys, tmp_path, monkeypatch):
    """Check that a launcher ends with one message, exit code 2 and nothing written."""
    monkeypatch.chdir(tmp_path)

    def check(*args):
        before = sorted(tmp_path.rglob('*'))
        with pytest.raises(SystemExit) as exit_info:
            launch(*args)
        errors = capsys.readouterr().err.splitlines()
        messages = [line for line in errors if line.startswith('error: ')]
        assert exit_info.value.code == 2
        assert len(messages) == 1 and errors[-1] == messages[0]
        assert '; ' in messages[0]
        assert not any(line.startswith('Traceback') for line in errors)
        assert sorted(tmp_path.rglob('*')) == before
        return messages[0]

    return check


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit_coco(root, edit):
    path = root / 'data/coco.json'
    coco = json.loads(path.read_text())
    edit(coco)
    path.write_text(json.dumps(coco))
    return path


# Runs -----------------------------------------------------------------------


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_train_writes_checkpoints(trained, name):
    assert (trained / name / 'iter_2.pth').is_file()
    assert (trained / name / f'{name}.py').is_file()


@pytest.mark.parametrize(('name', 'out'), [('detector', 'out.pkl'), ('segmentor', 'out')])
def test_test_saves_predictions_and_pictures(trained, launch, tmp_path, name, out):
    launch(
        'test',
        trained / f'{name}.py',
        trained / name / 'iter_2.pth',
        *('--work-dir', tmp_path / 'work', '--out', tmp_path / out),
        *('--show-dir', tmp_path / 'shown'),
    )
    assert list((tmp_path / 'work').rglob('*.json'))
    assert (tmp_path / out).is_file() if name == 'detector' else list((tmp_path / out).iterdir())
    shown = [path for path in tmp_path.rglob('*.*g') if 'shown' in path.parts]
    assert len(shown) == 4


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_predict_draws_every_image(trained, launch, tmp_path, capsys, name):
    same_name = tmp_path / 'more/0.jpg'
    same_name.parent.mkdir()
    same_name.write_bytes((trained / 'data/images/1.jpg').read_bytes())
    launch(
        'predict',
        trained / f'{name}.py',
        trained / name / 'iter_2.pth',
        *(trained / 'data/images', same_name),
        *('--out-dir', tmp_path / 'out', '--score-thr', '0', '--device', 'cpu'),
    )
    names = ['0.jpg', '1.jpg', '2.jpg', '3.jpg', '0_2.jpg']
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.endswith('.jpg')] == [
        str(tmp_path / 'out' / name) for name in names
    ]
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(names)
    drawn = cv2.imread(str(tmp_path / 'out/0.jpg'))
    assert drawn.shape == (64, 64, 3)
    assert np.abs(drawn - cv2.imread(str(trained / 'data/images/0.jpg')).astype(int)).max() > 50


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_predict_writes_a_suffix_that_opencv_knows(trained, launch, tmp_path, capsys, name):
    content = (trained / 'data/images/1.jpg').read_bytes()
    images = [tmp_path / image for image in ('a.jfif', 'a.jpg', 'b', 'c.JPG', 'd.e')]
    for image in images:
        image.write_bytes(content)
    for size in ((2, 100), (100, 2)):
        images.append(tmp_path / f'{size[0]}x{size[1]}.png')
        cv2.imwrite(str(images[-1]), np.full((*size, 3), 99, np.uint8))
    launch(
        'predict',
        trained / f'{name}.py',
        trained / name / 'iter_2.pth',
        *(*images, '--out-dir', tmp_path / 'o'),
    )
    names = ['a.jpg', 'a_2.jpg', 'b.jpg', 'c.JPG', 'd.jpg', '2x100.png', '100x2.png']
    printed = capsys.readouterr().out.splitlines()
    assert printed[-len(names) :] == [str(tmp_path / 'o' / name) for name in names]
    for image, picture in zip(images, names, strict=True):
        drawn = cv2.imread(str(tmp_path / 'o' / picture))
        assert drawn.shape == cv2.imread(str(image)).shape


@pytest.mark.parametrize(('name', 'out'), [('detector', 'out.pkl'), ('segmentor', 'out')])
def test_images_of_one_name_in_two_folders(trained, launch, tmp_path, name, out):
    for kind, suffix in (('images', 'jpg'), ('labels', 'png')):
        for folder, index in (('a', 0), ('a', 1), ('b', 2), ('b', 3)):
            target = tmp_path / f'data/{kind}/{folder}/{index % 2}.{suffix}'
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((trained / f'data/{kind}/{index}.{suffix}').read_bytes())
    coco = json.loads((trained / 'data/coco.json').read_text())
    for image in coco['images']:
        image['file_name'] = f'{"ab"[image["id"] // 2]}/{image["id"] % 2}.jpg'
    (tmp_path / 'data/coco.json').write_text(json.dumps(coco))
    write_configs(tmp_path, tmp_path / 'data')
    launch(
        'test',
        tmp_path / f'{name}.py',
        trained / name / 'iter_2.pth',
        *('--work-dir', tmp_path / 'work', '--out', tmp_path / out, '--show-dir', tmp_path / 'shown'),
    )
    wanted = ['a/0', 'a/1', 'b/0', 'b/1']
    if name == 'segmentor':
        assert sorted((tmp_path / 'out').rglob('*.png')) == [
            tmp_path / f'out/{stem}.png' for stem in wanted
        ]
        assert len(list((tmp_path / 'shown').rglob('*.png'))) == 4
    else:
        found = sorted((tmp_path / 'shown').rglob('*.jpg'))
        assert found == [tmp_path / f'shown/{stem}.jpg' for stem in wanted]
        assert len({path.read_bytes() for path in found}) == 4


def test_a_segmentor_without_test_pipeline(trained, launch, tmp_path, capsys):
    """As a config is that mmengine wrote, or that calls its pipelines otherwise."""
    text = (trained / 'segmentor.py').read_text()
    (tmp_path / 'config.py').write_text(text.replace('test_pipeline', 'pipeline_of_tests'))
    checkpoint = trained / 'segmentor/iter_2.pth'
    launch('test', tmp_path / 'config.py', checkpoint, '--work-dir', tmp_path / 'work')
    image = trained / 'data/images/0.jpg'
    launch('predict', tmp_path / 'config.py', checkpoint, image, '--out-dir', tmp_path / 'out')
    launch('predict', trained / 'segmentor.py', checkpoint, image, '--out-dir', tmp_path / 'same')
    assert (tmp_path / 'out/0.jpg').read_bytes() == (tmp_path / 'same/0.jpg').read_bytes()


@pytest.mark.parametrize(('name', 'how'), [('detector', 'path'), ('segmentor', 'auto')])
def test_resume_continues(trained, launch, tmp_path, name, how):
    work_dir = tmp_path / 'work'
    launch(
        'train',
        trained / f'{name}.py',
        *('--work-dir', work_dir, '--cfg-options', 'train_cfg.max_iters=1'),
    )
    resume = [] if how == 'auto' else [work_dir / 'iter_1.pth']
    launch('train', trained / f'{name}.py', '--work-dir', work_dir, '--resume', *resume)
    checkpoint = read_checkpoint(work_dir / 'iter_2.pth')
    assert checkpoint['meta']['iter'] == 2
    # The two iterations of the runs before and after are in one history.
    assert len(checkpoint['message_hub']['log_scalars']['train/loss'].data[0]) == 2


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_amp_trains_on_the_device_that_is_there(trained, launch, tmp_path, name):
    launch('train', trained / f'{name}.py', '--work-dir', tmp_path, '--amp')
    weights = read_checkpoint(tmp_path / 'iter_2.pth')['state_dict']
    assert all(value.isfinite().all() for value in weights.values())
    assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_predict_from_bare_weights(trained, launch, tmp_path, name):
    weights = read_checkpoint(trained / name / 'iter_2.pth')['state_dict']
    torch.save(weights, tmp_path / 'weights.pth')
    image, options = trained / 'data/images/0.jpg', ('--out-dir', tmp_path / 'out')
    launch('predict', trained / f'{name}.py', tmp_path / 'weights.pth', image, *options)
    assert os.listdir(tmp_path / 'out') == ['0.jpg']


def test_load_from_lets_heads_differ(trained, launch, tmp_path):
    heads = 'model.roi_head.bbox_head.num_classes=1 model.roi_head.mask_head.num_classes=1'
    launch(
        'train',
        trained / 'detector.py',
        *('--work-dir', tmp_path, '--cfg-options', f'load_from={trained}/detector/iter_2.pth'),
        *heads.split(),
        "train_dataloader.dataset.dataset.metainfo.classes=('square',)",
        'train_cfg.max_iters=1',
    )
    assert (tmp_path / 'iter_1.pth').is_file()


@pytest.mark.alone
def test_two_processes(trained, tmp_path):
    environment = dict(os.environ, PORT='29617', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    # As in an activated environment: torchrun lies beside its Python.
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{environment["PATH"]}'
    run = subprocess.run(
        [TOOLS / 'dist_train.sh', trained / 'segmentor.py', '2', '--work-dir', tmp_path / 'work'],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    checkpoint = read_checkpoint(tmp_path / 'work/iter_2.pth')
    assert 'backbone.patch_embed.proj.0.weight' in checkpoint['state_dict']
    assert 'Distributed training: True' in run.stdout + run.stderr


# Refused configs ------------------------------------------------------------


def test_missing_config(refused, tmp_path):
    assert f'config {tmp_path}/no.py does not exist' in refused('train', tmp_path / 'no.py')


def test_config_syntax_error(refused, inputs):
    path = inputs / 'detector.py'
    path.write_text('a = 1\nb = (\n\nc = 3\n')
    message = refused('train', path)
    assert f'{path}, line 2,' in message and 'SyntaxError' in message


def test_config_error_in_base(refused, inputs):
    (inputs / 'base.py').write_text('a = 1\nb = undefined\n')
    (inputs / 'top.py').write_text("_base_ = ['base.py']\n")
    message = refused('test', inputs / 'top.py', 'x.pth')
    assert 'base.py, line 2,' in message and 'undefined' in message


def test_missing_base(refused, inputs):
    (inputs / 'top.py').write_text("_base_ = ['gone.py']\n")
    assert 'gone.py' in refused('train', inputs / 'top.py')


def test_config_that_is_no_config(refused, inputs):
    (inputs / 'top.txt').write_text('x')
    assert 'top.txt' in refused('train', inputs / 'top.txt')


def test_missing_custom_import(refused, inputs):
    replace(inputs / 'detector.py', "['mmdet_nat']", "['no_such_package']")
    message = refused('train', inputs / 'detector.py')
    assert 'Failed to import' in message and 'PYTHONPATH' in message


def test_missing_scope_and_fields(refused, inputs):
    (inputs / 'top.py').write_text('model = dict()\n')
    assert 'default_scope = None' in refused('train', inputs / 'top.py')
    (inputs / 'top.py').write_text("default_scope = 'mmseg'\n")
    message = refused('train', inputs / 'top.py')
    assert 'lacks model, train_dataloader, train_cfg, optim_wrapper' in message


OLD_STYLE = """
model = dict(
    type='MaskRCNN', pretrained=None, backbone=dict(type='NAT', in_patch_size=4, pretrained='x.pth'))
data = dict(samples_per_gpu=2, workers_per_gpu=2, train=dict(type='CocoDataset'))
optimizer = dict(type='AdamW', lr=0.0001)
optimizer_config = dict(grad_clip=None)
lr_config = dict(policy='step', step=[27, 33])
runner = dict(type='EpochBasedRunner', max_epochs=36)
evaluation = dict(metric=['bbox', 'segm'])
"""


@pytest.mark.parametrize('scope', ['', "default_scope = 'mmdet'\n"])
def test_config_of_the_generation_before(refused, tmp_path, scope):
    path = tmp_path / 'old.py'
    path.write_text(OLD_STYLE + scope)
    for args in (('train', path), ('test', path, 'x.pth'), ('predict', path, 'x.pth', 'x.jpg')):
        message = refused(*args)
        assert (
            f'config {path} is of mmdet 2.x or mmseg 0.x: it has data, optimizer, optimizer_config,'
            in message
        )
        assert 'evaluation, model.pretrained, and not train_dataloader' in message
        assert 'from `mmnat configs`; `mmnat convert` converts weights' in message


def test_fields_of_both_generations(refused, inputs):
    path = inputs / 'segmentor.py'
    replace(path, "type='EncoderDecoder',", "type='EncoderDecoder', pretrained='x.pth',")
    assert "'pretrained': write init_cfg" in refused('train', path)
    path.write_text("model = dict(pretrained='x.pth')\n")
    assert 'default_scope = None' in refused('train', path)


def test_bad_cfg_options(refused, inputs):
    message = refused('train', inputs / 'detector.py', '--cfg-options', 'pipeline.9.type=X')
    assert '--cfg-options' in message


@pytest.mark.parametrize(
    ('old', 'new', 'expected'),
    [
        ("'NAT'", "'NATT'", ('model.backbone.type', 'NAT')),
        ("'CocoDataset'", "'CoccoDataset'", ('dataset.dataset.type', 'CocoDataset')),
        ("'RepeatDataset'", "'RepeetDataset'", ('dataloader.dataset.type', 'RepeatDataset')),
        ("dict(type='Resize'", "dict(type='Resice'", ('pipeline[2].type', 'Resize')),
        ("'SGD'", "'SDG'", ('optim_wrapper.optimizer.type', 'SGD')),
        ("'DefaultSampler'", "'DefaultSampling'", ('sampler.type', 'DefaultSampler')),
    ],
)
def test_unregistered_type(refused, inputs, old, new, expected):
    replace(inputs / 'detector.py', old, new)
    message = refused('train', inputs / 'detector.py')
    field, nearest = expected
    assert f'{field} = ' in message and 'is not registered' in message
    assert nearest in message.partition('nearest: ')[2]


def test_model_arguments(refused, inputs):
    replace(inputs / 'detector.py', 'embed_dim=32', "arch='tinny'")
    message = refused('train', inputs / 'detector.py')
    assert "got 'tinny'" in message and "did you mean 'tiny'" in message
    replace(inputs / 'detector.py', "arch='tinny'", 'embed_dims=32')
    message = refused('train', inputs / 'detector.py')
    assert "NAT does not take argument 'embed_dims': write embed_dim=32; correct it" in message


@pytest.mark.parametrize(
    ('name', 'head'),
    [
        ('detector', 'roi_head.bbox_head'),
        ('detector', 'roi_head.mask_head'),
        ('segmentor', 'decode_head'),
        ('segmentor', 'auxiliary_head.0'),
    ],
)
def test_number_of_classes(refused, inputs, name, head):
    option = f'model.{head}.num_classes=5'
    message = refused('train', inputs / f'{name}.py', '--cfg-options', option)
    assert f'model.{head.replace(".0", "[0]")}.num_classes = 5' in message


def test_auto_scale_lr_without_base(refused, inputs):
    assert 'base_batch_size' in refused('train', inputs / 'detector.py', '--auto-scale-lr')


def test_launcher_without_environment(refused, inputs, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert 'torchrun' in refused('train', inputs / 'detector.py', '--launcher', 'pytorch')


# Refused data ---------------------------------------------------------------


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_missing_data_root(refused, inputs, name):
    replace(inputs / f'{name}.py', '/data/', '/date/')
    message = refused('train', inputs / f'{name}.py')
    assert '.data_root = ' in message and 'date/' in message
    assert '--cfg-options train_dataloader.dataset' in message and '.data_root=FOLDER' in message
    assert 'https://' not in message  # not where the data of others are


@pytest.mark.parametrize(
    ('config', 'source'),
    [
        ('nat/mask-rcnn_nat-mini_fpn_amp-ms-crop-3x_coco.py', 'COCO 2017 from https://cocodataset.org'),
        ('nat/nat-mini_upernet_8xb2-amp-160k_ade20k-512x512.py', 'from https://ade20k.csail.mit.edu'),
    ],
)
def test_missing_public_data(refused, config, source):
    message = refused('train', TOOLS.parent / 'configs' / config)
    assert source in message and 'make demo trains without it' in message


@pytest.mark.parametrize('checkpoint', ['absent.pth', 'http://localhost:9/absent.pth'])
def test_missing_pretrained_weights(refused, inputs, checkpoint, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp('cache')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(cache))
    init_cfg = f"init_cfg=dict(type='Pretrained', checkpoint='{checkpoint}')"
    replace(inputs / 'detector.py', 'init_cfg=None', init_cfg)
    message = refused('train', inputs / 'detector.py')
    assert f'checkpoint {checkpoint} ' in message
    assert 'train from random weights: init_cfg=None' in message
    where = f'put it at {cache}/checkpoints/absent.pth' if '://' in checkpoint else 'published one'
    assert where in message


@pytest.mark.parametrize(
    ('name', 'path', 'field'),
    [
        ('detector', 'coco.json', 'ann_file'),
        ('detector', 'images', 'data_prefix.img'),
        ('segmentor', 'images', 'data_prefix.img_path'),
        ('segmentor', 'labels', 'data_prefix.seg_map_path'),
    ],
)
def test_missing_file_or_folder(refused, inputs, name, path, field):
    (inputs / 'data' / path).rename(inputs / 'data/moved')
    message = refused('train', inputs / f'{name}.py')
    assert f'.{field}: ' in message and f'data/{path}' in message


@pytest.mark.parametrize('text', ['', '{"images": [', 'images: []'])
def test_annotations_that_are_no_json(refused, inputs, text):
    path = inputs / 'data/coco.json'
    path.write_text(text)
    assert f'{path} is not JSON' in refused('train', inputs / 'detector.py')


@pytest.mark.parametrize(
    ('edit', 'expected'),
    [
        (lambda coco: coco.pop('images'), "no list 'images'"),
        (lambda coco: coco.update(annotations={}), "no list 'annotations'"),
        (lambda coco: coco.update(categories={}), "no list 'categories'"),
        (lambda coco: coco.update(images=[]), "'images' are empty"),
        (lambda coco: coco['images'][1].pop('height'), 'images[1] lacks height'),
        (lambda coco: coco['annotations'][2].pop('bbox'), 'annotations[2] lacks bbox'),
        (lambda coco: coco['annotations'][0].update(bbox=[1, 2]), 'annotations[0].bbox is [1, 2]'),
        (lambda coco: coco['annotations'][0].update(category_id=9), 'category_id = 9 is not in'),
        (lambda coco: coco['categories'][0].update(name=1), 'categories[0].name is 1'),
    ],
)
def test_annotations_that_are_not_coco(refused, inputs, edit, expected):
    path = edit_coco(inputs, edit)
    message = refused('train', inputs / 'detector.py')
    assert f'{path} is not in COCO format' in message and expected in message


def test_annotations_that_are_a_list(refused, inputs):
    (inputs / 'data/coco.json').write_text('[]')
    assert 'it holds a list' in refused('train', inputs / 'detector.py')


class NeedsAbsentPackage:
    """A transform like mmdet's of panoptic label maps."""

    def __init__(self):
        raise ImportError('absent is not installed, please install it by: pip install absent.')


def test_package_that_a_transform_lacks(refused, inputs):
    TRANSFORMS.register_module(module=NeedsAbsentPackage, force=True)
    replace(
        inputs / 'detector.py', "dict(type='Resize'", "dict(type='NeedsAbsentPackage'), dict(type='Resize'"
    )
    message = refused('train', inputs / 'detector.py')
    assert 'absent is not installed, please install it by: pip install absent; install it' in message


def test_classes_that_the_annotations_lack(refused, inputs):
    replace(inputs / 'detector.py', "('disc', 'square')", "('disc', 'cube')")
    message = refused('train', inputs / 'detector.py')
    assert '(cube) are not in' in message and 'categories are disc, square' in message


def test_classes_in_a_string(refused, inputs):
    replace(inputs / 'detector.py', "('disc', 'square')", "('disc')")
    assert 'is a string' in refused('train', inputs / 'detector.py')


@pytest.mark.parametrize('name', ['detector', 'segmentor'])
@pytest.mark.parametrize('content', [b'', b'no image'])
def test_image_that_does_not_decode(refused, inputs, name, content):
    (inputs / 'data/images/2.jpg').write_bytes(content)
    message = refused('train', inputs / f'{name}.py')
    assert 'images/2.jpg' in message and 'cannot be decoded' in message


def test_missing_image(refused, inputs):
    (inputs / 'data/images/3.jpg').unlink()
    message = refused('train', inputs / 'detector.py')
    assert '1 of 4 images do not exist' in message and 'images/3.jpg' in message


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('kind', ['broken', 'missing'])
def test_image_that_does_not_load_during_training(inputs, launch, capsys, monkeypatch, workers, kind):
    monkeypatch.setattr(sys.modules['mmnat.preflight.images'], 'MAX_OPENED', 0)
    image = inputs / 'data/images/1.jpg'
    image.write_bytes(b'no image') if kind == 'broken' else image.unlink()
    options = ('--cfg-options', f'train_dataloader.num_workers={workers}')
    with pytest.raises(SystemExit) as exit_info:
        launch('train', inputs / 'detector.py', '--work-dir', inputs / 'work', *options)
    message = capsys.readouterr().err.splitlines()[-1]
    assert exit_info.value.code == 2
    problem = 'cannot be decoded' if kind == 'broken' else 'does not exist'
    assert message.startswith(f'error: image {image} {problem}; ')


def test_images_without_label_map(refused, inputs):
    (inputs / 'data/labels/1.png').unlink()
    message = refused('train', inputs / 'segmentor.py')
    assert '1 of 4 images have no label map' in message and 'labels/1.png' in message


def test_no_image_with_suffix(refused, inputs):
    replace(inputs / 'segmentor.py', "'BaseSegDataset'", "'BaseSegDataset', img_suffix='.bmp'")
    assert 'no *.bmp in' in refused('train', inputs / 'segmentor.py')


@pytest.mark.parametrize(
    ('label', 'expected'),
    [
        (np.full((64, 64), 3, np.uint8), 'has the values 3 beyond the 3 classes'),
        (np.zeros((64, 64, 3), np.uint8), '1 of 4 label maps are in colour'),
    ],
)
def test_bad_label_map(refused, inputs, label, expected):
    cv2.imwrite(str(inputs / 'data/labels/2.png'), label)
    message = refused('train', inputs / 'segmentor.py')
    assert 'labels/2.png' in message and expected in message


def test_label_map_that_does_not_decode(refused, inputs):
    (inputs / 'data/labels/2.png').write_bytes(b'no image')
    message = refused('train', inputs / 'segmentor.py')
    assert 'labels/2.png cannot be decoded' in message


def test_ignored_label_is_allowed(inputs, launch):
    cv2.imwrite(str(inputs / 'data/labels/2.png'), np.full((64, 64), 255, np.uint8))
    options = ('--cfg-options', 'train_cfg.max_iters=1')
    launch('train', inputs / 'segmentor.py', '--work-dir', inputs / 'work', *options)


# Refused checkpoints --------------------------------------------------------


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def spoil_checkpoint(kind, source, path):
    content = source.read_bytes()
    if kind == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('<html>404</html>')
    elif kind == 'pickle':
        path.write_bytes(pickle.dumps({'a': 1}))
    elif kind == 'stateless':
        torch.save({'meta': {}}, path)


@pytest.mark.parametrize('kind', ['missing', 'truncated', 'empty', 'text', 'pickle', 'stateless'])
def test_bad_checkpoint(refused, trained, tmp_path, kind):
    path = tmp_path / 'bad.pth'
    spoil_checkpoint(kind, trained / 'detector/iter_2.pth', path)
    image = trained / 'data/images/0.jpg'
    config = trained / 'detector.py'
    expected = {'missing': 'does not exist', 'stateless': 'no state_dict', 'pickle': str(path)}
    for args in (
        ('test', config, path),
        ('predict', config, path, image),
        ('train', config, '--resume', path),
        ('train', config, '--cfg-options', f'load_from={path}'),
    ):
        message = refused(*args)
        assert str(path) in message
        assert expected.get(kind, 'cut short or not a torch checkpoint') in message


@pytest.mark.long
def test_checkpoints_cut_anywhere(refused, trained, tmp_path, capsys):
    """200 cuts of a checkpoint, among them those of single bytes at the end: none is read."""
    content = (trained / 'detector/iter_2.pth').read_bytes()
    random = np.random.default_rng(0)
    sizes = {*range(5), *(len(content) - byte for byte in range(1, 30))}
    while len(sizes) < 200:
        sizes.add(int(random.integers(len(content))))
    path = tmp_path / 'cut.pth'
    expected = f'checkpoint {path} is cut short or not a torch checkpoint; copy or download it again'
    for size in sorted(sizes):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert str(caught.value) == expected, size
    config, image = trained / 'detector.py', trained / 'data/images/0.jpg'
    for size in random.choice(sorted(sizes), 4, replace=False):
        path.write_bytes(content[:size])
        for args in (
            ('test', config, path),
            ('predict', config, path, image),
            ('train', config, '--resume', path),
        ):
            assert refused(*args) == f'error: {expected}', size


def test_resume_names_another_checkpoint_if_the_newest_is_cut(refused, trained, tmp_path):
    work = tmp_path / 'work'
    work.mkdir()
    for name in ('iter_1.pth', 'iter_2.pth'):
        (work / name).write_bytes((trained / 'detector' / name).read_bytes()[: -1 if '2' in name else None])
    (work / 'last_checkpoint').write_text(str(work / 'iter_2.pth'))
    before = {path: path.read_bytes() for path in work.iterdir()}
    message = refused('train', trained / 'detector.py', '--work-dir', work, '--resume')
    assert message.endswith(
        f'checkpoint {work}/iter_2.pth is cut short or not a torch checkpoint; copy or download it again,'
        f' or resume from another one: --resume {work}/iter_1.pth'
    )
    assert {path: path.read_bytes() for path in work.iterdir()} == before


def test_links_in_a_work_directory_lead_nowhere(launch, trained, tmp_path):
    """The work directory itself may be a link, to a disk with more room."""
    work, outside = tmp_path / 'work', tmp_path / 'outside'
    outside.mkdir()
    work.symlink_to(tmp_path / 'other disk')
    (tmp_path / 'other disk').mkdir()
    for name in ('iter_1.pth', 'last_checkpoint', '.training'):
        (outside / name).write_text('precious')
        (work / name).symlink_to(outside / name)
    (work / 'iter_2.pth').symlink_to(outside / 'gone')
    (work / 'interrupted.pth').symlink_to('interrupted.pth')
    launch('train', trained / 'segmentor.py', '--work-dir', work)
    assert [path.read_text() for path in sorted(outside.iterdir())] == ['precious'] * 3
    for name in ('iter_1.pth', 'iter_2.pth', 'last_checkpoint'):
        assert (work / name).is_file() and not (work / name).is_symlink()
    assert read_checkpoint((work / 'last_checkpoint').read_text())['meta']['iter'] == 2
    assert work.is_symlink() and (tmp_path / 'other disk/iter_2.pth').is_file()


@pytest.mark.parametrize('name', ['segmentor.py', '.training'])
def test_links_that_cannot_be_replaced(refused, trained, tmp_path, name):
    work = tmp_path / 'work'
    work.mkdir()
    (work / name).symlink_to(trained / 'segmentor.py' if name != '.training' else '.training')
    before = (trained / 'segmentor.py').read_bytes()
    message = refused('train', trained / 'segmentor.py', '--work-dir', work)
    assert f'{work}/{name}' in message
    assert ('through the symbolic link' if name != '.training' else 'symbolic links') in message
    assert (trained / 'segmentor.py').read_bytes() == before


def test_checkpoint_of_another_model(refused, trained):
    checkpoint = trained / 'segmentor/iter_2.pth'
    message = refused('test', trained / 'detector.py', checkpoint)
    assert 'tensors match' in message and 'missing (first: ' in message
    assert 'unknown to the model (first: ' in message


def test_checkpoint_of_other_shapes(refused, trained):
    checkpoint = trained / 'detector/iter_2.pth'
    options = ('--cfg-options', 'model.backbone.embed_dim=64')
    options = (*options, 'model.neck.in_channels=[64,128,256,512]')
    for args in (('--resume', checkpoint, *options), (*options, f'load_from={checkpoint}')):
        message = refused('train', trained / 'detector.py', *args)
        assert 'differ in shape (first: backbone.patch_embed' in message


@pytest.mark.parametrize('how', ['test', 'resume', 'load_from', 'init_cfg', 'predict'])
def test_malicious_checkpoint_is_not_executed(refused, trained, tmp_path, how):
    path, victim = tmp_path / 'evil.pth', tmp_path / 'executed'
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': Payload(victim)}, path)
    init_cfg = f"dict(type='Pretrained', checkpoint='{path}')"
    config = (trained / 'detector.py').read_text().replace('init_cfg=None', f'init_cfg={init_cfg}')
    (tmp_path / 'pretrained.py').write_text(config)
    args = {
        'test': ('test', trained / 'detector.py', path),
        'predict': ('predict', trained / 'detector.py', path, trained / 'data/images/0.jpg'),
        'resume': ('train', trained / 'detector.py', '--resume', path),
        'load_from': ('train', trained / 'detector.py', '--cfg-options', f'load_from={path}'),
        'init_cfg': ('train', tmp_path / 'pretrained.py'),
    }[how]
    message = refused(*args)
    assert 'could run code' in message and 'system' in message
    assert not victim.exists()


def test_malicious_checkpoint_from_the_command_line(trained, tmp_path):
    path, victim = tmp_path / 'evil.pth', tmp_path / 'executed'
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': Payload(victim)}, path)
    run = subprocess.run(
        [sys.executable, TOOLS / 'test.py', trained / 'detector.py', path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith('error: ') and 'Traceback' not in run.stderr
    assert sorted(os.listdir(tmp_path)) == ['evil.pth']


def test_config_in_a_checkpoint_is_not_executed(trained, launch, tmp_path):
    checkpoint = read_checkpoint(trained / 'detector/iter_1.pth')
    victim = tmp_path / 'executed'
    checkpoint['meta']['config'] = f"import os\nos.system('touch {victim}')\n"
    torch.save(checkpoint, tmp_path / 'evil.pth')
    args = ('--work-dir', tmp_path / 'work', '--resume', tmp_path / 'evil.pth')
    launch('train', trained / 'detector.py', *args)
    assert (tmp_path / 'work/iter_2.pth').is_file()
    assert not victim.exists()


def test_other_functions_than_those_of_the_log_are_refused(refused, trained, tmp_path):
    # The log's buffers are stored as `getattr(HistoryBuffer, 'mean')`.
    class Lookup:
        def __reduce__(self):
            return getattr, (HistoryBuffer, '__init__')

    torch.save({'state_dict': {'a': torch.zeros(1)}, 'meta': Lookup()}, tmp_path / 'evil.pth')
    refused('test', trained / 'detector.py', tmp_path / 'evil.pth')


def test_resume_with_nothing_there(refused, inputs):
    message = refused('train', inputs / 'detector.py', '--resume', '--work-dir', inputs / 'work')
    assert 'finds no checkpoint' in message


def test_resume_from_weights_only(refused, trained, tmp_path):
    weights = read_checkpoint(trained / 'detector/iter_2.pth')['state_dict']
    torch.save(weights, tmp_path / 'weights.pth')
    message = refused('train', trained / 'detector.py', '--resume', tmp_path / 'weights.pth')
    assert 'no training state' in message and 'load_from=' in message


# Refused by predict ---------------------------------------------------------


def test_predict_refuses(refused, trained, tmp_path):
    args = ('predict', trained / 'segmentor.py', trained / 'segmentor/iter_2.pth')
    assert 'does not exist' in refused(*args, tmp_path / 'no.jpg')
    (tmp_path / 'empty').mkdir()
    assert 'has no images' in refused(*args, tmp_path / 'empty')
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    assert 'broken.jpg cannot be decoded' in refused(*args, tmp_path / 'broken.jpg')
    images = trained / 'data/images'
    assert 'would overwrite' in refused(*args, images, '--out-dir', images)
    assert '--device cuda:9' in refused(*args, images, '--device', 'cuda:9')


def test_predict_writes_below_its_folder(refused, trained, tmp_path):
    args = ('predict', trained / 'segmentor.py', trained / 'segmentor/iter_2.pth', trained / 'data/images')
    (tmp_path / 'out/0.jpg').mkdir(parents=True)
    assert 'out/0.jpg is a folder; remove it' in refused(*args, '--out-dir', tmp_path / 'out')
    (tmp_path / 'links').mkdir()
    (tmp_path / 'precious.jpg').write_bytes(b'mine')
    (tmp_path / 'links/1.jpg').symlink_to(tmp_path / 'precious.jpg')
    message = refused(*args, '--out-dir', tmp_path / 'links')
    assert f'links/1.jpg leads through a symbolic link to {tmp_path}/precious.jpg; remove' in message
    assert (tmp_path / 'precious.jpg').read_bytes() == b'mine'


def test_predict_refuses_what_vanishes(refused, trained, tmp_path):
    thin = tmp_path / 'thin.png'
    cv2.imwrite(str(thin), np.zeros((2000, 2, 3), np.uint8))
    args = ('predict', trained / 'detector.py', trained / 'detector/iter_2.pth')
    message = refused(*args, trained / 'data/images', thin)
    assert f'image {thin} has 2x2000 pixels, and the test pipeline scales it to nothing; cut' in message


# Refused by test ------------------------------------------------------------


def test_test_replaces_no_input(refused, trained, inputs, tmp_path):
    (inputs / 'model.pkl').write_bytes((trained / 'detector/iter_2.pth').read_bytes())
    detector = ('test', inputs / 'detector.py', inputs / 'model.pkl')
    segmentor = ('test', inputs / 'segmentor.py', trained / 'segmentor/iter_2.pth')
    data = inputs / 'data'
    (inputs / 'folder.pkl').mkdir()
    before = {path: path.read_bytes() for path in inputs.rglob('*') if path.is_file()}
    work = ('--work-dir', inputs / 'work')
    for args, expected in (
        ((*detector, '--out', inputs / 'model.pkl'), 'would overwrite the input'),
        ((*detector, '--out', inputs / 'folder.pkl'), 'it is a folder'),
        ((*detector, '--show-dir', data / 'images'), 'images would overwrite the input'),
        ((*detector, '--show-dir', '../../data/images'), 'images would overwrite the input'),
        ((*segmentor, '--out', data / 'labels'), 'labels would overwrite the input'),
        ((*segmentor, '--out', data / 'coco.json'), 'coco.json is a file; name a folder'),
        (
            (*segmentor, '--cfg-options', f'test_evaluator.output_dir={data}/labels'),
            f'test_evaluator.output_dir = {str(data / "labels")!r} would overwrite the input',
        ),
    ):
        assert expected in refused(*args, *work)
        assert before == {path: path.read_bytes() for path in inputs.rglob('*') if path.is_file()}


@pytest.mark.parametrize('command', ['train', 'test'])
def test_a_config_is_not_replaced_by_that_of_the_run(refused, trained, inputs, command):
    config = inputs / 'detector.py'
    checkpoint = [trained / 'detector/iter_2.pth'] if command == 'test' else []
    before = config.read_bytes()
    message = refused(command, config, *checkpoint, '--work-dir', inputs)
    assert f'work_dir {inputs}: the run would overwrite the config {config}; name another' in message
    assert config.read_bytes() == before


def test_broken_image_from_the_command_line(inputs):
    (inputs / 'data/images/2.jpg').write_bytes(b'no image')
    before = sorted(inputs.rglob('*'))
    run = subprocess.run(
        [sys.executable, TOOLS / 'train.py', inputs / 'segmentor.py'],
        cwd=inputs,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and 'Traceback' not in run.stderr
    assert 'images/2.jpg' in run.stderr.splitlines()[-1]
    assert sorted(inputs.rglob('*')) == before
