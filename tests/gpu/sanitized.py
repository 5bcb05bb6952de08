"""Small problems of all kinds, for compute-sanitizer; run as a script.

Numbers are drawn and compared on the CPU, so that few kernels but the operator's are watched.
"""

import torch
from attention import DTYPES, Problem
from on_gpu import draw, run

FUSED = ('fused',) * 3 + ('contiguous',)
SLICED = ('sliced',) * 4
# Spatial sizes, head_dim, kernel sizes, dilations, layouts.
SHAPES = (
    ((7, 7), 32, (7, 7), (1, 1), FUSED),
    ((11, 19), 32, (7, 7), (1, 2), FUSED),
    ((9, 33), 32, (5, 3), (1, 1), FUSED),
    ((13, 14), 64, (13, 13), (1, 1), FUSED),
    ((8, 9), 40, (4, 7), (2, 1), FUSED),
    ((10, 11), 128, (3, 5), (3, 2), FUSED),
    ((10, 21), 3, (3, 3), (1, 4), SLICED),
    ((70,), 32, (9,), (4,), FUSED),
)


def main() -> None:
    for dtype, precision in (*((dtype, 'ieee') for dtype in DTYPES), (torch.float32, 'tf32')):
        torch.backends.cuda.matmul.fp32_precision = precision
        for spatial, head_dim, kernel_size, dilation, layouts in SHAPES:
            for rpb in (None, dtype):
                problem = Problem(2, spatial, 3, head_dim, kernel_size, dilation, dtype, rpb, layouts)
                assert all(t.cpu().isfinite().all() for t in run(problem, *draw(problem))), problem
    torch.cuda.synchronize()
    print('all ran')


if __name__ == '__main__':
    main()
