"""Time backbones on a GPU in mixed precision: NAT-Tiny and DiNAT_s-Tiny beside timm's Swin-Tiny.

Forward is in evaluation mode. A step is forward, backward and AdamW in float16 autocast. Modes:

- eager: as written. The host may take longer to start the kernels than the GPU to run them.
- graph: the same kernels from a CUDA graph, without the host.
- compile: every block compiled by itself, so that blocks of a kind share their code.
- compile-whole: the whole backbone compiled, which takes minutes.

A row has the milliseconds that pass for the caller, those that the GPU's kernels take in all, and how many
kernels and copies are launched. first_seconds has the first call, with what is compiled or captured before
it. Rows are written as soon as they are measured; what fails has a row with the reason.
"""

import argparse
import gc
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.lib.gpu import describe, kernel_times, median_seconds, row_writer

DEVICE = 'cuda'
# Batch, height and width: a detector's and a classifier's.
IMAGES = ('4x800x1216', '128x224x224')
MODES = ('eager', 'graph', 'compile', 'compile-whole')
DROP_PATH = 0.2
REPEATS = 10
# Blocks that differ in more than their weights have code of their own; torch stops at 8 kinds by default.
MOST_KINDS = 128
WHAT = (
    f'float16 autocast, AdamW, stochastic depth {DROP_PATH}; medians of {REPEATS}; gpu_milliseconds and'
    ' launches are of kernels and copies'
)

Call = Callable[[], object]


def nat(height: int, width: int) -> nn.Module:
    """NAT-Tiny."""
    from mmnat.models import NAT

    return NAT(arch='tiny', drop_path_rate=DROP_PATH)


def dinat_s(height: int, width: int) -> nn.Module:
    """DiNAT_s-Tiny, of Swin-Tiny's widths and depths; every second block has the widest windows."""
    from mmnat.models import DiNAT_s

    widest = [max(min(height, width) // stride // 7, 1) for stride in (4, 8, 16, 32)]
    depths = DiNAT_s.arch_zoo['tiny']['depths']
    dilations = [
        [wide if i % 2 else 1 for i in range(depth)] for wide, depth in zip(widest, depths, strict=True)
    ]
    return DiNAT_s(arch='tiny', dilations=dilations, drop_path_rate=DROP_PATH)


def swin(height: int, width: int) -> nn.Module:
    """Swin-Tiny, all four maps, attention by scaled_dot_product_attention."""
    import timm

    return timm.create_model(
        'swin_tiny_patch4_window7_224',
        features_only=True,
        out_indices=(0, 1, 2, 3),
        img_size=(height, width),
        drop_path_rate=DROP_PATH,
    )


BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {
    'NAT-Tiny': nat,
    'DiNAT_s-Tiny': dinat_s,
    'Swin-Tiny': swin,
}


def compile_blocks(backbone: nn.Module, **options: object) -> int:
    """Compile every block of a backbone by itself, in place; returns how many there are."""
    torch._dynamo.config.recompile_limit = MOST_KINDS
    blocks = [module for module in backbone.modules() if type(module).__name__.endswith('Block')]
    for block in blocks:
        block.compile(**options)
    return len(blocks)


def build_calls(name: str, mode: str, batch: int, height: int, width: int) -> dict[str, Call]:
    """A forward in evaluation mode and a training step of a backbone."""
    torch.manual_seed(0)
    backbone = BACKBONES[name](height, width).to(DEVICE)
    run = torch.compile(backbone) if mode == 'compile-whole' else backbone
    if mode == 'compile' and not compile_blocks(backbone):
        raise ValueError('the backbone has no blocks to compile')
    images = torch.randn(batch, 3, height, width, device=DEVICE)
    # capturable: the number of steps is on the GPU.
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-5, fused=True, capturable=True)

    def outputs() -> Sequence[torch.Tensor]:
        # Weights that autocast keeps must not outlive the graph whose memory they are in.
        with torch.autocast(DEVICE, torch.float16, cache_enabled=mode != 'graph'):
            return run(images)

    def forward() -> None:
        backbone.eval()
        with torch.no_grad():
            outputs()

    def step() -> None:
        backbone.train()
        optimizer.zero_grad()  # in a capture the gradients become memory of the graph
        maps = outputs()
        torch.autograd.backward(maps, [torch.full_like(each, 1e-4) for each in maps])
        optimizer.step()

    return {'forward': forward, 'step': step}


def capture(call: Call) -> Call:
    """The kernels of a call as a CUDA graph: what is returned launches them all at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def wall_seconds(call: Call) -> float:
    """Time until a call has ended on the host and on the GPU."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(call: Call, mode: str, batch: int) -> dict[str, float]:
    """The figures of a row."""
    began = time.perf_counter()
    if mode == 'graph':
        call = capture(call)
    wall_seconds(call)
    first = time.perf_counter() - began
    torch.cuda.reset_peak_memory_stats()
    took = median_seconds(call, wall_seconds, REPEATS)
    figures = dict(milliseconds=round(1e3 * took, 2), images_per_s=round(batch / took, 1))
    if mode != 'graph':  # the memory of a graph is taken before it runs
        figures |= dict(peak_mb=round(torch.cuda.max_memory_allocated() / 1e6))
    kernels = kernel_times(call)
    return figures | dict(
        gpu_milliseconds=round(sum(kernel.microseconds for kernel in kernels) / 1e3, 2),
        launches=round(sum(kernel.launches for kernel in kernels)),
        first_seconds=round(first, 1),
    )


def measure_backbone(emit: Callable[..., None], name: str, mode: str, images: str) -> None:
    """Write the rows of a backbone, or one that says why there is none."""
    batch, height, width = map(int, images.split('x'))
    row: dict[str, object] = dict(backbone=name, images=images, mode=mode)
    try:
        calls = build_calls(name, mode, batch, height, width)
    except Exception as error:
        emit(**row, failed=reason(error))
        return
    for direction, call in calls.items():
        try:
            figures = measure(call, mode, batch)
        except Exception as error:
            emit(**row, direction=direction, failed=reason(error))
        else:
            emit(**row, direction=direction, **figures)


def reason(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'[:200]


def free_memory() -> None:
    """Give back what was compiled or captured, and the memory of all tensors."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def backbone_name(text: str) -> str:
    """A name on the command line."""
    if text not in BACKBONES:
        raise argparse.ArgumentTypeError(f'{text!r} is none of {", ".join(BACKBONES)}')
    return text


def image_sizes(text: str) -> str:
    """Sizes on the command line."""
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*){2}', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not like {IMAGES[0]}')
    return text


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('names', nargs='*', type=backbone_name, help=f'of {", ".join(BACKBONES)}; all')
    parser.add_argument('--mode', nargs='+', choices=MODES, default=MODES[:3], help='%(default)s')
    parser.add_argument(
        '--images', nargs='+', type=image_sizes, default=IMAGES, help='batch, height, width; %(default)s'
    )
    parser.add_argument('--out', type=Path, help='append rows to this file, a JSON object each')
    args = parser.parse_args(argv)
    emit = row_writer(args.out)
    emit(**describe('python -m benchmarks.gpu_models', WHAT))
    # What takes longest comes last.
    for mode in args.mode:
        for images in args.images:
            for name in args.names or BACKBONES:
                measure_backbone(emit, name, mode, images)
                free_memory()


if __name__ == '__main__':
    main()
