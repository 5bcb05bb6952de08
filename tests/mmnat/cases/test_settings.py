"""Configs and command lines as users have them."""

import json
import shlex
import shutil

import cv2
import numpy as np
import pytest
from user_project import BOXES, case

pytestmark = pytest.mark.long
DETECTOR, SEGMENTOR = 'train detector.py', 'train segmentor.py'
RESUME = 'train detector.py --resume detector.pth'


# Data sets ------------------------------------------------------------------


@case(DETECTOR, warning=r'4 of 4 images of val_dataloader are also in train_dataloader')
def test_validated_on_what_is_trained(project):
    project.add("test_dataloader['dataset']['data_root'] = 'data/train/'")
    project.add("test_evaluator['ann_file'] = 'data/train/coco.json'")


@case(SEGMENTOR, warning=r'1 of 1 images of val_dataloader are also in train_dataloader')
def test_validated_on_copies(project):
    for name in ('images/0.jpg', 'labels/0.png'):
        shutil.copy(project.path('data/train') / name, project.path('data/val') / name)


@case(DETECTOR, error=r"data sets differ in classes: .* but val_dataloader\S+ has \['square', 'disc'\]")
def test_validated_in_another_order(project):
    project.val['categories'].reverse()
    project.add("test_dataloader['dataset']['metainfo'] = dict(classes=('square', 'disc'))")


@case(SEGMENTOR, error=r'data sets differ in reduce_zero_label: train\S+ has True, but val\S+ has False')
def test_trained_with_reduce_zero_label(project):
    project.add("train_dataloader['dataset']['reduce_zero_label'] = True", 'segmentor.py')


@case(DETECTOR, error=r'indices: 3 of 7 \(4, 5, 6\) are beyond')
def test_indices_of_other_data(project):
    project.add("dataset['indices'] = list(range(7))")


@case(DETECTOR, error=r'its 4 images are no batch of batch_size = 8')
def test_batch_larger_than_data(project):
    project.add('train_dataloader.update(batch_size=8, drop_last=True)')


@case(DETECTOR)
def test_batch_larger_than_data_is_kept(project):
    project.add('train_dataloader.update(batch_size=8)')


@case(f'{DETECTOR} --cfg-options train_dataloader.num_workers=0')
def test_persistent_workers_without_workers(project):
    project.add('train_dataloader.update(num_workers=2, persistent_workers=True)')


@case(DETECTOR, error=r'batch_size = 0 is not a number of images')
def test_batch_of_nothing(project):
    project.add('train_dataloader.update(batch_size=0)')


@case(DETECTOR)
def test_no_batch_size(project):
    project.add("train_dataloader.pop('batch_size')")


# Evaluation -----------------------------------------------------------------


@case(DETECTOR, error=r"metric has 'segm', but the model predicts no masks")
def test_masks_of_boxes(project):
    project.add(BOXES)
    project.add("test_evaluator['metric'] = ['bbox', 'segm']")


@case(DETECTOR, error=r'val_evaluator\.ann_file: \S+ is of other images')
def test_evaluator_of_other_images(project):
    project.add("test_evaluator['ann_file'] = 'data/train/coco.json'")
    project.val['images'][0].update(id=1000, file_name='a.jpg')
    for annotation in project.val['annotations']:
        annotation['image_id'] = 1000
    project.path('data/val/images/0.jpg').rename(project.path('data/val/images/a.jpg'))


@case(DETECTOR, error=r'val_evaluator\.ann_file: elsewhere\.json does not exist')
def test_evaluator_of_no_file(project):
    project.add("test_evaluator['ann_file'] = 'elsewhere.json'")


@case(SEGMENTOR, error=r"val_evaluator\.iou_metrics has 'IoU'")
def test_unknown_metric_of_segmentation(project):
    project.add("test_evaluator['iou_metrics'] = ['IoU']", 'segmentor.py')


@case(DETECTOR, error=r"save_best = 'bbox_mAP' is no metric .* write 'coco/bbox_mAP'")
def test_save_best_of_other_name(project):
    project.add("default_hooks['checkpoint']['save_best'] = 'bbox_mAP'")


@case(DETECTOR, error=r'lacks val_dataloader, but')
def test_validation_without_data(project):
    project.add('val_dataloader = None')


@case(DETECTOR, error=r'lacks val_evaluator, but')
def test_validation_without_evaluator(project):
    project.add('val_evaluator = None')


@case(DETECTOR, error=r'lacks val_cfg, but')
def test_validation_without_loop(project):
    project.add('val_cfg = None')


