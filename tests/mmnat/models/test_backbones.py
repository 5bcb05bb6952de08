"""NAT, DiNAT and DiNAT_s: golden vectors, arguments, freezing, memory and copies, published weights."""

import copy
import importlib.util
import subprocess
import sys

import pytest
import torch
from golden import MODEL_CASES, drawn, expected, fill_parameters, relative_error
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from mmnat import models
from mmnat.errors import CheckpointError
from mmnat.models import NAT, DiNAT, DiNAT_s, layers
from mmnat.models.layers import Mlp, StochasticDepth
from mmnat.models.pretrained import load_pretrained, resize_rpb

SMALL = dict(embed_dim=16, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2.0, kernel_size=3)

DILATED = dict(dilations=[[2], [1, 3], [1], [1]])


def small_nat(**kwargs):
    torch.manual_seed(0)
    return NAT(**(SMALL | kwargs))


@pytest.mark.parametrize('case', MODEL_CASES, ids=lambda case: case['name'])
def test_golden(case, record_property):
    model = getattr(models, case['type'])(drop_path_rate=0.0, **case['args'])
    fill_parameters(model)
    assert sum(p.numel() for p in model.parameters()) == case['n_params']
    wanted = expected(case)
    outputs = model(drawn(case, 'input', case['input']))
    errors = {}
    for i, output in enumerate(outputs):
        errors[f'level{i}'] = relative_error(output[:, ::4, ::2, ::2], wanted[f'level{i}'])
        mean = float(wanted[f'level{i}_mean_abs'])
        assert float(output.abs().mean()) == pytest.approx(mean, rel=1e-4)
    loss = sum((o * drawn(case, f'grad{i}', o.shape)).mean() for i, o in enumerate(outputs))
    attention = getattr(model, model.levels_name)[0].blocks[1].attn
    stem = model.patch_embed.proj
    first_conv = stem[0] if isinstance(stem, torch.nn.Sequential) else stem
    wrt = dict(grad_rpb=attention.rpb, grad_qkv_bias=attention.qkv.bias, grad_stem=first_conv.weight)
    grads = torch.autograd.grad(loss, list(wrt.values()))
    for name, grad in zip(wrt, grads, strict=True):
        errors[name] = relative_error(grad, wanted[name])
    for name, error in errors.items():
        record_property(name, error)
        assert error <= 2e-4, (name, error)


@pytest.mark.parametrize(
    ('backbone', 'arch', 'millions'),
    # Millions of parameters of the published classifiers (NAT's and DiNAT's model tables), which have a
    # 1000-class head and one last norm.
    [
        (NAT, 'mini', 20), (NAT, 'tiny', 28), (NAT, 'small', 51), (NAT, 'base', 90),
        (DiNAT, 'large', 200), (DiNAT_s, 'tiny', 28), (DiNAT_s, 'small', 50),
        (DiNAT_s, 'base', 88), (DiNAT_s, 'large', 197),
    ],
)  # fmt: skip
def test_published_parameters(backbone, arch, millions):
    depths = backbone.arch_zoo[arch]['depths']
    extra = {} if backbone is NAT else dict(dilations=[[1] * depth for depth in depths])
    if arch in ('small', 'base') and backbone is NAT:
        extra['layer_scale'] = 1e-5
    with torch.device('meta'):
        model = backbone(arch=arch, out_indices=(3,), **extra)
    dim = model.num_features[-1]
    head = dim * 1000 + 1000
    total = (sum(p.numel() for p in model.parameters()) + head) / 1e6
    # The papers rounded some and truncated others.
    assert millions in (round(total), int(total))


