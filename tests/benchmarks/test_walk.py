"""A fixed sample of installed configs, all of different structure, swapped and run."""

import pytest

from benchmarks.swaps.examine import examine
from benchmarks.swaps.rows import RAN, RAN_AFTER_MENDING
from mmnat.config_files import framework_folder
from mmnat.swap import load_framework

DETECTORS = [
    'atss/atss_r50_fpn_1x_coco.py',
    'autoassign/autoassign_r50-caffe_fpn_1x_coco.py',
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
    'detectors/cascade-rcnn_r50-rfp_1x_coco.py',
    'detr/detr_r50_8xb2-150e_coco.py',
    'double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    'efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py',
    'fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py',
    'faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
    'fsaf/fsaf_r50_fpn_1x_coco.py',
    'gfl/gfl_r50_fpn_1x_coco.py',
    'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py',
    'libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_youtubevis2019.py',
    'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    'pvt/retinanet_pvt-t_fpn_1x_coco.py',
    'qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py',
    'rpn/rpn_r50_fpn_1x_coco.py',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'ssd/ssd300_coco.py',
    'strongsort/strongsort_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py',
    'tood/tood_r50_fpn_1x_coco.py',
    'yolact/yolact_r50_1xb8-55e_coco.py',
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
    'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'yolox/yolox_tiny_8xb8-300e_coco.py',
]

SEGMENTORS = [
    'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py',
    'cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py',
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py',
    'erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py',
    'fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py',
    'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
    'hrnet/fcn_hr18_4xb4-80k_ade20k-512x512.py',
    'icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py',
    'knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py',
    'ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py',
    'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
    'psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
    'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
    'stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',
    'unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py',
    'vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py',
]

# Stopped by a fault of the installed mmdet, see mmnat/swap/check/upstream.py.
MENDED = ('ssd/ssd300_coco.py',)

SAMPLE = [('mmdet', name) for name in DETECTORS] + [('mmseg', name) for name in SEGMENTORS]


@pytest.mark.parametrize(('framework', 'name'), SAMPLE, ids=lambda value: value.rpartition('/')[2])
def test_swapped_and_run(framework, name):
    status, reason, _ = examine(str(framework_folder(framework) / name), load_framework(framework))
    assert status == (RAN_AFTER_MENDING if name in MENDED else RAN), reason
