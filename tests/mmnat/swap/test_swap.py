"""Swapping NAT into configs of mmdet and mmseg: what follows the backbone, what is refused, the command."""

import json
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from benchmarks.swaps import walk
from benchmarks.swaps.examine import Outcome
from benchmarks.swaps.rows import FAILED, RAN, RAN_AFTER_MENDING, Row, read_rows, totals, write_rows
from benchmarks.swaps.workers import examine_all
from mmdet_nat.swap import MMDET
from mmdet_nat.swap import swap_backbone as swap_detector
from mmnat.commands import swap as command
from mmnat.commands import train
from mmnat.config import read_config
from mmnat.data.scenes import OBJECT_CLASSES, SEGMENT_CLASSES, SEGMENT_PALETTE, make_demo_data
from mmnat.errors import UserError
from mmnat.models import NAT
from mmnat.swap import NAMES, SwapRefused, swap
from mmnat.swap.check import upstream
from mmnat.swap.check.running import DoesNotRun, check_runs
from mmnat.swap.levels import assign
from mmnat.swap.probe import FeatureMap
from mmnat.swap.statistics import MEAN, STD
from mmnat.swap.variants import backbone_config, build
from mmnat.swap.written_config import write_config
from mmseg_nat.swap import MMSEG
from mmseg_nat.swap import swap_backbone as swap_segmentor

ROOT = Path(__file__).parents[3]
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
PSPNET = 'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py'
SSD = 'mmdet::ssd/ssd300_coco.py'
SWIN = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
TRACKER = 'strongsort_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py'
STRONGSORT = f'mmdet::strongsort/{TRACKER}'


def read(config):
    return read_config(config)


def swapped(config, backbone='nat_mini', **options):
    framework = MMDET if config.startswith('mmdet') else MMSEG
    return swap(read(config), framework, backbone, **options)


# Variants

PUBLISHED_CONFIGS = [
    path
    for family in ('nat', 'dinat', 'dinat_s')
    for path in sorted((ROOT / 'configs' / family).glob('*.py'))
    if not path.name.startswith('cascade') or 'base' in path.name or 'large' in path.name
]


@pytest.mark.parametrize('path', PUBLISHED_CONFIGS, ids=lambda path: path.stem)
def test_variants_are_those_of_the_published_configs(path):
    cfg = read_config(str(path))
    backbone = dict(cfg.model.backbone)
    name = f'{backbone["type"].lower()}_{backbone["arch"]}'
    task = 'segmentation' if cfg.default_scope == 'mmseg' else 'detection'
    expected = backbone_config(name, task)
    for config in (backbone, expected):
        config.pop('out_indices', None)
    if backbone['arch'] == 'large':  # the published Large start from ImageNet-22k weights
        del backbone['init_cfg'], expected['init_cfg']
    assert backbone == expected


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
@pytest.mark.parametrize('name', NAMES)
def test_every_variant_builds(name, task):
    config = backbone_config(name, task)
    assert len(build(config).num_features) == 4
    assert config['init_cfg']['checkpoint'].startswith('https://')
    assert 'init_cfg' not in backbone_config(name, task, pretrained=None)
    assert backbone_config(name, task, 'mine.pth')['init_cfg']['checkpoint'] == 'mine.pth'


def test_unknown_variants_name_the_nearest():
    with pytest.raises(SwapRefused, match=r"'nat-tinny' is unknown \(nearest: nat_tiny"):
        backbone_config('nat-tinny', 'detection')
    with pytest.raises(SwapRefused, match=r"backbone.type must be one of NAT, DiNAT, DiNAT_s.*'Swin'"):
        backbone_config(dict(type='Swin'), 'detection')
    with pytest.raises(SwapRefused, match='must be a name or a dict'):
        backbone_config(3, 'detection')
    with pytest.raises(SwapRefused, match='DiNAT cannot be built'):
        swapped(RETINANET, dict(type='DiNAT', arch='tiny'))


# Levels


@pytest.mark.parametrize(
    ('strides', 'levels'),
    [
        ((4, 8, 16, 32), [0, 1, 2, 3]),
        ((8, 16, 32), [1, 2, 3]),
        ((4, 8, 8, 8), [0, 1, 2, 3]),
        ((16, 16, 16, 16), [0, 1, 2, 3]),
        ((2, 4, 8), [0, 1, 3]),
        ((16,), [3]),
    ],
)
def test_levels_go_by_stride_then_by_depth(strides, levels):
    assert assign([FeatureMap(8, stride) for stride in strides], single_map_uses_coarsest=True) == levels