def test_state_dict_keys_are_the_published_ones():
    nat = small_nat(layer_scale=1e-5)
    dinat_s = DiNAT_s([[1], [1]], embed_dim=16, depths=(1, 1), num_heads=(1, 2), out_indices=(1,))
    block = ['attn.proj.bias', 'attn.proj.weight', 'attn.qkv.bias', 'attn.qkv.weight', 'attn.rpb']
    block += [f'mlp.{layer}.{leaf}' for layer in ('fc1', 'fc2') for leaf in ('bias', 'weight')]
    block += [f'{norm}.{leaf}' for norm in ('norm1', 'norm2') for leaf in ('bias', 'weight')]
    keys = set(nat.state_dict())
    first = {key.removeprefix('levels.0.blocks.0.') for key in keys if 'levels.0.blocks.0.' in key}
    assert first == {*block, 'gamma1', 'gamma2'}
    rest = {key for key in keys if '.blocks.' not in key}
    assert rest == {
        *(f'patch_embed.proj.{i}.{leaf}' for i in (0, 1) for leaf in ('weight', 'bias')),
        *(f'patch_embed.norm.{leaf}' for leaf in ('weight', 'bias')),
        *(f'levels.{i}.downsample.reduction.weight' for i in range(3)),
        *(f'levels.{i}.downsample.norm.{leaf}' for i in range(3) for leaf in ('weight', 'bias')),
        *(f'norm{i}.{leaf}' for i in range(4) for leaf in ('weight', 'bias')),
    }
    keys = set(dinat_s.state_dict())
    first = {key.removeprefix('layers.1.blocks.0.') for key in keys if 'layers.1.blocks.0.' in key}
    assert first == set(block)
    assert {key for key in keys if '.blocks.' not in key} == {
        'patch_embed.proj.weight', 'patch_embed.proj.bias', 'patch_embed.norm.weight',
        'patch_embed.norm.bias', 'layers.0.downsample.norm.weight', 'layers.0.downsample.norm.bias',
        'layers.0.downsample.reduction.weight', 'norm1.weight', 'norm1.bias',
    }  # fmt: skip


