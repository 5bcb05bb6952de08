"""Published checkpoints of every layout, converted and loaded, and the inputs that are refused."""

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import MODEL_CASES, drawn, expected, fill_parameters, relative_error

from mmnat import models
from mmnat.checkpoints.reading import read_checkpoint
from mmnat.commands import convert as convert_checkpoint
from mmnat.models import NAT, DiNAT_s

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmnat.config import read_config
from mmnat.convert.architecture import backbone_settings
from mmnat.convert.detectron2 import _STUFF
from mmnat.preflight.models import build_model

GOLDEN = {case['name']: case for case in MODEL_CASES}
SMALL = dict(embed_dim=32, depths=[1, 2, 1, 1], num_heads=[1, 2, 4, 8], mlp_ratio=2.0, kernel_size=3)
MODELS = Path(__file__).resolve().parents[3] / 'configs/_base_/models'
MASK2FORMER = {
    'mmdet': 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
    'mmseg': 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
}


# The layouts, written independently of what reads them.


def classifier(weights):
    """As timm's classifiers: without output norms, with a last norm and a head."""
    dim = max(len(weight) for name, weight in weights.items() if name.endswith('norm1.weight'))
    head = dict(zip(('norm.weight', 'norm.bias', 'head.bias'), torch.randn(3, dim), strict=True))
    backbone = {name: weight for name, weight in weights.items() if not name.startswith('norm')}
    return backbone | head | {'head.weight': torch.randn(dim, dim)}


HUGGING_FACE = {
    'patch_embed.proj': 'embeddings.patch_embeddings.projection',
    'patch_embed.norm': 'embeddings.norm',
    'levels.': 'encoder.levels.',
    '.blocks.': '.layers.',
    '.norm1.': '.layernorm_before.',
    '.norm2.': '.layernorm_after.',
    '.attn.rpb': '.attention.self.rpb',
    '.attn.proj.': '.attention.output.dense.',
    '.mlp.fc1.': '.intermediate.dense.',
    '.mlp.fc2.': '.output.dense.',
}


def hugging_face(weights, prefix):
    """As transformers' classifier (with a prefix) or backbone (without)."""
    result = {}
    for name, weight in weights.items():
        if name.startswith('norm'):
            stage = int(name[4]) + 1
            result[f'hidden_states_norms.stage{stage}{name[5:]}'] = weight
        elif '.attn.qkv.' in name:
            block, _, leaf = name.replace('levels', 'encoder.levels').partition('attn.qkv.')
            block = block.replace('blocks', 'layers')
            for part, chunk in zip(('query', 'key', 'value'), weight.chunk(3), strict=True):
                result[f'{block}attention.self.{part}.{leaf}'] = chunk.clone()
        elif name.endswith('gamma1'):
            block = (
                name.removesuffix('gamma1').replace('levels', 'encoder.levels').replace('blocks', 'layers')
            )
            factors = torch.stack([weight, weights[name.replace('gamma1', 'gamma2')]])
            result[f'{block}layer_scale_parameters'] = factors
        elif not name.endswith('gamma2'):
            for ours, theirs in HUGGING_FACE.items():
                name = name.replace(ours, theirs)
            result[name] = weight
    if not prefix:
        return result
    result = {name: weight for name, weight in result.items() if 'hidden' not in name}
    result = {prefix + name: weight for name, weight in result.items()}
    return result | {f'{prefix}layernorm.weight': torch.ones(8), 'classifier.weight': torch.ones(8, 8)}