def test_a_single_map_keeps_its_stride_where_heads_count_on_it():
    assert assign([FeatureMap(8, 16)], single_map_uses_coarsest=False) == [2]


# What follows


def test_a_dense_detector():
    before = read(RETINANET)
    cfg, report = swapped(RETINANET, 'nat_tiny')
    assert before._cfg_dict == read(RETINANET)._cfg_dict, 'the given config was changed'
    assert cfg.model.backbone.type == 'NAT' and cfg.model.backbone.out_indices == [0, 1, 2, 3]
    assert cfg.model.neck.in_channels == [64, 128, 256, 512]
    assert cfg.model.bbox_head == before.model.bbox_head
    assert cfg.custom_imports.imports == ['mmdet_nat']
    fields = {change.field for change in report.changes}
    assert {'model.backbone', 'model.neck.in_channels', 'model.backbone.frozen_stages'} <= fields
    assert all(change.why for change in report.changes)
    assert 'model.neck.in_channels: [256, 512, 1024, 2048] -> [64, 128, 256, 512]' in str(report)


def test_a_dilated_segmentor():
    cfg, report = swapped('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py')
    head, auxiliary = cfg.model.decode_head, cfg.model.auxiliary_head
    assert (head.in_channels, head.in_index, head.c1_in_channels) == (512, 3, 64)
    assert (auxiliary.in_channels, auxiliary.in_index) == (256, 2)
    assert head.dilations == (1, 3, 6, 9) or head.dilations == [1, 3, 6, 9]
    assert 'model.decode_head reads a map of stride 32 instead of 8' in report.notes
    assert 'pretrained' not in cfg.model


