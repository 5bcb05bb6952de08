"""One training, run in different ways: processes, threads, precision, recomputation, accumulation."""

import itertools
from multiprocessing import get_context

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import torch.distributed as dist
from earlier_runs import forget_earlier_runs
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_training import draw_data, write_configs

from mmnat.checkpoints.reading import read_checkpoint
from mmnat.commands import train
from mmnat.config import read_config
from mmnat.preflight.models import build_model

DENSE_HEAD = """
backbone = dict(model['backbone'])
backbone.pop('_delete_')
model = dict(
    _delete_=True, type='FCOS', backbone=backbone,
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[0, 0, 0], std=[255, 255, 255], pad_size_divisor=32),
    neck=dict(type='FPN', in_channels=[32, 64, 128, 256], out_channels=32, num_outs=5),
    bbox_head=dict(type='FCOSHead', num_classes=2, in_channels=32, feat_channels=32, stacked_convs=1),
    test_cfg=dict(nms_pre=50, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20))
"""


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """A detector and a segmentor whose results do not depend on how a batch is divided.

    Group norm takes the place of batch norm, as layer norm does in the backbones.
    """
    root = tmp_path_factory.mktemp('same')
    draw_data(root / 'data')
    write_configs(root, root / 'data')
    text = (root / 'segmentor.py').read_text()
    norm = "norm_cfg = dict(type='GN', num_groups=4)"
    (root / 'segmentor.py').write_text(text.replace("norm_cfg = dict(type='SyncBN')", norm))
    return root


class Recorder(Hook):
    """Keeps losses, and the weights after each update."""

    priority = 'LOWEST'
    losses: list
    weights: list

    def before_train(self, runner):
        Recorder.losses, Recorder.weights = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        Recorder.losses.append(float(outputs['loss']))
        Recorder.weights.append({k: v.detach().clone() for k, v in runner.model.named_parameters()})


HOOKS.register_module(name='SameResultRecorder', module=Recorder, force=True)


def trained(config, work_dir, text='', *options):
    """Train with a config to which some text is added. Returns the last checkpoint, losses and weights."""
    forget_earlier_runs()
    work_dir.mkdir()
    path = work_dir / 'config_of_test.py'
    path.write_text(f'{config.read_text()}\n{text}\n')
    train.main([str(path), '--work-dir', str(work_dir / 'run'), *options])
    checkpoint = read_checkpoint((work_dir / 'run/last_checkpoint').read_text())
    return checkpoint, getattr(Recorder, 'losses', []), getattr(Recorder, 'weights', [])


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def difference(a, b):
    """Between two sets of tensors: the norm of the difference over the norm."""
    flat = [
        torch.cat([value.double().flatten() for _, value in sorted(tensors.items())]) for tensors in (a, b)
    ]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


# Processes ------------------------------------------------------------------