DETECTRON2 = {
    'pixel_decoder.input_convs.': 'pixel_decoder.input_proj.',
    'pixel_decoder.lateral_convs.0.conv.': 'pixel_decoder.adapter_1.',
    'pixel_decoder.lateral_convs.0.gn.': 'pixel_decoder.adapter_1.norm.',
    'pixel_decoder.output_convs.0.conv.': 'pixel_decoder.layer_1.',
    'pixel_decoder.output_convs.0.gn.': 'pixel_decoder.layer_1.norm.',
    'pixel_decoder.mask_feature.': 'pixel_decoder.mask_features.',
    'pixel_decoder.level_encoding.weight': 'pixel_decoder.transformer.level_embed',
    'pixel_decoder.encoder.': 'pixel_decoder.transformer.encoder.',
    'transformer_decoder.post_norm.': 'decoder_norm.',
    'cls_embed.': 'class_embed.',
    'mask_embed.0.': 'mask_embed.layers.0.',
    'mask_embed.2.': 'mask_embed.layers.1.',
    'mask_embed.4.': 'mask_embed.layers.2.',
}
IN_ENCODER = {
    'norms.0.': 'norm1.',
    'norms.1.': 'norm2.',
    'ffn.layers.0.0.': 'linear1.',
    'ffn.layers.1.': 'linear2.',
}
IN_DECODER = {
    'cross_attn.attn.': ('cross_attention', 'multihead_attn.'),
    'norms.0.': ('cross_attention', 'norm.'),
    'self_attn.attn.': ('self_attention', 'self_attn.'),
    'norms.1.': ('self_attention', 'norm.'),
    'ffn.layers.0.0.': ('ffn', 'linear1.'),
    'ffn.layers.1.': ('ffn', 'linear2.'),
    'norms.2.': ('ffn', 'norm.'),
}


def detectron2(weights, head='panoptic_head'):
    """As Detectron2's Mask2Former."""
    result = {'criterion.empty_weight': torch.ones(9)}
    for name, weight in weights.items():
        if name.startswith('backbone.'):
            result[name] = weight
            continue
        name = name.removeprefix(f'{head}.')
        for ours, theirs in DETECTRON2.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        if name.startswith('pixel_decoder.input_proj.'):
            name = name.replace('.conv.', '.0.').replace('.gn.', '.1.')
        if name.startswith('pixel_decoder.transformer.encoder.'):
            for ours, theirs in IN_ENCODER.items():
                name = name.replace(ours, theirs)
        if name.startswith('transformer_decoder.layers.'):
            _, _, layer, part = name.split('.', 3)
            (ours,) = (ours for ours in IN_DECODER if part.startswith(ours))
            kind, theirs = IN_DECODER[ours]
            name = f'transformer_{kind}_layers.{layer}.{theirs}{part.removeprefix(ours)}'
        part = '' if name.startswith('pixel_decoder.') else 'predictor.'
        result[f'sem_seg_head.{part}{name}'] = weight
    return result


def old_openmmlab(weights, **meta):
    """As mmdet 2.x and mmseg 0.x: other counters and ``meta``, the state of training."""
    kept = {name: weight for name, weight in weights.items() if not name.endswith('num_batches_tracked')}
    described = dict(epoch=36, config='model = dict()', env_info='', hook_msgs={}, **meta)
    return dict(meta=described, state_dict=kept, optimizer=dict(state={}, param_groups=[]), amp={})


# Running the tool.


def write(path, checkpoint):
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def convert(tmp_path, capsys):
    """Convert a checkpoint; returns what was written and the report."""

    def convert(checkpoint, *options):
        source = write(tmp_path / 'source.pth', checkpoint)
        result = tmp_path / f'result{len(list(tmp_path.iterdir()))}.pth'
        convert_checkpoint.main([str(source), str(result), *map(str, options)])
        assert {path.suffix for path in tmp_path.iterdir()} <= {'.pth', '.py'}
        return read_checkpoint(result), capsys.readouterr().out

    return convert


@pytest.fixture
def refused(tmp_path, capsys):
    """Check that a conversion ends with one message, exit code 2 and nothing written."""

    def refused(source, destination=tmp_path / 'result.pth', *options):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
        with pytest.raises(SystemExit) as exit_info:
            convert_checkpoint.main([str(source), str(destination), *map(str, options)])
        errors = capsys.readouterr().err.splitlines()
        messages = [line for line in errors if line.startswith('error: ')]
        assert exit_info.value.code == 2
        assert len(messages) == 1 and errors[-1] == messages[0] and '; ' in messages[0]
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == before
        return messages[0]

    return refused