@case(DETECTOR)
def test_no_validation(project):
    project.add('val_cfg = val_dataloader = val_evaluator = None')


# Optimizer and schedule -----------------------------------------------------


@case(DETECTOR, error=r"optim_wrapper cannot be built: .*'momentun'")
def test_unknown_setting_of_optimizer(project):
    project.add("optim_wrapper['optimizer']['momentun'] = 0.9")


@case(DETECTOR, error=r"optim_wrapper cannot be built: .* 'clip_gradient'")
def test_unknown_setting_of_wrapper(project):
    project.add("optim_wrapper['clip_gradient'] = dict(max_norm=1)")


@case(DETECTOR, error=r"optim_wrapper\.optimizer\.type = 'Adamw' is not registered \(nearest: AdamW")
def test_unknown_optimizer(project):
    project.add("optim_wrapper['optimizer']['type'] = 'Adamw'")


@case(DETECTOR, error=r"param_scheduler\[0\] cannot be built: .*'milestone'")
def test_unknown_setting_of_schedule(project):
    project.add("param_scheduler = [dict(type='MultiStepLR', milestone=[1])]")


@case(DETECTOR, error=r'param_scheduler\[0\] cannot be built: end should be larger')
def test_schedule_ends_before_it_begins(project):
    project.add("param_scheduler = [dict(type='ConstantLR', begin=10, end=5)]")


@case(DETECTOR)
def test_schedule_ends_after_training(project):
    project.add("param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=500)]")


@case(DETECTOR, error=r"default_hooks\.checkpoint: .* no argument 'intervall' \(nearest: interval\)")
def test_unknown_setting_of_hook(project):
    project.add("default_hooks['checkpoint']['intervall'] = 1")


@case(DETECTOR, error=r"train_cfg: IterBasedTrainLoop has no argument 'max_epochs'")
def test_unknown_setting_of_loop(project):
    project.add("train_cfg['max_epochs'] = 1")


# Weights --------------------------------------------------------------------


@case(RESUME, error=r'detector\.pth does not fit the model .* differ in shape')
def test_resumed_with_other_classes(project, trained):
    project.take_checkpoints(trained)
    for coco in (project.train, project.val):
        coco['categories'].append(dict(id=8, name='ring'))
        coco['annotations'][0]['category_id'] = 8
    project.add("metainfo['classes'] = ('disc', 'square', 'ring')")
    for head in ('bbox_head', 'mask_head'):
        project.add(f"model['roi_head']['{head}']['num_classes'] = 3")


@case(f'{DETECTOR} --cfg-options load_from=detector.pth')
def test_loaded_with_other_classes(project, trained):
    test_resumed_with_other_classes.__wrapped__(project, trained)


@case(RESUME, error=r'has 0 schedules, and the param_scheduler of the config has 1; resume with')
def test_resumed_with_a_schedule(project, trained):
    project.take_checkpoints(trained)
    project.add("param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=500)]")


@case(RESUME, error=r'checkpoint detector\.pth .*(does not exist|cannot be read)')
def test_resumed_from_nothing(project):
    pass


@case('test detector.py segmentor.pth', error=r'does not fit the model')
def test_tested_with_other_model(project, trained):
    project.take_checkpoints(trained)


# Names and command lines ----------------------------------------------------


@case(f'{DETECTOR} --work-dir "my runs/🍎 1"', makes='my runs/🍎 1/iter_2.pth')
def test_work_dir_with_spaces(project):
    pass


@case('train "my configs/a detector.py"', makes='work_dirs/a detector/iter_2.pth')
def test_config_with_spaces(project):
    project.path('my configs').mkdir()
    shutil.move(project.path('detector.py'), project.path('my configs/a detector.py'))


@case('train my.config.v2.py', makes='work_dirs/my.config.v2/iter_2.pth')
def test_config_with_dots(project):
    shutil.move(project.path('detector.py'), project.path('my.config.v2.py'))


@case('train detector', error=r'config detector does not exist')
def test_config_without_suffix(project):
    pass


@case(f'{DETECTOR} --cfg-options model.backbone.kernel_sise=3', error=r'kernel_sise')
def test_unknown_option_of_model(project):
    pass


@case(f'{DETECTOR} --cfg-options train_dataloder.batch_size=1', warning=r'train_dataloder')
def test_unknown_option(project):
    pass


@case(f'{DETECTOR} --cfg-options optim_wrapper.optimizer.lr.value=1', error=r'--cfg-options does not fit')
def test_option_below_a_number(project):
    pass