def gradient(path, processes):
    """The gradient of four images, as the first step of a training has it."""
    distributed = processes > 1
    cfg = read_config(str(path))
    cfg.model.backbone.drop_path_rate = 0.0
    for head in filter(None, [cfg.model.get('decode_head'), *(cfg.model.get('auxiliary_head') or [])]):
        head.dropout_ratio = 0
    cfg.launcher = 'none'
    torch.manual_seed(0)
    np.random.seed(0)
    model = build_model(cfg)
    model.init_weights()
    model.train()
    if distributed:
        model = MMDistributedDataParallel(model, broadcast_buffers=False)
    inner = model.module if distributed else model
    # The sampler gives each process its share.
    loader = dict(cfg.train_dataloader, batch_size=4 // processes, num_workers=0)
    batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    data = inner.data_preprocessor(batch, training=True)
    losses = model(**data, mode='loss') if distributed else inner(**data, mode='loss')
    inner.parse_losses(losses)[0].backward()
    return {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}


def _process(rank, folder, path):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    torch.save(gradient(path, 2), folder / f'{rank}.pth')
    dist.destroy_process_group()


def of_two_processes(folder, path):
    folder.mkdir()
    context = get_context('fork')
    processes = [context.Process(target=_process, args=(rank, folder, path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
        assert process.exitcode == 0
    first, second = (torch.load(folder / f'{rank}.pth') for rank in (0, 1))
    assert same(first, second)
    return first


CASES = {
    # What averages over pixels of images of one size, or over objects of all processes.
    'segmentor': ('segmentor', '', 1e-5),
    'FCOS': ('detector', DENSE_HEAD, 1e-5),
    # What averages over the objects of each process.
    'RetinaNet': (
        'detector',
        DENSE_HEAD
        + """
model['type'] = 'RetinaNet'
model['bbox_head'] = dict(
    type='RetinaHead', num_classes=2, in_channels=32, feat_channels=32, stacked_convs=1,
    anchor_generator=dict(
        type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
        strides=[4, 8, 16, 32, 64]))
model['train_cfg'] = dict(
    assigner=dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
    sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False)
""",
        None,
    ),
}


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.skipif(not dist.is_gloo_available(), reason='needs gloo')
@pytest.mark.parametrize('name', CASES)
def test_two_processes_have_the_gradient_of_one(configs, tmp_path, name, record_property):
    kind, text, bound = CASES[name]
    path = tmp_path / 'config.py'
    path.write_text(f'{(configs / f"{kind}.py").read_text()}\n{text}\n')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = gradient(path, 1)
        two = of_two_processes(tmp_path / 'two', path)
    finally:
        torch.set_num_threads(threads)
    assert one.keys() == two.keys()
    error = difference(two, one)
    record_property('difference', error)
    print(f'{name}: {error:.1e}')
    assert error < bound if bound else 1e-4 < error < 1


# Determinism ----------------------------------------------------------------

DETERMINISTIC = """
model['backbone']['drop_path_rate'] = 0.3
train_cfg.update(max_iters=3)
randomness = dict(seed=3, deterministic=DETERMINISTIC)
"""


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


@pytest.mark.long
@pytest.mark.parametrize('number', [1, 2])
@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
def test_the_same_in_every_run(configs, tmp_path, threads, kind, number):
    threads(number)
    path = configs / f'{kind}.py'
    results = []
    for index, value in enumerate((True, True, False)[: 4 - number]):
        torch.use_deterministic_algorithms(False)
        text = DETERMINISTIC.replace('DETERMINISTIC', str(value))
        results.append(trained(path, tmp_path / str(index), text)[0]['state_dict'])
        assert torch.are_deterministic_algorithms_enabled() == value
    assert all(same(results[0], other) for other in results[1:])


# Precision, recomputation, accumulation, averages ----------------------------

MOMENTUM, UPDATES = 0.1, 3
COMMON = f"""
custom_hooks = [
    dict(type='EMAHook', momentum={MOMENTUM}), dict(type='SameResultRecorder')]
optim_wrapper.update(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
default_hooks['checkpoint'].update(interval=100)
randomness = dict(seed=1)
train_cfg.update(max_iters={UPDATES})
"""
CERTAIN = """
model['backbone']['drop_path_rate'] = 0.0
for head in (model['decode_head'], *model['auxiliary_head']):
    head.update(dropout_ratio=0)
"""
RANDOM = "model['backbone']['drop_path_rate'] = 0.3"
WAYS = {
    'with_cp': "model['backbone']['with_cp'] = True",
    'bfloat16': "optim_wrapper['type'] = 'AmpOptimWrapper'",
    'accumulation': 'train_dataloader.update(batch_size=1)\n'
    f'optim_wrapper.update(accumulative_counts=2)\ntrain_cfg.update(max_iters={2 * UPDATES})',
}
# Relative differences of the loss and of the change of all weights to those of the plain training.
BOUNDS = {'with_cp': (0, 0), 'accumulation': (1e-6, 1e-5), 'bfloat16': (0.002, 0.05)}


def averaged(weights):
    """The average that EMAHook makes, by hand."""
    average = {name: value.double() for name, value in weights[0].items()}
    for later in weights[1:]:
        for name, value in later.items():
            average[name] += MOMENTUM * (value.double() - average[name])
    return average


def changes(weights):
    return {name: value - weights[0][name] for name, value in weights[-1].items()}


@pytest.mark.long
def test_every_combination_agrees_with_the_plain_training(configs, tmp_path):
    results = {}
    for count in range(len(WAYS) + 1):
        for ways in itertools.combinations(WAYS, count):
            name = ' + '.join(ways) or 'plain'
            text = '\n'.join([COMMON, CERTAIN, *(WAYS[way] for way in ways)])
            checkpoint, losses, weights = trained(configs / 'segmentor.py', tmp_path / name, text)
            steps = 2 if 'accumulation' in ways else 1
            means = np.array(losses).reshape(UPDATES, steps).mean(1)
            results[ways] = means, weights[steps - 1 :: steps]
            # The checkpoint has the averages as its weights, and those that are trained beside them.
            state = {key: checkpoint['state_dict'][key] for key in weights[0]}
            ema = difference(state, averaged(weights))
            trained_ones = {key: checkpoint['ema_state_dict'][f'module.{key}'] for key in weights[0]}
            assert same(trained_ones, weights[-1])
            loss, change = (
                float(np.abs(means / results[()][0] - 1).max()),
                difference(changes(results[ways][1]), changes(results[()][1])),
            )
            print(f'{name}: loss {loss:.1e}, change {change:.1e}, average {ema:.1e}')
            assert ema < 1e-6
            for measured, which in ((loss, 0), (change, 1)):
                bound = max((BOUNDS[way][which] for way in ways), default=0)
                assert measured <= bound, name
    for ways, (losses, weights) in results.items():
        if 'with_cp' in ways:  # bit for bit
            others = results[tuple(way for way in ways if way != 'with_cp')]
            assert all(map(same, weights, others[1])) and (losses == others[0]).all()


@pytest.mark.long
@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_recomputation_draws_the_same_random_numbers(configs, tmp_path, kind, precision):
    """Stochastic depth and dropout, in float32 and in bfloat16: bit for bit."""
    results = []
    for index, way in enumerate(('', WAYS['with_cp'])):
        text = '\n'.join([COMMON, RANDOM, way, WAYS['bfloat16'] if precision == 'bfloat16' else ''])
        results.append(trained(configs / f'{kind}.py', tmp_path / str(index), text)[0])
    assert same(results[0]['state_dict'], results[1]['state_dict'])
    assert same(results[0]['ema_state_dict'], results[1]['ema_state_dict'])