def test_levels_with_the_channels_of_the_present_ones():
    """ResNet-18 has NAT-Mini's channels: where strides differ, too, no field of a head changes."""
    cfg, report = swapped('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    assert cfg.model.decode_head.in_channels == 512 and cfg.model.auxiliary_head.in_channels == 256
    assert 'model.decode_head reads a map of stride 32 instead of 8' in report.notes


def test_heads_of_a_network_with_its_own_decoder_get_a_pyramid():
    cfg, _ = swapped('mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py')
    assert cfg.model.neck.type == 'FPN' and cfg.model.neck.in_channels == [64, 128, 256, 512]
    assert cfg.model.decode_head.in_index == 0 and cfg.model.decode_head.in_channels == 256


@pytest.mark.parametrize(
    ('config', 'neck'),
    [
        ('mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py', dict(type='FPN', out_channels=256)),
        ('mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py', dict(type='FPN', num_outs=5)),
        ('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py', dict(in_channels=[512, 256, 128])),
        ('mmdet::ssd/ssd300_coco.py', dict(out_channels=(128, 256, 512, 256, 256, 256))),
        ('mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', dict(in_channels=512)),
        ('mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py', dict(type='CTResNetNeck')),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', dict(in_channels=[512])),
        ('mmseg::vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py', dict(scales=[1.0] * 4)),
        (
            'mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py',
            dict(in_channels=(128, 256, 512)),
        ),
    ],
)
def test_necks(config, neck):
    cfg, _ = swapped(config)
    assert {key: cfg.model.neck[key] for key in neck} == neck


def test_levels_beyond_ours_are_convolved():
    cfg, _ = swapped('mmdet::rtmdet/rtmdet_x_p6_4xb8-300e_coco.py')
    mapper, pafpn = cfg.model.neck
    assert mapper.type == 'ChannelMapper' and mapper.num_outs == 4
    assert pafpn.in_channels == [mapper.out_channels] * 4


def test_a_pyramid_for_plain_transformers_goes():
    cfg, _ = swapped('mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py')
    assert 'neck' not in cfg.model and cfg.model.decode_head.in_channels == [64, 128, 256, 512]


def test_layer_decay_stays():
    cfg, _ = swapped('mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py')
    wrapper = cfg.optim_wrapper
    assert wrapper.constructor == 'NATLayerDecayOptimizerConstructor'
    assert wrapper.paramwise_cfg.decay_rate == 0.65
    assert not {'num_layers', 'layer_decay_rate'} & {*wrapper.paramwise_cfg}


def test_wrapped_detectors():
    teacher = swapped('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')[0]
    assert teacher.model.detector.backbone.type == 'NAT'
    assert teacher.model.data_preprocessor.data_preprocessor.mean == MEAN
    cfg, report = swapped(STRONGSORT)
    assert cfg.model.reid.backbone.type == 'mmpretrain.ResNet'
    assert 'model.reid keeps its own backbone, and gets images normalized for ours' in report.notes
    distilled = swapped('mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py')[0]
    assert distilled.model.teacher_config.model.backbone.depth == 101


# Statistics, weights


def test_statistics_of_caffe_configs():
    cfg, report = swapped('mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py')
    preprocessor = cfg.model.data_preprocessor
    assert (preprocessor.mean, preprocessor.std, preprocessor.bgr_to_rgb) == (MEAN, STD, True)
    assert preprocessor.pad_size_divisor == 32
    assert 'model.data_preprocessor.bgr_to_rgb' in {change.field for change in report.changes}


def test_statistics_of_pipelines():
    cfg = read(RETINANET)
    cfg.train_pipeline = [dict(type='Expand', mean=[1, 2, 3], to_rgb=False, ratio_range=(1, 2))]
    new, _ = swap(cfg, MMDET, 'nat_mini')
    assert new.train_pipeline == [dict(type='Expand', mean=MEAN, to_rgb=True, ratio_range=(1, 2))]


def test_images_of_six_channels_keep_theirs():
    cfg, report = swapped('mmseg::swin/swin-tiny-patch4-window7_upernet_1xb8-20k_levir-256x256.py')
    assert cfg.model.backbone.in_channels == 6 and 'init_cfg' not in cfg.model.backbone
    assert len(cfg.model.data_preprocessor.mean) == 6
    assert any('starts from scratch' in note for note in report.notes)


def test_weights_of_the_old_model_go():
    cfg = read(RETINANET)
    cfg.load_from, cfg.resume = 'retinanet.pth', True
    new, report = swap(cfg, MMDET, 'nat_mini')
    assert new.load_from is None and new.resume is False
    assert {'load_from', 'resume'} <= {change.field for change in report.changes}


def test_statistics_stay_where_nothing_was_pretrained():
    cfg = read('mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py')
    new, report = swap(cfg, MMDET, 'nat_mini', pretrained=None)
    assert new.model.data_preprocessor == cfg.model.data_preprocessor
    assert any('statistics and order of channels stay' in note for note in report.notes)
    cfg.model.backbone.in_channels = 6
    for backbone in ('nat_mini', dict(type='NAT', arch='mini', init_cfg=dict(checkpoint='mine.pth'))):
        new, _ = swap(cfg, MMDET, backbone, pretrained='mine.pth')
        assert new.model.backbone.init_cfg.checkpoint == 'mine.pth', 'weights that are given are to fit'
    new, report = swap(cfg, MMDET, 'nat_mini')
    assert 'init_cfg' not in new.model.backbone and new.model.backbone.in_channels == 6
    assert any('published weights take images of 3 channels' in note for note in report.notes)


def test_settings_of_training_are_kept():
    cfg = read(RETINANET)
    cfg.model.backbone.update(with_cp=True, frozen_stages=4)
    new, _ = swap(cfg, MMDET, 'nat_mini')
    assert new.model.backbone.with_cp is True and new.model.backbone.frozen_stages == 4
    check_runs(new, MMDET.registry)


def test_what_is_frozen_as_a_whole_is_found_out():
    """Four of Darknet's six parts are not all; a backbone without weights is trained."""
    cfg = read('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py')
    cfg.model.backbone.frozen_stages = 4
    assert 'frozen_stages' not in swap(cfg, MMDET, 'nat_mini')[0].model.backbone
    cfg = read(RETINANET)
    cfg.model.backbone.frozen_stages = 4
    new, report = swap(cfg, MMDET, 'nat_mini', pretrained=None)
    assert 'frozen_stages' not in new.model.backbone
    assert any(c.field == 'model.backbone.frozen_stages' and c.old == 4 for c in report.changes)
    new, report = swap(cfg, MMDET, dict(type='NAT', arch='mini', frozen_stages=2))
    assert any(c.field == 'model.backbone.frozen_stages' and c.new == 2 for c in report.changes)


def test_a_kept_work_dir_is_pointed_at():
    cfg = read(RETINANET)
    cfg.work_dir = 'work_dirs/old'
    new, report = swap(cfg, MMDET, 'nat_mini')
    assert new.work_dir == 'work_dirs/old' and any(
        'work_dir = work_dirs/old' in note for note in report.notes
    )


def test_regions_follow_the_strides():
    cfg = read('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    cfg.model.rpn_head.anchor_generator.strides = [4, 8, 16, 16, 32]
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        cfg.model.roi_head[name].featmap_strides = [4, 8, 16, 16]
    model = swap(cfg, MMDET, 'nat_mini')[0].model
    assert model.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        assert model.roi_head[name].featmap_strides == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ('config', 'key', 'value'),
    [
        ('fcn/fcn-d6_r50-d16_4xb2-80k_cityscapes-512x1024.py', 'dilation', 3),
        ('isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512.py', 'down_factor', (2, 2)),
    ],
)
def test_heads_reach_as_far_in_pixels(config, key, value):
    assert swapped(f'mmseg::{config}')[0].model.decode_head[key] == value


def test_lists_of_necks_stay_lists():
    cfg = read('mmdet::rtmdet/rtmdet_x_p6_4xb8-300e_coco.py')
    cfg.model.neck = [cfg.model.neck, dict(type='BFP', in_channels=320, num_levels=4, refine_level=2)]
    assert [neck.type for neck in swap(cfg, MMDET, 'nat_mini')[0].model.neck] == [
        'ChannelMapper',
        'CSPNeXtPAFPN',
        'BFP',
    ]


# Optimizer


def test_optimizer_kept_and_published():
    kept, report = swapped(RETINANET)
    assert kept.optim_wrapper.optimizer == read(RETINANET).optim_wrapper.optimizer
    assert any('is kept' in note for note in report.notes)
    for config, lr, decay in ((RETINANET, 1e-4, 0.05), (PSPNET, 6e-5, 0.01)):
        optimizer = swapped(config, optimizer='nat')[0].optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, decay)
    with pytest.raises(SwapRefused, match="optimizer must be one of 'keep', 'nat', got 'adam'"):
        swapped(RETINANET, optimizer='adam')