def small(family=NAT, **settings):
    dilations = {} if family is NAT else dict(dilations=[[1], [1, 2], [1], [1]])
    return randomised(family(**(SMALL | dilations | settings)))


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith('running_var'):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                bound = 2 * (1 if tensor.dim() < 2 else tensor[0].numel()) ** -0.5
                tensor.uniform_(-bound, bound)
    return model.eval()


def loaded(model, weights):
    """A copy of the model with other weights, loaded strictly."""
    model = copy.deepcopy(model)
    for tensor in model.state_dict().values():
        tensor.zero_()
    model.load_state_dict(weights, strict=True)
    return model


def assert_same(converted, weights):
    assert converted.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.equal(converted[name], weight), name


def golden_model(name):
    case = GOLDEN[name]
    model = getattr(models, case['type'])(drop_path_rate=0.0, **case['args'])
    fill_parameters(model)
    return case, model.eval()


def assert_golden(case, backbone):
    """Compare with the golden vectors, level by level."""
    with torch.no_grad():
        outputs = backbone(drawn(case, 'input', case['input']))
    for i, output in enumerate(outputs):
        assert relative_error(output[:, ::4, ::2, ::2], expected(case)[f'level{i}']) <= 2e-4


def config(path, *lines):
    path.write_text('\n'.join(lines))
    return path


def whole_model(folder, base, framework, *lines, classes=None):
    """A model on a small backbone, its config and its weights drawn at random."""
    bases = [str(MODELS / base), f'{framework}::_base_/default_runtime.py'] if '::' not in base else [base]
    path = config(
        folder / 'model.py',
        f'_base_ = {bases!r}',
        f'custom_imports = dict(imports=[{framework + "_nat"!r}])',
        f'backbone = dict(_delete_=True, type="NAT", **{SMALL!r})',
        *lines,
    )
    return path, built(path)


def built(path):
    # Default initial values would take longer than all the rest.
    with torch.device('meta'):
        model = build_model(read_config(str(path)))
    return randomised(model.to_empty(device='cpu'))


# Backbones alone.


@pytest.mark.parametrize('name', ['nat_mini_small_input', 'dinat_mini_224x256', 'dinat_s_tiny_odd'])
def test_golden_classifier(name, convert):
    case, model = golden_model(name)
    weights = classifier(model.state_dict())
    converted, report = convert(weights)
    norms = {name for name in model.state_dict() if name.startswith('norm')}
    assert model.state_dict().keys() - converted['state_dict'].keys() == norms
    assert converted['meta'] == {}
    assert 'dropped: norm.weight, norm.bias, head.bias, head.weight' in report
    assert 'to initialize: norm0.weight, norm0.bias, norm1.weight' in report
    of_norms = {name: weight for name, weight in model.state_dict().items() if name in norms}
    assert_golden(case, loaded(model, converted['state_dict'] | of_norms))


def test_golden_hugging_face(convert):
    case, model = golden_model('nat_mini_small_input')
    converted, report = convert(hugging_face(model.state_dict(), ''))
    assert_same(converted['state_dict'], model.state_dict())
    assert 'fused 108 to 36' in report
    assert_golden(case, loaded(model, converted['state_dict']))


@pytest.mark.parametrize('prefix', ['nat.', 'dinat.'])
@pytest.mark.parametrize('layer_scale', [None, 1e-5])
def test_hugging_face_classifier(prefix, layer_scale, convert):
    weights = small(layer_scale=layer_scale).state_dict()
    converted, report = convert(hugging_face(weights, prefix))
    assert_same(converted['state_dict'], {n: w for n, w in weights.items() if not n.startswith('norm')})
    assert f'dropped: {prefix}layernorm.weight, classifier.weight' in report
    assert ('split 5 to 10: layer_scale_parameters' in report) is (layer_scale is not None)
    assert f'renamed 10, first: {prefix}encoder.levels.0.layers.0.layernorm_before.weight -> ' in report