@pytest.mark.parametrize('size', [(1, 1), (33, 70), (64, 31)])
def test_any_input_size(size):
    dinat = DiNAT(**SMALL, **DILATED)
    dinat_s = DiNAT_s(**(SMALL | dict(mlp_ratio=4.0)), **DILATED)
    for model in (dinat, dinat_s):
        outputs = model(torch.randn(2, 3, *size))
        for i, output in enumerate(outputs):
            height, width = (-(-length // (4 * 2**i)) for length in size)
            assert output.shape == (2, 16 * 2**i, height, width)
            assert output.is_contiguous()


def test_out_indices():
    model = small_nat(out_indices=[2, 1])
    assert {name for name, _ in model.named_children()} >= {'norm1', 'norm2'}
    assert not hasattr(model, 'norm0')
    outputs = model(torch.randn(1, 3, 64, 64))
    assert [o.shape[1] for o in outputs] == [32, 64]
    # What no output depends on must not wait for gradients, which distributed training would refuse.
    sum(o.square().mean() for o in outputs).backward()
    for name, parameter in model.named_parameters():
        behind = name.startswith(('levels.2.downsample.', 'levels.3.'))
        assert (parameter.grad is None) is behind and parameter.requires_grad is not behind, name
    assert set(model.state_dict()) | {'norm0.weight', 'norm0.bias', 'norm3.weight', 'norm3.bias'} == set(
        small_nat().state_dict()
    )


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages(frozen_stages):
    model = small_nat(frozen_stages=frozen_stages, drop_rate=0.1)
    assert model.train() is model
    images = torch.randn(1, 3, 40, 40, requires_grad=True)
    sum(o.square().mean() for o in model(images)).backward()
    frozen_parts = ['patch_embed.'] if frozen_stages >= 0 else []
    frozen_parts += [f'{part}{i}.' for i in range(frozen_stages) for part in ('levels.', 'norm')]
    for name, parameter in model.named_parameters():
        frozen = name.startswith(tuple(frozen_parts)) if frozen_parts else False
        assert parameter.requires_grad is not frozen, name
        assert (parameter.grad is None) is frozen, name
    training = {name: module.training for name, module in model.named_modules()}
    assert training['levels.1'] is (frozen_stages < 2)
    assert training['pos_drop'] is (frozen_stages < 0)


def test_activation_checkpointing_changes_nothing():
    plain, recomputed = small_nat(), small_nat(with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 48, 48)
    results = []
    for model in (plain, recomputed):
        torch.manual_seed(1)  # stochastic depth
        sum(o.square().mean() for o in model(images)).backward()
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_stochastic_depth_grows_linearly():
    model = small_nat(drop_path_rate=0.4)
    rates = [b.drop_path.drop_prob for level in model.levels for b in level.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize('is_compiled', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_stochastic_depth_keeps_or_skips_whole_branches(dtype, is_compiled):
    torch.manual_seed(0)
    add = StochasticDepth(0.25)
    if is_compiled:
        add.compile(fullgraph=True, backend='aot_eager')
    x = torch.randn(4000, 1, 1, 2)
    branch = torch.randn(4000, 1, 1, 2, dtype=dtype, requires_grad=True)
    added = add(x, branch)
    assert added.dtype == x.dtype
    kept = (added != x).flatten(1).any(1)
    assert kept.float().mean() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(added[~kept], x[~kept])
    assert torch.allclose(added[kept], x[kept] + branch[kept].float() / 0.75, atol=1e-5)
    (grad,) = torch.autograd.grad(added.sum(), branch)
    assert torch.allclose(grad[kept], torch.full_like(grad[kept], 1 / 0.75))
    assert not grad[~kept].any()
    assert torch.equal(add.eval()(x, branch), x + branch)


# What the backbones keep for the backward, compute again in it, and copy.


def saved_bytes(function):
    """Bytes that autograd keeps for the backward of ``function``, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    return sum(storage.nbytes() for storage in storages.values()), output


def calls_of(function, operator):
    """The profiler's events of an operator."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        function()
    return [event for event in profiler.events() if event.name == operator]


@pytest.mark.parametrize('drop', [0.0, 0.3])
@pytest.mark.parametrize('autocast', [False, True])
def test_mlp_keeps_only_what_norm_and_gelu_start_from(drop, autocast, monkeypatch):
    torch.manual_seed(0)
    mlp, norm = Mlp(32, 96, drop), torch.nn.LayerNorm(32)
    x = torch.randn(2, 50, 32, requires_grad=True)

    def run():
        torch.manual_seed(1)
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            return mlp(x, norm)

    def gradients():
        return torch.autograd.grad(
            run().float().square().mean(), [x, *mlp.parameters(), *norm.parameters()]
        )

    kept, _ = saved_bytes(run)
    if not drop and not autocast:
        assert kept == x.nbytes + 3 * x.nbytes
    assert len(calls_of(gradients, 'aten::gelu')) == 2
    assert len(calls_of(gradients, 'aten::native_layer_norm')) == 2
    # Computing again stops within the calls of fc2 and fc1, before the bias is copied and added to.
    products = calls_of(gradients, 'aten::addmm')
    computed = ['aten::copy_' in [part.name for part in product.cpu_children] for product in products]
    assert computed == [True, True, False, False]
    found = gradients()
    with torch.no_grad():
        assert len(calls_of(run, 'aten::gelu')) == 1
    monkeypatch.setattr(layers, '_can_recompute', lambda x: False)
    more, _ = saved_bytes(run)
    assert more > kept
    assert len(calls_of(gradients, 'aten::gelu')) == 1
    for a, b in zip(found, gradients(), strict=True):
        assert torch.equal(a, b)


def test_recomputing_serves_second_derivatives_and_torch_func():
    model = small_nat(drop_path_rate=0.0)
    plain = copy.deepcopy(model).eval()
    images = torch.randn(1, 3, 40, 40)
    parameters = dict(model.named_parameters())

    def loss(model, parameters):
        outputs = torch.func.functional_call(model, parameters, (images,))
        return sum(output.square().mean() for output in outputs)

    results = []
    for module in (model, plain):
        first = torch.autograd.grad(loss(module, parameters), parameters.values(), create_graph=True)
        penalty = sum(grad.square().sum() for grad in first)
        second = torch.autograd.grad(penalty, parameters.values(), allow_unused=True)
        of_func = torch.func.grad(loss, argnums=1)(module, parameters)
        results.append([*first, *(grad for grad in second if grad is not None), *of_func.values()])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_gradients_of_every_sample_with_vmap():
    model = small_nat(drop_path_rate=0.0)
    images = torch.randn(3, 1, 3, 40, 40)
    parameters = dict(model.named_parameters())

    def loss(parameters, image):
        outputs = torch.func.functional_call(model, parameters, (image,))
        return sum(output.square().mean() for output in outputs)

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        wanted = torch.autograd.grad(loss(parameters, image), parameters.values())
        for a, b in zip(found.values(), wanted, strict=True):
            assert torch.allclose(a[i], b, atol=1e-5)


@pytest.mark.long
def test_compiled_backbone_trains():
    model = small_nat(drop_path_rate=0.0)
    compiled = torch.compile(model, fullgraph=True)
    images = torch.randn(1, 3, 48, 48)
    results = []
    for module in (model, compiled):
        loss = sum(output.square().mean() for output in module(images))
        results.append(torch.autograd.grad(loss, list(model.parameters())))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_compiled_blocks_share_code():
    """If they differ in nothing but weights, and how often stochastic depth skips them."""
    model = small_nat(depths=(4, 3), num_heads=(1, 2), out_indices=(0, 1), drop_path_rate=0.2)
    images = torch.randn(1, 3, 48, 64)

    def results():
        outputs = model(images)
        loss = sum(output.square().mean() for output in outputs)
        return [*outputs, *torch.autograd.grad(loss, list(model.parameters()))]

    model.eval()
    wanted = results()
    torch._dynamo.reset()
    counters.clear()
    for level in model.levels:
        for block in level.blocks:
            block.compile(fullgraph=True, backend='aot_eager')
    for actual, expect in zip(results(), wanted, strict=True):
        assert torch.allclose(actual, expect, atol=1e-5)
    assert counters['stats']['unique_graphs'] == 2
    model.train()
    results()
    assert counters['stats']['unique_graphs'] == 2 + 3  # stochastic depth never skips the first block


@pytest.mark.parametrize('family', ['NAT', 'DiNAT_s'])
def test_feature_maps_are_copied_only_where_they_are_returned(family):
    two_levels = dict(embed_dim=16, depths=(1, 1), num_heads=(1, 2), out_indices=(0, 1))
    model = NAT(mlp_ratio=2.0, **two_levels) if family == 'NAT' else DiNAT_s([[1], [1]], **two_levels)
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        clones = calls_of(lambda: model(images), 'aten::clone')
    # Weights, which begin with the number of output channels, may be copied: they are small.
    maps = [tuple(clone.input_shapes[0]) for clone in clones if clone.input_shapes[0][0] == 1]
    assert maps == [(1, 128, 128, 3), (1, 16, 32, 32), (1, 32, 16, 16)]


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (dict(arch='tniy'), "one of mini, tiny, small, base, got 'tniy'; did you mean 'tiny'"),
        (dict(), 'needs arch, one of mini, tiny, small, base, or explicit embed_dim, depths'),
        (SMALL | dict(num_heads=(1, 2)), 'num_heads must have one entry per level'),
        (SMALL | dict(dilations=[[1], [1], [1], [1]]), 'dilations must be one list per level'),
        (SMALL | dict(dilations=[1, 2, 1, 1]), r'dilations must be .* got \[1, 2, 1, 1\]'),
        (SMALL | dict(out_indices=7), 'out_indices must name levels from 0 to 3'),
        (SMALL | dict(out_indices=(0, 4)), 'out_indices must name levels from 0 to 3'),
        (SMALL | dict(frozen_stages=5), 'frozen_stages must be'),
        (SMALL | dict(layer_scale=0.0), 'layer_scale must be positive'),
        (SMALL | dict(num_heads=(3, 2, 4, 8)), 'dim must be a positive multiple of num_heads'),
        (SMALL | dict(kernel_size=0), 'kernel_size must be positive'),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        NAT(**arguments)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (
            dict(pretrained='x.pth'),
            r"'pretrained': write init_cfg=dict\(type='Pretrained', checkpoint='x\.pth'\)",
        ),
        (dict(pretrained=None), "'pretrained': leave it out$"),
        (dict(in_chans=1), "'in_chans': write in_channels=1$"),
        (dict(use_checkpoint=True), "'use_checkpoint': write with_cp=True$"),
        (dict(layer_scale_init_value=0.0), "'layer_scale_init_value': leave it out$"),
        (dict(norm_eval=True), "'norm_eval': leave it out, "),
        (dict(banana=1), "'banana': it takes arch, embed_dim, "),
        (
            dict(in_patch_size=4, ape=False),
            "'in_patch_size': leave it out, .*; argument 'ape': leave it out, ",
        ),
        (dict(embed_dimension=8), "'embed_dimension': the nearest that it takes is 'embed_dim'$"),
    ],
)
def test_arguments_of_other_implementations(arguments, words):
    for family, extra in ((NAT, {}), (DiNAT, DILATED), (DiNAT_s, DILATED)):
        with pytest.raises(TypeError, match=f'^{family.__name__} does not take argument {words}'):
            family(**(SMALL | extra | arguments))


# Published weights: what init_cfg=dict(type='Pretrained') takes and refuses.


def save(path, checkpoint):
    torch.save(checkpoint, path)
    return str(path)


def initialized(path, **kwargs):
    model = small_nat(init_cfg=dict(type='Pretrained', checkpoint=path), **kwargs)
    model.init_weights()
    return model


@pytest.mark.parametrize('kind', ['classification', 'detection', 'segmentation', 'parallel'])
def test_pretrained(kind, tmp_path):
    source = small_nat()
    fill_parameters(source)
    weights = source.state_dict()
    if kind == 'classification':
        weights = {k: v for k, v in weights.items() if not k.startswith('norm')}
        weights |= {'norm.weight': torch.ones(128), 'head.weight': torch.ones(1000, 128)}
    else:
        weights = {f'backbone.{k}': v for k, v in weights.items()}
        weights['decode_head.conv.weight' if kind == 'segmentation' else 'neck.x'] = torch.ones(1)
    if kind == 'parallel':
        weights = {f'module.{k}': v for k, v in weights.items()}
    path = save(tmp_path / 'weights.pth', dict(state_dict=weights, meta=dict(epoch=1)))
    model = initialized(path)
    for name, value in source.state_dict().items():
        if kind == 'classification' and name.startswith('norm'):
            wanted = torch.full_like(value, float(name.endswith('weight')))
            assert torch.equal(model.state_dict()[name], wanted)
        else:
            assert torch.equal(model.state_dict()[name], value)


def test_pretrained_in_a_list_with_prefix_and_only_once(tmp_path):
    source = small_nat()
    fill_parameters(source)
    weights = {f'student.backbone.{k}': v for k, v in source.state_dict().items() if 'norm0' not in k}
    path = save(tmp_path / 'weights.pth', dict(state_dict=weights, meta={1: 'one'}))
    entry = dict(type='Pretrained', checkpoint=path, prefix='student.backbone.')
    model = small_nat(init_cfg=[dict(type='Constant', layer='LayerNorm', val=3.0), entry])
    model.init_weights()
    assert torch.equal(model.norm0.weight, torch.full((16,), 3.0))
    assert torch.equal(model.levels[1].blocks[1].attn.rpb, source.levels[1].blocks[1].attn.rpb)
    with torch.no_grad():
        model.norm1.weight.fill_(5.0)
    model.init_weights()
    assert torch.equal(model.norm1.weight, torch.full((32,), 5.0))
    with pytest.raises(CheckpointError, match="no keys that start with 'teacher"):
        load_pretrained(small_nat(), path, 'teacher.')


def test_pretrained_from_a_checkpoint_that_mmengine_wrote(tmp_path):
    from mmengine.logging import MessageHub

    hub = MessageHub('pretrained')
    hub.update_scalar('train/loss', 1.0)
    weights = {f'backbone.{k}': v for k, v in small_nat().state_dict().items()}
    path = save(tmp_path / 'epoch_1.pth', dict(state_dict=weights, message_hub=hub.state_dict()))
    initialized(path)


def test_damaged_files_are_refused(tmp_path):
    whole = tmp_path / 'whole.pth'
    torch.save(small_nat().state_dict(), whole, _use_new_zipfile_serialization=False)
    data = whole.read_bytes()
    for content in (b'', b'R', b'a text', *(data[:end] for end in (1, 30, 300, 3000, len(data) - 1))):
        whole.write_bytes(content)
        with pytest.raises(CheckpointError, match='cut short or not a torch checkpoint'):
            initialized(str(whole))


def test_pretrained_reports(tmp_path, capfd):
    from mmengine.logging import MMLogger

    MMLogger.get_instance('report', log_level='INFO')
    weights = {k: v for k, v in small_nat().state_dict().items() if not k.startswith('norm0')}
    initialized(save(tmp_path / 'w.pth', weights), out_indices=(0, 1, 2))
    printed = ''.join(capfd.readouterr())
    assert 'initialized anew: norm0.bias, norm0.weight' in printed
    assert 'not used: norm3.bias, norm3.weight' in printed


def test_pretrained_resizes_rpb(tmp_path):
    path = save(tmp_path / 'weights.pth', small_nat(kernel_size=5).state_dict())
    model = initialized(path)
    assert model.levels[0].blocks[0].attn.rpb.shape == (1, 5, 5)
    table = torch.linspace(0, 1, 9).expand(2, 9, 9)
    assert torch.allclose(resize_rpb(table, torch.Size((2, 13, 13)))[0, 0, [0, 6, 12]],
                          torch.tensor([0.0, 0.5, 1.0]), atol=1e-6)  # fmt: skip


def test_pretrained_refuses(tmp_path):
    good = small_nat().state_dict()
    cases = {
        'another depth': (dict(state_dict=small_nat(depths=(1, 1, 1, 1)).state_dict()), 'is missing'),
        'another width': (small_nat(embed_dim=32).state_dict(), 'is of another architecture'),
        'another head count': (
            small_nat(kernel_size=5, num_heads=(2, 2, 4, 8)).state_dict(),
            'which has 1 heads',
        ),
        'another family': (torch.nn.Linear(2, 2).state_dict(), 'is of another architecture'),
        'no weights': (dict(epoch=3), 'holds no state dict'),
    }
    for checkpoint, words in cases.values():
        with pytest.raises(CheckpointError, match=words):
            initialized(save(tmp_path / 'w.pth', checkpoint))
    path = save(tmp_path / 'w.pth', good)
    data = (tmp_path / 'w.pth').read_bytes()
    (tmp_path / 'w.pth').write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match='cut short or not a torch checkpoint'):
        initialized(path)
    with pytest.raises(CheckpointError, match=r'absent\.pth does not exist'):
        initialized(str(tmp_path / 'absent.pth'))


class Malicious:
    def __reduce__(self):
        return print, ('executed',)


def test_pretrained_never_executes_code(tmp_path, capsys):
    path = save(tmp_path / 'w.pth', dict(state_dict=Malicious()))
    with pytest.raises(CheckpointError, match='could run code'):
        load_pretrained(small_nat(), path)
    assert 'executed' not in capsys.readouterr().out


def test_damaged_download_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    file = tmp_path / 'checkpoints' / 'nat_mini.pth'
    file.parent.mkdir()
    file.write_bytes(b'<html>')
    with pytest.raises(CheckpointError, match=f'delete {file} and start again'):
        initialized('http://localhost:9/nat_mini.pth')


def test_failed_download_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(CheckpointError, match=r'put it at .*nat_mini\.pth, or train from random weights'):
        initialized('http://localhost:9/nat_mini.pth')


@pytest.mark.parametrize(
    ('one', 'other'), [('mmdet', 'mmseg'), pytest.param('mmseg', 'mmdet', marks=pytest.mark.long)]
)
def test_packages_register_without_each_other(one, other):
    if importlib.util.find_spec(one) is None:
        pytest.skip(f'{one} is not installed')
    program = (
        f'import sys; sys.modules[{other!r}] = None\n'
        f'import {one}_nat\n'
        f'from {one}.registry import MODELS\n'
        "config = dict(type='NAT', arch='mini', drop_path_rate=0.1)\n"
        "assert type(MODELS.build(config)).__name__ == 'NAT'\n"
        "assert MODELS.get('DiNAT') and MODELS.get('DiNAT_s') and MODELS.get('NeighborhoodAttention2D')"
    )
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