@pytest.mark.parametrize(
    'config',
    [PSPNET, RETINANET, 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'],
    ids=lambda name: name[:12],
)
def test_the_published_optimizer_decays_to_less_than_it_begins_with(config):
    """RTMDet's heads share parameters, too, which its config has to say."""
    cfg, report = swapped(config, optimizer='nat', pretrained=None)
    ends = [s.eta_min for s in cfg.param_scheduler if 'eta_min' in s]
    assert all(end < cfg.optim_wrapper.optimizer.lr for end in ends)
    assert len(ends) == sum('eta_min' in change.field for change in report.changes)
    check_runs(cfg, MMDET.registry if config.startswith('mmdet') else MMSEG.registry)


def test_the_optimizer_takes_shared_parameters():
    cfg = read('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    del cfg.optim_wrapper['paramwise_cfg']
    new, _ = swap(cfg, MMDET, 'nat_mini', pretrained=None)
    assert new.optim_wrapper.paramwise_cfg.bypass_duplicate is True
    check_runs(new, MMDET.registry)
    new.optim_wrapper.paramwise_cfg.bypass_duplicate = False
    with pytest.raises(DoesNotRun, match='more than one parameter group'):
        check_runs(new, MMDET.registry)


def test_optimizers_without_weight_decay():
    cfg = read(RETINANET)
    del cfg.optim_wrapper.optimizer['weight_decay']
    new, _ = swap(cfg, MMDET, 'nat_mini', pretrained=None)
    assert 'paramwise_cfg' not in new.optim_wrapper
    check_runs(new, MMDET.registry)
    cfg.optim_wrapper.optimizer.type = 'AdamW'
    new, _ = swap(cfg, MMDET, 'nat_mini', pretrained=None)
    assert (
        new.optim_wrapper.optimizer.weight_decay
        == torch.optim.AdamW([torch.ones(1)]).defaults['weight_decay']
    )
    assert new.optim_wrapper.paramwise_cfg.custom_keys.rpb.decay_mult == 0


def test_keys_that_may_be_of_heads_stay():
    cfg = read(PSPNET)
    keys = {'bn': dict(decay_mult=0), 'backbone.layer4': dict(lr_mult=2), 'backbone.norm': dict(lr_mult=3)}
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=keys)
    new, _ = swap(cfg, MMSEG, 'nat_mini', pretrained=None)
    assert set(new.optim_wrapper.paramwise_cfg.custom_keys) == {'bn', 'backbone.norm', 'norm', 'rpb'}


def test_backbones_inside_wrappers_do_not_decay_either():
    cfg = read('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={'student.backbone': dict(lr_mult=0.1)})
    keys = swap(cfg, MMDET, 'nat_mini', pretrained=None)[0].optim_wrapper.paramwise_cfg.custom_keys
    assert keys['student.backbone.levels.0.blocks.0.norm1'] == dict(lr_mult=0.1, decay_mult=0)
    assert keys['student.backbone'] == dict(lr_mult=0.1) and 'norm' not in keys


@pytest.mark.parametrize('config', [RETINANET, 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'])
def test_norms_and_position_biases_do_not_decay(config):
    """With and without a rate of its own for the backbone, which would come first."""
    cfg, _ = swapped(config, pretrained=None)
    model = NAT('mini')
    model.backbone = NAT('mini', out_indices=tuple(cfg.model.backbone.out_indices))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    whole = cfg.optim_wrapper.paramwise_cfg.custom_keys.get('backbone', {})
    for group in wrapper.optimizer.param_groups:
        for name in (names[id(p)] for p in group['params']):
            if name.startswith('backbone.'):
                assert group['lr'] == pytest.approx(
                    cfg.optim_wrapper.optimizer.lr * whole.get('lr_mult', 1)
                )
                assert (group['weight_decay'] == 0) == ('norm' in name or name.endswith('rpb')), name


def test_keys_of_the_old_backbone_go():
    cfg, report = swapped(
        'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
    )
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert set(keys) == {'norm', 'rpb'}
    assert any('relative_position_bias_table' in change.field for change in report.changes)


# Refusals


@pytest.mark.parametrize(
    ('config', 'reason'),
    [
        (
            'mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py',
            'ResLayer is the last stage of a ResNet',
        ),
        (
            'mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py',
            'TridentResNet has branches that share weights',
        ),
        ('mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py', 'PIDHead reads the three branches'),
        ('mmseg::setr/setr_vit-l_mla_8xb2-160k_ade20k-512x512.py', 'MLANeck adds up maps of one stride'),
        ('mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py', 'DPTHead reads the class token'),
        ('mmseg::san/san-vit-b16_coco-stuff164k-640x640.py', 'MultimodalEncoderDecoder has no backbone'),
    ],
)
def test_refusals(config, reason):
    with pytest.raises(SwapRefused, match=reason):
        swapped(config)


def test_refusals_of_configs_that_are_not_understood():
    cfg = read(RETINANET)
    cfg.model.neck.in_channels = [1, 2, 3, 4]
    with pytest.raises(
        SwapRefused, match=r'model.neck.in_channels = \[1, 2, 3, 4\] is not what the backbone'
    ):
        swap(cfg, MMDET, 'nat_mini')
    cfg = read(PSPNET)
    cfg.model.decode_head.in_channels = 7
    with pytest.raises(SwapRefused, match=r'model\.decode_head PSPHead: in_channels = 7'):
        swap(cfg, MMSEG, 'nat_mini')
    with pytest.raises(SwapRefused, match='has no model'):
        swap(Config(dict(a=1)), MMDET, 'nat_mini')
    cfg = read(RETINANET)
    cfg.model.depth_backbone = dict(type='ResNet', depth=18)
    with pytest.raises(SwapRefused, match=r'several backbones .model.backbone, model.depth_backbone'):
        swap(cfg, MMDET, 'nat_mini')
    cfg = read(RETINANET)
    cfg.model.backbone.type = 'Absent'
    with pytest.raises(SwapRefused, match='present backbone Absent cannot be built here'):
        swap(cfg, MMDET, 'nat_mini')


def test_python_functions(caplog):
    assert swap_detector(read(RETINANET), 'nat_mini').model.backbone.type == 'NAT'
    settings = dict(type='DiNAT_s', arch='tiny', dilations=[[1, 2]] * 2 + [[1] * 6] + [[1, 1]])
    cfg = swap_segmentor(read(PSPNET), settings, pretrained=None, optimizer='nat')
    assert cfg.model.backbone.type == 'DiNAT_s' and cfg.model.decode_head.in_channels == 768


# The inherited form

INHERITED = """_base_ = {base!r}
from {package} import swapped

globals().update(swapped(_base_, 'nat_mini', pretrained=None))
"""


def test_types_given_as_classes(tmp_path):
    """Configs in Python's own syntax have classes where others have names."""
    lines = read('mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py')
    lines.model.backbone.norm_cfg.type = 'BatchNorm2d'
    text = Config(dict(model=lines.model, optim_wrapper=lines.optim_wrapper)).pretty_text
    names = (
        'RetinaNet',
        'ResNet',
        'FPN',
        'RetinaHead',
        'DetDataPreprocessor',
        'L1Loss',
        'BatchNorm2d',
        'SGD',
    )
    for name in names:
        assert f"'{name}'" in text
        text = text.replace(f"type='{name}'", f'type={name}')
    path = tmp_path / 'classes.py'
    path.write_text(
        'from mmdet.models import DetDataPreprocessor, FPN, L1Loss, ResNet, RetinaHead, RetinaNet\n'
        'from torch.nn import BatchNorm2d\nfrom torch.optim import SGD\n'
        f"default_scope = 'mmdet'\n{text}"
    )
    cfg = read_config(str(path))
    assert isinstance(cfg.model.backbone.type, type)
    new, _ = swap(cfg, MMDET, 'nat_mini', 'mine.pth')
    assert new.model.data_preprocessor.mean == MEAN and new.model.data_preprocessor.bgr_to_rgb is True
    assert new.model.neck.type == 'mmdet.FPN' and new.optim_wrapper.optimizer.type == 'mmengine.SGD'
    write_config(new, str(tmp_path / 'names.py'))
    check_runs(read_config(str(tmp_path / 'names.py')), MMDET.registry)


def test_files_hold_what_text_can_say(tmp_path):
    cfg = swapped(RETINANET)[0]
    for value in (float('-inf'), lambda: 0):
        cfg.model.test_cfg.score_thr = value
        with pytest.raises(UserError, match='cannot hold the config'):
            write_config(cfg, str(tmp_path / 'new.py'))
    assert not list(tmp_path.iterdir())


def test_inheritable_line_imports_what_its_base_does(tmp_path, monkeypatch):
    (tmp_path / 'own_backbone.py').write_text(
        'from mmdet.models import ResNet\nfrom mmdet.registry import MODELS\n\n\n'
        '@MODELS.register_module()\nclass OwnResNet(ResNet):\n    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'base.py').write_text(
        f"_base_ = {RETINANET!r}\ncustom_imports = dict(imports=['own_backbone'])\n"
        "model = dict(backbone=dict(type='OwnResNet'))\n"
    )
    (tmp_path / 'mine.py').write_text(INHERITED.format(base='./base.py', package='mmdet_nat'))
    assert read_config(str(tmp_path / 'mine.py')).model.backbone.type == 'NAT'


@pytest.mark.parametrize(('base', 'package'), [(RETINANET, 'mmdet_nat'), (PSPNET, 'mmseg_nat')])
def test_inheritable_line(base, package, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(INHERITED.format(base=base, package=package))
    (tmp_path / 'child.py').write_text("_base_ = './mine.py'\nmodel = dict(backbone=dict(with_cp=True))\n")
    whole = swapped(base, pretrained=None)[0]
    for name in ('mine.py', 'child.py'):
        cfg = read_config(str(tmp_path / name))
        assert 'depth' not in cfg.model.backbone and '_delete_' not in cfg.pretty_text
        again = Config.fromstring(cfg.pretty_text, '.py')
        assert again.model == cfg.model
    assert cfg.model.backbone.pop('with_cp') is True
    for field in ('neck', 'decode_head', 'backbone'):
        if field in whole.model:
            new = {key: value for key, value in cfg.model[field].items() if key != '_scope_'}
            assert new == {k: v for k, v in whole.model[field].items() if k != '_scope_'}


# The command


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'demo'
    make_demo_data(folder, train=4, val=2, seed=1)
    return folder


def run(capsys, *args):
    code = 0
    try:
        command.main(list(args))
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    return code, output.out, output.err


def test_command_checks_and_counts(capsys, tmp_path):
    out = tmp_path / 'new.py'
    code, text, _ = run(capsys, RETINANET, '--backbone', 'nat_mini', '--out', str(out), '--check')
    assert code == 0 and out.is_file()
    assert 'model.neck.in_channels' in text and 'a loss step and a prediction ran' in text
    (before,) = (line for line in text.splitlines() if line.startswith('before'))
    assert before.split()[1:3] == ['38.0', 'M'] and 'not counted' not in text
    assert not any(line.startswith('_base_') for line in out.read_text().splitlines())


def test_command_never_overwrites(capsys, tmp_path, monkeypatch):
    out = tmp_path / 'new.py'
    out.write_text('mine = 1\n')
    code, _, error = run(capsys, PSPNET, '--backbone', 'nat_mini', '--out', str(out))
    assert code == 2 and 'exists' in error and out.read_text() == 'mine = 1\n'
    with monkeypatch.context() as patch:  # a disk that fills up
        patch.setattr(Path, 'write_text', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left')))
        code, _, error = run(capsys, PSPNET, '--backbone', 'nat_mini', '--out', str(out), '--force')
    assert code == 2 and 'cannot be written' in error and out.read_text() == 'mine = 1\n'
    assert run(capsys, PSPNET, '--backbone', 'nat_mini', '--out', str(out), '--force')[0] == 0
    assert 'NAT' in out.read_text() and len(list(tmp_path.iterdir())) == 1


def test_command_keeps_its_own_config(capsys, tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text(f'_base_ = {PSPNET!r}\n')
    (tmp_path / 'link.py').symlink_to(mine)
    for name in ('mine.py', 'link.py'):
        out = str(tmp_path / name)
        code, _, error = run(capsys, str(mine), '--backbone', 'nat_mini', '--out', out, '--force')
        assert code == 2 and f'--out {out} would overwrite the input {mine}; name another' in error
    (tmp_path / 'folder.py').mkdir()
    out = str(tmp_path / 'folder.py')
    code, _, error = run(capsys, str(mine), '--backbone', 'nat_mini', '--out', out, '--force')
    assert code == 2 and 'folder.py is a folder; name a file in it' in error
    assert mine.read_text() == f'_base_ = {PSPNET!r}\n' and not list((tmp_path / 'folder.py').iterdir())


def test_command_names_faults_that_it_mended(capsys, tmp_path, monkeypatch):
    """The swap is right and is written; the user's own training would fail."""
    out = tmp_path / 'new.py'
    arguments = (SSD, '--backbone', 'nat_mini', '--pretrained', 'none', '--out', str(out))
    code, text, _ = run(capsys, *arguments, '--check')
    assert code == command.RUNS_ONLY_MENDED == 3 and out.is_file()
    assert f'mmdet {mmdet.__version__}: SSDHead has no loss_cls' in text
    assert 'your own training or test will stop there' in text
    assert run(capsys, *arguments, '--force')[0] == 0, 'without --check nothing is known of faults'
    monkeypatch.setattr(upstream, '_mend_ssd', lambda model: None)
    code, _, error = run(capsys, *arguments, '--force', '--check')
    assert code == 2 and 'the swapped model does not run: prediction' in error, 'the fault is gone'


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ((RETINANET, '--backbone', 'nat_teny'), 'nearest: nat_tiny'),
        (('mmdet::absent.py', '--backbone', 'nat_mini'), 'config mmdet::absent.py does not exist'),
        (('mmpose::a.py', '--backbone', 'nat_mini'), "is of 'mmpose'"),
        (('absent.py', '--backbone', 'nat_mini'), 'config absent.py does not exist'),
        (('mmseg::san/san-vit-b16_coco-stuff164k-640x640.py', '--backbone', 'nat_mini'), 'has no backbone'),
    ],
)
def test_command_names_mistakes(args, message, capsys):
    code, _, error = run(capsys, *args)
    assert code == 2 and message in error and len(error.strip().splitlines()) == 1


def test_command_names_configs_that_do_not_parse(capsys, tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text('model = dict(\n')
    code, _, error = run(capsys, str(path), '--backbone', 'nat_mini')
    assert code == 2 and 'broken.py' in error and 'does not load' in error


REDUCED = ['model.backbone.depths=1,1,2,1', 'model.backbone.init_cfg=None', 'train_dataloader.batch_size=2']
REDUCED += [
    f'{loader}_dataloader.{s}'
    for loader in ('train', 'val')
    for s in ('num_workers=0', 'persistent_workers=False')
]


def detector_options(data):
    options = [
        'train_cfg.max_epochs=1',
        'model.bbox_head.num_classes=5',
        'train_dataloader.dataset.filter_cfg.min_size=1',
        'train_dataloader.dataset.pipeline.2.scale=(256,192)',
        'val_dataloader.dataset.pipeline.1.scale=(256,192)',
    ]
    for split in ('train', 'val'):
        dataset = f'{split}_dataloader.dataset'
        options += [
            f'{dataset}.metainfo.classes=' + ','.join(OBJECT_CLASSES),
            f'{dataset}.data_root={data}/',
            f'{dataset}.ann_file=annotations/instances_{split}.json',
            f'{dataset}.data_prefix.img={split}/',
        ]
    return [*options, f'val_evaluator.ann_file={data}/annotations/instances_val.json']


def segmentor_options(data):
    palette = str([list(color) for color in SEGMENT_PALETTE]).replace(' ', '')
    options = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    options += [
        f'model.{head}.num_classes={len(SEGMENT_CLASSES)}' for head in ('decode_head', 'auxiliary_head')
    ]
    for split in ('train', 'val'):
        dataset = f'{split}_dataloader.dataset'
        options += [
            f'{dataset}.type=BaseSegDataset',
            f'{dataset}.reduce_zero_label=True',
            f'{dataset}.data_root={data}',
            f'{dataset}.data_prefix.img_path={split}',
            f'{dataset}.data_prefix.seg_map_path=annotations/{split}',
            f'{dataset}.metainfo.classes=' + ','.join(SEGMENT_CLASSES),
            f'{dataset}.metainfo.palette={palette}',
        ]
    return options


@pytest.mark.parametrize(
    ('config', 'options'), [(RETINANET, detector_options), (PSPNET, segmentor_options)]
)
def test_the_written_config_trains(config, options, data, tmp_path, capsys):
    out, work = tmp_path / 'new.py', tmp_path / 'work'
    assert run(capsys, config, '--backbone', 'nat_mini', '--optimizer', 'nat', '--out', str(out))[0] == 0
    options = [*options(data), *REDUCED, f'visualizer.name={work}', 'default_hooks.logger.interval=1']
    train.main([str(out), '--work-dir', str(work), '--cfg-options', *options])
    (log,) = work.glob('*/vis_data/scalars.json')
    losses = [
        record['loss'] for record in map(json.loads, log.read_text().splitlines()) if 'loss' in record
    ]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)


# The walk


def test_walk_is_resumed(tmp_path, capsys, monkeypatch):
    report = tmp_path / 'swaps.csv'
    examined = []

    def examine(framework, jobs, processes, timeout):
        for name, _ in jobs:
            examined.append(name)
            yield name, Outcome(RAN, '', 1.0)

    monkeypatch.setattr(walk, 'examine_all', examine)
    arguments = ['--framework', 'mmseg', '--filter', 'fastscnn', '--report', str(report)]
    walk.main(arguments)
    walk.main(arguments)
    assert len(examined) == 1 and [row.status for row in read_rows(report).values()] == [RAN]
    rows = read_rows(report)
    (name,) = rows
    write_rows(report, [Row('mmseg', name, RAN, model='another')])
    walk.main(arguments)
    assert len(examined) == 2 and '1 ran (100.0%)' in capsys.readouterr().out


def test_walk_counts_mended_models_apart_and_keeps_them(tmp_path, capsys, monkeypatch):
    report = tmp_path / 'swaps.csv'
    mended = Outcome(RAN_AFTER_MENDING, 'after mending the installed mmseg: a fault', None)
    monkeypatch.setattr(walk, 'examine_all', lambda _, jobs, *__: ((name, mended) for name, _ in jobs))
    arguments = ['--framework', 'mmseg', '--filter', 'fastscnn', '--report', str(report)]
    walk.main(arguments)
    (row,) = read_rows(report).values()
    assert (row.status, row.seconds) == ('ran after mending', '')
    assert '0 ran (0.0%), 1 ran after mending (100.0%)' in capsys.readouterr().out
    monkeypatch.setattr(walk, 'examine_all', lambda _, jobs, *__: (pytest.fail(name) for name, _ in jobs))
    walk.main(arguments)


@pytest.mark.parametrize('framework', ['mmdet', 'mmseg'])
def test_published_rows_tell_mended_models_apart(framework):
    rows = read_rows(ROOT / f'benchmarks/results/swaps_{framework}.csv')
    for row in rows.values():
        assert (row.status == RAN_AFTER_MENDING) == row.reason.startswith('after mending '), row.config
    assert f'{len(rows)} configs' in totals(rows)


@pytest.mark.long
@pytest.mark.alone
def test_a_process_that_hangs_or_dies_costs_one_config(tmp_path):
    hanging, dying = tmp_path / 'hanging.py', tmp_path / 'dying.py'
    # Of a config with import statements some versions of mmengine only take note.
    hanging.write_text("__import__('time').sleep(600)\n")
    dying.write_text("__import__('os')._exit(7)\n")
    outcomes = dict(examine_all('mmseg', [('dying', str(dying)), ('hanging', str(hanging))], 2, timeout=45))
    assert {name: outcome[0] for name, outcome in outcomes.items()} == dict(dying=FAILED, hanging=FAILED)
    assert 'exit code 7' in outcomes['dying'][1] and 'not done after 45 seconds' in outcomes['hanging'][1]


def test_walk_names_a_filter_that_fits_nothing(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        walk.main(['--framework', 'mmseg', '--filter', 'absent', '--report', str(tmp_path / 'a.csv')])
    assert stop.value.code == 2 and "'absent'" in capsys.readouterr().err
