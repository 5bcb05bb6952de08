# ADE20K, its 100 classes of things and 50 of stuff, as Mask2Former trains on it. The annotation files are
# made by mmdet's tools/dataset_converters/ade20k2coco.py with --task panoptic.
# Needs panopticapi: pip install git+https://github.com/cocodataset/panopticapi.git
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'

num_things_classes = 100
num_stuff_classes = 50
num_classes = num_things_classes + num_stuff_classes
image_size = (640, 640)
batch_augments = [dict(_base_.batch_augments[0], size=image_size)]
data_preprocessor = dict(batch_augments=batch_augments)
model = dict(
    data_preprocessor=data_preprocessor,
    panoptic_head=dict(
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
    panoptic_fusion_head=dict(num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes),
    test_cfg=dict(instance_on=False),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(
        type='RandomChoiceResize', scales=[(2560, side) for side in range(320, 1281, 64)], keep_ratio=True
    ),
    dict(
        type='RandomCrop',
        crop_size=image_size,
        crop_type='absolute',
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='PhotoMetricDistortion', swap_channels=False),
    dict(type='RandomFlip', prob=0.5),
    # keep_empty=False keeps the crops in which there is only stuff.
    dict(type='FilterAnnotations', by_box=False, by_mask=True, keep_empty=False),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='LoadPanopticAnnotations'),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

# The boxes in the annotation files are wrong: this data set goes by the masks.
dataset_type = 'BoxlessADE20KPanopticDataset'
data_root = 'data/ADEChallengeData2016/'
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ade20k_panoptic_train.json',
        data_prefix=dict(img='images/training/', seg='ade20k_panoptic_train/'),
        filter_cfg=None,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ade20k_panoptic_val.json',
        data_prefix=dict(img='images/validation/', seg='ade20k_panoptic_val/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoPanopticMetric',
        ann_file=data_root + 'ade20k_panoptic_val.json',
        seg_prefix=data_root + 'ade20k_panoptic_val/',
    )
]
test_evaluator = val_evaluator
