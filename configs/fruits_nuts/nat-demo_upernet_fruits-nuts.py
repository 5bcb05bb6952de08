# The same photographs for a segmentor, with label maps made of the masks:
# mmnat label-maps data/fruits_nuts/trainval.json data/fruits_nuts_label_maps --held-out 4
_base_ = '../demo/nat-demo_upernet_demo-scenes.py'

images = 'data/fruits_nuts/images'
label_maps = 'data/fruits_nuts_label_maps'
metainfo = dict(
    classes=('background', 'date', 'fig', 'hazelnut'),
    palette=[(200, 200, 200), (150, 75, 0), (120, 0, 160), (255, 170, 0)],
)
num_classes = len(metainfo['classes'])
model = dict(decode_head=dict(num_classes=num_classes), auxiliary_head=dict(num_classes=num_classes))

crop_size = (160, 160)
scale = (400, 300)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.7, 1.4), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.9),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    metainfo=metainfo,
    data_prefix=dict(img_path=images, seg_map_path=label_maps),
    img_suffix='.jpg',
    seg_map_suffix='.png',
    reduce_zero_label=False,
)
train_dataloader = dict(
    dataset=dict(ann_file=f'{label_maps}/train.txt', pipeline=train_pipeline, **dataset)
)
val_dataloader = dict(dataset=dict(ann_file=f'{label_maps}/val.txt', pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