def test_hugging_face_safetensors(tmp_path, capsys):
    safetensors = pytest.importorskip('safetensors.torch')
    weights = small().state_dict()
    source, result = tmp_path / 'model.safetensors', tmp_path / 'result.pth'
    safetensors.save_file(hugging_face(weights, ''), source)
    convert_checkpoint.main([str(source), str(result)])
    assert_same(read_checkpoint(result)['state_dict'], weights)


@pytest.mark.parametrize('under', [None, 'state_dict', 'model', 'state_dict_ema'])
@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'module.backbone.'])
def test_where_weights_are(under, prefix, convert):
    weights = small(layer_scale=1e-5, qkv_bias=False).state_dict()
    checkpoint = {prefix + name: weight for name, weight in weights.items()}
    checkpoint = checkpoint if under is None else {under: checkpoint, 'epoch': 300, 'arch': 'nat'}
    converted, report = convert(checkpoint)
    assert_same(converted['state_dict'], weights)
    assert f'other entries not copied: {"nothing" if under is None else "epoch, arch"}' in report
    assert 'layer_scale=1e-05, qkv_bias=False' in report


def test_averaged_weights_come_first(convert):
    weights = small().state_dict()
    other = {name: weight + 1 for name, weight in weights.items()}
    converted, report = convert(dict(state_dict=other, state_dict_ema=weights))
    assert_same(converted['state_dict'], weights)
    assert 'other entries not copied: state_dict' in report


def test_arrays(convert):
    weights = small().state_dict()
    converted, _ = convert(dict(model={name: weight.numpy() for name, weight in weights.items()}))
    assert_same(converted['state_dict'], weights)


def test_backbone_of_two_levels(convert):
    settings = dict(depths=[1, 1], num_heads=[1, 2], out_indices=(0, 1))
    weights = randomised(NAT(**(SMALL | settings))).state_dict()
    assert_same(convert(weights)[0]['state_dict'], weights)


@pytest.mark.parametrize('family', [NAT, DiNAT_s])
def test_converted_weights_pass_unchanged_and_initialize(family, convert, tmp_path):
    source = small(family)
    first, _ = convert(source.state_dict())
    second, report = convert(first)
    assert_same(second['state_dict'], first['state_dict'])
    assert second['meta'] == first['meta'] == {}
    assert 'renamed: nothing\ndropped: nothing' in report
    path = str(write(tmp_path / 'weights.pth', second))
    target = small(family, init_cfg=dict(type='Pretrained', checkpoint=path))
    target.init_weights()
    assert_same(target.state_dict(), source.state_dict())


@pytest.mark.parametrize('family', [NAT, DiNAT_s])
@pytest.mark.parametrize(
    'settings',
    [{}, dict(mlp_ratio=2.5, kernel_size=5, layer_scale=1e-5), dict(depths=[1, 1], num_heads=[4, 2])],
)
def test_settings_are_inferred(family, settings):
    settings = dict(SMALL, **settings)
    out = dict(out_indices=range(len(settings['depths'])))
    model = family(dilations=[[1] * depth for depth in settings['depths']], **settings, **out)
    inferred = backbone_settings(model.state_dict(), '', 'x.pth')
    assert inferred == dict(type=family.__name__, **settings)


def test_backbone_of_a_config(convert, tmp_path):
    lines = 'model = dict(backbone=backbone | dict(out_indices=(1, 2)), neck=dict(in_channels=[64, 128]))'
    path, _ = whole_model(tmp_path, 'mask-rcnn_nat_fpn.py', 'mmdet', lines)
    weights = small().state_dict()
    converted, report = convert(weights, '--config', path)
    unused = {f'norm{level}.{leaf}' for level in (0, 3) for leaf in ('weight', 'bias')}
    assert weights.keys() - converted['state_dict'].keys() == unused
    assert 'dropped: norm0.weight, norm0.bias, norm3.weight, norm3.bias' in report


# Detectors and segmentors.


