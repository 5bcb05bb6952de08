"""A compact numerical suite under the instruction set that ATEN_CPU_CAPABILITY names.

Run as a script, because torch and natten_ops read the variable once. Prints the instruction set in use.
"""

import random

import torch

#: Values of the variable, from the plainest on.
CAPABILITIES = ('default', 'avx2', 'avx512')


def supported() -> tuple[str, ...]:
    """The values that this machine has, as torch found it."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    return CAPABILITIES[: CAPABILITIES.index(best) + 1] if best in CAPABILITIES else CAPABILITIES[:1]


def main() -> None:
    from attention import DTYPES, Problem, check, random_problem
    from not_finite import PLACES, patterns

    source = random.Random(0)
    for dtype in DTYPES:
        for _ in range(20):
            check(random_problem(source, dtype))
        for width, heads, head_dim in ((67, 1, 32), (150, 3, 40)):
            check(Problem(1, (10, width), heads, head_dim, (5, 7), (1, 2), dtype, dtype, ('fused',) * 4))
    for place in PLACES:
        for name, actual, wanted in patterns(float('nan'), place, (9, 20), 3, 2):
            assert torch.equal(actual, wanted), name
    print(torch.ops.natten_ops.cpu_capability())


if __name__ == '__main__':
    main()
