# Cityscapes, its 8 classes of things and 11 of stuff, as Mask2Former trains on it. The annotation files are
# made by cityscapesscripts, which also has to be installed for the AP:
#     csCreatePanopticImgs --dataset-folder data/cityscapes/gtFine --use-train-id
# Those made without --use-train-id, whose names lack _trainId, serve as well.
# Needs panopticapi: pip install git+https://github.com/cocodataset/panopticapi.git
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'

num_things_classes = 8
num_stuff_classes = 11
num_classes = num_things_classes + num_stuff_classes
height, width = image_size = (512, 1024)
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
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(
        type='RandomChoiceResize',
        scales=[(4096, 1024 * tenths // 10) for tenths in range(5, 21)],
        keep_ratio=True,
    ),
    dict(
        type='RandomCrop',
        crop_size=(width, height),
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
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    dict(type='LoadPanopticAnnotations'),
    dict(
        type='PackDetInputs',
        meta_keys=(
            'img_id', 'img_path', 'seg_map_path', 'segments_info', 'ori_shape', 'img_shape', 'scale_factor',
        ),
    ),
]  # fmt: skip

dataset_type = 'CityscapesPanopticDataset'
data_root = 'data/cityscapes/'
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='gtFine/cityscapes_panoptic_train_trainId.json',
        data_prefix=dict(img='leftImg8bit/train/', seg='gtFine/cityscapes_panoptic_train_trainId/'),
        filter_cfg=None,
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='gtFine/cityscapes_panoptic_val_trainId.json',
        data_prefix=dict(img='leftImg8bit/val/', seg='gtFine/cityscapes_panoptic_val_trainId/'),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='CityscapesPanopticMetric', seg_prefix=data_root + 'gtFine/cityscapes_panoptic_val_trainId/'),
    dict(
        type='CityScapesMetric',
        seg_prefix=data_root + 'gtFine/val',
        outfile_prefix='./work_dirs/cityscapes_metric/panoptic',
    ),
]
test_evaluator = val_evaluator