@pytest.mark.parametrize(
    ('base', 'framework', 'lines'),
    [
        (
            'mask-rcnn_nat_fpn.py',
            'mmdet',
            'model = dict(backbone=backbone, neck=dict(in_channels=[32, 64, 128, 256]), roi_head=dict('
            'bbox_head=dict(num_classes=7), mask_head=dict(num_classes=7)))',
        ),
        (
            'cascade-mask-rcnn_nat_fpn.py',
            'mmdet',
            'model = dict(backbone=backbone, neck=dict(in_channels=[32, 64, 128, 256]))',
        ),
        (
            'upernet_nat.py',
            'mmseg',
            'model = dict(backbone=backbone, decode_head=dict(in_channels=[32, 64, 128, 256]),'
            'auxiliary_head=dict(in_channels=128), data_preprocessor=dict(size=(64, 64)))',
        ),
    ],
    ids=['mask-rcnn', 'cascade', 'upernet'],
)
def test_old_openmmlab(base, framework, lines, convert, tmp_path):
    _, model = whole_model(tmp_path, base, framework, lines)
    meta = dict(CLASSES=('cat', 'dog'), PALETTE=np.array([[1, 2, 3], [4, 5, 6]]))
    converted, report = convert(old_openmmlab(model.state_dict(), **meta))
    dataset_meta = dict(classes=('cat', 'dog'), palette=[[1, 2, 3], [4, 5, 6]])
    assert converted['meta'] == dict(dataset_meta=dataset_meta)
    assert 'renamed: nothing\ndropped: nothing' in report and 'names of classes: 2' in report
    assert 'other entries not copied: optimizer, amp' in report
    images = torch.randn(1, 3, 64, 64)
    results = [outputs(each, images) for each in (model, loaded(model, converted['state_dict']))]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def outputs(model, images):
    """What every part of a detector or segmentor with weights gives."""
    features = model.extract_feat(images)
    if not hasattr(model, 'roi_head'):
        return [model.decode_head(features), model.auxiliary_head(features)]
    regions = torch.randn(3, 256, 7, 7)
    torch.manual_seed(1)
    results = [*features, *(x for level in model.rpn_head(features) for x in level)]
    for head in (model.roi_head.bbox_head, model.roi_head.mask_head):
        for stage in head if isinstance(head, torch.nn.ModuleList) else [head]:
            result = stage(torch.randn_like(regions))
            results.extend(result if isinstance(result, tuple) else [result])
    return results


# Few channels, where the heads do not matter.
SMALL_HEAD = 'roi_head=dict(bbox_head=dict(fc_out_channels=8), mask_head=dict(num_convs=0))'


def test_golden_detector(convert, tmp_path):
    path, detector = whole_model(
        tmp_path,
        'mask-rcnn_nat_fpn.py',
        'mmdet',
        'model = dict(backbone=dict(_delete_=True, type="NAT", arch="mini"),'
        f'neck=dict(in_channels=[64, 128, 256, 512]), {SMALL_HEAD})',
    )
    case, model = golden_model('nat_mini_small_input')
    weights = detector.state_dict()
    weights.update({f'backbone.{name}': weight for name, weight in model.state_dict().items()})
    converted, _ = convert(old_openmmlab(weights, CLASSES=None), '--config', path)
    assert converted['meta'] == {}
    assert_golden(case, loaded(detector, converted['state_dict']).backbone)
    again, report = convert(converted, '--config', path)
    assert_same(again['state_dict'], converted['state_dict'])
    assert f'fits the model of {path}' in report