@pytest.mark.parametrize(
    'backend, package',
    [('WandbVisBackend', 'wandb'), ('ClearMLVisBackend', 'clearml'), ('MLflowVisBackend', 'mlflow')],
)
@case(DETECTOR, error=r'VisBackend needs (wandb|clearml|mlflow), which is not installed')
def test_no_package_of_backend(project, backend, package):
    project.add(f"visualizer = dict(vis_backends=[dict(type='{backend}')])")


# Tests and predictions ------------------------------------------------------


@case('test detector.py detector.pth --show-dir shown')
def test_palette_too_short(project, trained):
    project.take_checkpoints(trained)
    project.add("metainfo['palette'] = [(255, 0, 0)]")


@case('test detector.py detector.pth', error=r'no annotations of the classes')
def test_tested_without_objects(project, trained):
    project.take_checkpoints(trained)
    project.val['annotations'] = []


@case('test detector.py detector.pth', makes='out.bbox.json')
def test_only_predicted(project, trained):
    project.take_checkpoints(trained)
    del project.val['annotations']
    project.add("test_evaluator.update(format_only=True, outfile_prefix='out')")


@case('test detector.py detector.pth --tta', error=r'lacks tta_model')
def test_augmented_without_pipeline(project, trained):
    project.take_checkpoints(trained)


@case('test detector.py detector.pth', error=r'lacks test_evaluator')
def test_no_evaluator_of_test(project, trained):
    project.take_checkpoints(trained)
    project.add('val_cfg = val_dataloader = val_evaluator = test_evaluator = None')


@pytest.mark.parametrize(
    'name', ['a.JPG', 'day 1 🍎.jpg', '-a.jpg', 'a.jfif', 'no suffix', 'a\nb.jpg', "it's 100%.jpg"]
)
def test_predicted_names(project, trained, name):
    project.take_checkpoints(trained)
    shutil.move(project.path('data/val/images/0.jpg'), project.path(name))
    code, printed = project.run(
        f'predict detector.py detector.pth {shlex.quote("./" + name)} --out-dir out'
    )
    assert code == 0, printed[-2000:]
    assert len(list(project.path('out').iterdir())) == 1


@pytest.mark.parametrize('model', ['detector', 'segmentor'])
@pytest.mark.parametrize('size', [(1, 1), (1, 3), (8, 8)])
def test_predicted_sizes(project, trained, model, size):
    project.take_checkpoints(trained)
    cv2.imwrite(str(project.path('a.png')), np.zeros((*size, 3), np.uint8))
    code, printed = project.run(f'predict {model}.py {model}.pth a.png --out-dir out')
    if (model, size) == ('segmentor', (1, 1)):
        assert code == 2 and 'a single pixel, which mmseg cannot draw' in printed
    else:
        assert code == 0 and project.path('out/a.png').is_file(), printed[-2000:]


@pytest.mark.parametrize('model', ['detector', 'segmentor'])
@pytest.mark.parametrize(
    'name, array',
    [
        ('rgba.png', np.zeros((64, 64, 4), np.uint8)),
        ('wide.png', np.zeros((64, 64), np.uint16)),
        ('grey.png', np.zeros((64, 64), np.uint8)),
    ],
)
def test_predicted_channels(project, trained, model, name, array):
    project.take_checkpoints(trained)
    cv2.imwrite(str(project.path(name)), array)
    code, printed = project.run(f'predict {model}.py {model}.pth {name} --out-dir out')
    assert code == 0 and project.path('out').is_dir(), printed[-2000:]


@case('label-maps data/train/coco.json out', makes=['out/0.png', 'out/train.txt'])
def test_label_maps(project):
    for image in project.train['images']:
        image.update(width=64.0, height=64.0)


@case('label-maps data/train/coco.json out', error=r'is an absolute path, which leads out')
def test_label_maps_of_absolute_names(project):
    for image in project.train['images']:
        image['file_name'] = str(project.path('data/train/images').absolute() / image['file_name'])


@case('label-maps data/train/coco.json out', error=r'would be written to one place')
def test_label_maps_of_one_stem(project):
    project.train['images'][1]['file_name'] = '0.png'


@case('label-maps data/train/coco.json out', warning=r'fewer than three points .* annotation 3')
def test_label_maps_of_points(project):
    project.train['annotations'][3]['segmentation'] = [[1, 2]]


@case('plot work')
def test_curves_of_a_killed_run(project):
    log = project.path('work/1/vis_data/scalars.json')
    log.parent.mkdir(parents=True)
    line = json.dumps(dict(lr=0.1, loss=1.5, iter=1, step=1))
    log.write_text(f'{line}\n{line[:-9]}')