def test_the_frameworks_name_the_classes(convert, tmp_path):
    from mmdet.apis import init_detector
    from mmseg.apis import init_model

    path, model = whole_model(
        tmp_path,
        'mask-rcnn_nat_fpn.py',
        'mmdet',
        f'model = dict(backbone=backbone, neck=dict(in_channels=[32, 64, 128, 256]), {SMALL_HEAD})',
        'test_dataloader = dict(dataset=dict(type="CocoDataset", metainfo=dict(classes=("a", "b"))))',
    )
    classes = [f'class {i}' for i in range(80)]
    converted, _ = convert(old_openmmlab(model.state_dict(), CLASSES=classes), '--config', path)
    detector = str(write(tmp_path / 'detector.pth', converted))
    assert init_detector(str(path), detector, device='cpu').dataset_meta['classes'] == classes
    path, model = whole_model(
        tmp_path,
        'upernet_nat.py',
        'mmseg',
        'model = dict(backbone=backbone, auxiliary_head=None,'
        'decode_head=dict(in_channels=[32, 64, 128, 256], channels=16, num_classes=3))',
    )
    meta = dict(classes=('x', 'y', 'z'), palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]])
    upper = {name.upper(): value for name, value in meta.items()}
    converted, _ = convert(old_openmmlab(model.state_dict(), **upper), '--config', path)
    segmentor = str(write(tmp_path / 'segmentor.pth', converted))
    assert init_model(str(path), segmentor, device='cpu').dataset_meta == meta


# Mask2Former.


def mask2former(folder, framework, **head):
    name = dict(mmdet='panoptic_head', mmseg='decode_head')[framework]
    head = dict(in_channels=[32, 64, 128, 256], **head)
    lines = (
        f'model = dict(backbone=backbone, {name}=dict({", ".join(f"{k}={v}" for k, v in head.items())}))'
    )
    path, model = whole_model(folder, MASK2FORMER[framework], framework, lines)
    return path, model, name


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_mask2former(framework, convert, tmp_path):
    path, model, head = mask2former(tmp_path, framework, num_queries=20)
    weights = detectron2(model.state_dict(), head)
    checkpoint = dict(model={n: w.numpy() for n, w in weights.items()}, matching_heuristics=True)
    converted, report = convert(checkpoint, *(['--config', path] if framework == 'mmseg' else []))
    assert_same(converted['state_dict'], model.state_dict())
    assert 'dropped: criterion.empty_weight' in report and 'reordered' not in report
    assert f'sem_seg_head.predictor.class_embed.weight -> {head}.cls_embed.weight' in report
    loaded(model, converted['state_dict'])
    if framework == 'mmdet':
        again, report = convert(converted)
        assert_same(again['state_dict'], model.state_dict())
        assert 'renamed: nothing\ndropped: nothing' in report


def test_golden_mask2former(convert, tmp_path):
    path, model, _ = mask2former(tmp_path, 'mmdet')
    case, backbone = golden_model('dinat_mini_224x256')
    text = path.read_text().replace('[32, 64, 128, 256]', '[64, 128, 256, 512]')
    arguments = dict(case['args'], type='DiNAT', _delete_=True)
    path.write_text(text.replace('model = dict(backbone=backbone', f'model = dict(backbone={arguments!r}'))
    model = built(path)
    model.backbone.load_state_dict(backbone.state_dict())
    converted, _ = convert(detectron2(model.state_dict()))
    assert_golden(case, loaded(model, converted['state_dict']).backbone)


def test_panoptic_classes_are_reordered(convert, refused, tmp_path):
    path, model, _ = mask2former(tmp_path, 'mmdet', num_things_classes=100, num_stuff_classes=50)
    weights = detectron2(model.state_dict())
    order = [*(i for i in range(150) if i not in _STUFF[150]), *_STUFF[150], 150]
    for options in ([], ['--config', path]):
        converted, report = convert(weights, *options)
        for leaf in ('weight', 'bias'):
            source = weights[f'sem_seg_head.predictor.class_embed.{leaf}']
            assert torch.equal(converted['state_dict'][f'panoptic_head.cls_embed.{leaf}'], source[order])
        assert '150 classes reordered, 100 things, then 50 stuff' in report
    options = (
        'num_things_classes=100, num_stuff_classes=50',
        'num_things_classes=150, num_stuff_classes=0',
    )
    path.write_text(path.read_text().replace(*options))
    assert 'reordered' not in convert(weights, '--config', path)[1]
    del weights['sem_seg_head.predictor.class_embed.bias']
    source = write(tmp_path / 'source.pth', dict(model=weights))
    assert ': 1 missing (panoptic_head.cls_embed.bias); ' in refused(source)


def test_stuff_is_what_the_frameworks_say():
    from mmdet.datasets import ADE20KInstanceDataset, CityscapesDataset, CocoPanopticDataset
    from mmseg.datasets import ADE20KDataset
    from mmseg.datasets import CityscapesDataset as CityscapesSegmentation

    things = {
        150: (ADE20KDataset.METAINFO['classes'], ADE20KInstanceDataset.METAINFO['classes']),
        19: (CityscapesSegmentation.METAINFO['classes'], CityscapesDataset.METAINFO['classes']),
        133: (CocoPanopticDataset.METAINFO['classes'], CocoPanopticDataset.METAINFO['thing_classes']),
    }
    assert things.keys() == _STUFF.keys()
    for count, (classes, of_things) in things.items():
        names = [name.strip() for name in classes]
        assert [name for i, name in enumerate(names) if i not in _STUFF[count]] == list(of_things)


# Refused.


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_bad_files(refused, tmp_path):
    path = tmp_path / 'source.pth'
    assert f'{path} does not exist; check the path' in refused(path)
    write(path, small().state_dict())
    data = path.read_bytes()
    for content in (b'', b'text', data[: len(data) // 2]):
        path.write_bytes(content)
        assert 'cut short or not a torch checkpoint' in refused(path)
    write(path, dict(epoch=3))
    assert 'holds no state dict' in refused(path)


def test_bad_safetensors(refused, tmp_path):
    pytest.importorskip('safetensors')
    path = tmp_path / 'model.safetensors'
    assert f'{path} does not exist; check the path' in refused(path)
    path.write_bytes(b'no safetensors')
    assert 'cut short or not safetensors; copy or download it again' in refused(path)


def test_malicious_files_are_not_executed(refused, tmp_path):
    victim = tmp_path / 'executed'
    path = write(tmp_path / 'evil.pth', dict(small().state_dict(), meta=Payload(victim)))
    message = refused(path)
    assert 'could run code when loaded' in message and 'torch.save(' in message
    path = tmp_path / 'evil.pkl'
    for content in (Payload(victim), dict(model={'x': np.ones(2)})):
        path.write_bytes(pickle.dumps(content))
        message = refused(path)
        assert 'is a plain pickle, which can run code' in message and 'torch.save(pickle.load(' in message
    assert not victim.exists()


def test_safetensors_that_is_not_installed(refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    (tmp_path / 'model.safetensors').write_bytes(b'')
    assert 'run `pip install safetensors`' in refused(tmp_path / 'model.safetensors')


def test_unknown_layout(refused, tmp_path):
    swin = {f'layers.0.blocks.{i}.attn.relative_position_bias_table': torch.ones(2) for i in range(4)}
    message = refused(write(tmp_path / 'source.pth', swin))
    assert 'layers.0.blocks.0.attn.relative_position_bias_table' in message and 'and 1 more' in message
    for name in ('Hugging Face', 'Detectron2', 'mmdet 2.x, mmseg 0.x', 'or a classifier or backbone'):
        assert name in message


def test_weights_that_do_not_fit(refused, tmp_path):
    path, weights = tmp_path / 'source.pth', small().state_dict()
    lacking = {n: w for n, w in weights.items() if 'blocks.1.mlp' not in n}
    message = refused(write(path, lacking))
    assert 'does not fit NAT or DiNAT (embed_dim=32' in message
    assert '4 missing (levels.1.blocks.1.mlp.fc1.weight, ' in message and 'and 1 more)' in message
    shape = weights | {'levels.0.downsample.norm.weight': torch.ones(5)}
    assert '1 of another shape (levels.0.downsample.norm.weight is (5,) in the file and (64,)' in refused(
        write(path, shape)
    )
    assert '1 unknown to the model (extra.weight)' in refused(
        write(path, weights | {'extra.weight': torch.ones(2)})
    )
    lacking = {n: w for n, w in weights.items() if 'levels.2' not in n}
    assert 'has no levels.2.blocks.*.attn.rpb of 3 dimensions' in refused(write(path, lacking))
    heads = {'levels.0.blocks.0.attn.rpb': torch.ones(3, 5, 5)}
    assert 'does not exist: dim must be a positive multiple of num_heads' in refused(
        write(path, weights | heads)
    )
    theirs = hugging_face(weights, 'nat.')
    del theirs['nat.encoder.levels.0.layers.0.attention.self.key.weight']
    message = refused(write(path, theirs))
    assert '1 missing (levels.0.blocks.0.attn.qkv.weight)' in message
    assert '2 unknown to the model (nat.encoder.levels.0.layers.0.attention.self.query.weight' in message


def test_detectors_that_do_not_fit(refused, tmp_path):
    lines = 'model = dict(backbone=backbone, neck=dict(in_channels=[32, 64, 128, 256]))'
    path, model = whole_model(tmp_path, 'mask-rcnn_nat_fpn.py', 'mmdet', lines)
    weights, source = model.state_dict(), tmp_path / 'source.pth'
    lacking = {n: w for n, w in weights.items() if 'rpn_head' not in n and 'norm0' not in n}
    message = refused(write(source, lacking))
    assert 'Mask R-CNN on NAT or DiNAT' in message
    assert '8 missing (backbone.norm0.weight, backbone.norm0.bias, rpn_head.rpn_conv.weight' in message
    faster = {n: w for n, w in weights.items() if 'mask_head' not in n}
    assert 'is of another model than' in refused(write(source, faster))
    wider = path.with_name('wider.py')
    wider.write_text(path.read_text().replace("'embed_dim': 32", "'embed_dim': 64"))
    message = refused(write(source, weights), tmp_path / 'result.pth', '--config', wider)
    assert f'does not fit the model of {wider}: ' in message and 'of another shape (backbone.' in message
    message = refused(write(source, small().state_dict()), tmp_path / 'result.pth', '--config', wider)
    assert f'does not fit the backbone of {wider}: ' in message
    assert 'absent.py does not exist' in refused(source, tmp_path / 'r.pth', '--config', 'absent.py')


def test_destinations(refused, tmp_path, capsys):
    source = write(tmp_path / 'source.pth', small().state_dict())
    missing = tmp_path / 'missing'
    assert f'folder {missing} of {missing}/r.pth does not exist; make it' in refused(
        source, missing / 'r.pth'
    )
    assert 'is the checkpoint to convert' in refused(source, source, '--force')
    (tmp_path / 'link.pth').symlink_to(source)
    assert 'is the checkpoint to convert' in refused(source, tmp_path / 'link.pth', '--force')
    config = tmp_path / 'config.py'
    config.touch()
    options = ('--force', '--config', config)
    assert f'{config} would overwrite the input {config}; name' in refused(source, config, *options)
    config.unlink()
    (tmp_path / 'folder').mkdir()
    assert 'is a folder' in refused(source, tmp_path / 'folder')
    existing = tmp_path / 'existing.pth'
    existing.write_bytes(b'precious')
    assert 'exists; name another file to write, or replace it with --force' in refused(source, existing)
    source = source.rename(tmp_path / 'existing.pth.tmp')
    convert_checkpoint.main([str(source), str(existing), '--force'])
    assert source.is_file() and len(list(tmp_path.iterdir())) == 4
    assert_same(read_checkpoint(existing)['state_dict'], small().state_dict())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, capsys):
    source = write(tmp_path / 'source.pth', small().state_dict())
    existing = tmp_path / 'existing.pth'
    existing.write_bytes(b'precious')

    def fail(checkpoint, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(SystemExit) as exit_info:
        convert_checkpoint.main([str(source), str(existing), '--force'])
    assert exit_info.value.code == 2
    assert 'cannot be written: No space left on device; ' in capsys.readouterr().err
    assert existing.read_bytes() == b'precious'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['existing.pth', 'source.pth']
