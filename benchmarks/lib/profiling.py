"""Where the time of a computation goes, by kind of operator."""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

# The profiler's library announces every start and stop otherwise.
os.environ.setdefault('KINETO_LOG_LEVEL', '99')
LINEAR, COPIES, OTHER = 'linear', 'copies', 'other'
# By parts of the operators' names; the first kind that fits counts.
_KINDS = {
    'attention': ('natten_ops', 'scaled_dot_product', 'softmax', 'aten::bmm'),
    LINEAR: ('aten::addmm', 'aten::mm', 'aten::linear', 'mkldnn_linear'),
    'convolution': ('conv',),
    'norm': ('norm',),
    'gelu': ('gelu',),
    COPIES: (
        'aten::copy_', 'aten::clone', 'aten::contiguous', 'aten::cat', 'aten::stack', 'aten::_to_copy',
        'aten::constant_pad', 'aten::roll', 'aten::index', 'aten::slice_backward', 'aten::select_backward',
    ),
    'fills': ('aten::fill_', 'aten::zero', 'aten::empty', 'aten::ones', 'aten::masked_fill'),
    'elementwise': ('aten::add', 'aten::mul', 'aten::div', 'aten::sub', 'aten::sum'),
}  # fmt: skip
KINDS = (*_KINDS, OTHER)


@dataclass(frozen=True)
class OperatorTime:
    """What one operator took in one pass.

    Attributes:
        kind: Of :data:`KINDS`.
        operator: Name in torch.
        calls: In a pass.
        milliseconds: In a pass, without the operators that it calls.
    """

    kind: str
    operator: str
    calls: float
    milliseconds: float


def kind_of(operator: str) -> str:
    """The kind of an operator of torch."""
    for kind, parts in _KINDS.items():
        if any(part in operator for part in parts):
            return kind
    return OTHER


def place(event: FunctionEvent) -> tuple[str, str]:
    """Kind and name of an operator; the name of a copy also says what it is made for."""
    kind = kind_of(event.name)
    if kind != COPIES:
        return kind, event.name
    caller = event.cpu_parent
    while caller is not None and kind_of(caller.name) == COPIES:
        caller = caller.cpu_parent
    if caller is None:
        return kind, event.name
    # A linear layer copies its bias into the output before it multiplies: no change of layout.
    kind = LINEAR if kind_of(caller.name) == LINEAR else kind
    return kind, f'{event.name} in {caller.name.removeprefix("autograd::engine::evaluate_function: ")}'


def profile_call(call: Callable[[], object], passes: int) -> list[OperatorTime]:
    """Profile a call on the CPU.

    Args:
        call: What to profile; it is warmed up first.
        passes: How often to run it.

    Returns:
        All operators, the longest first.
    """
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(passes):
            call()
    calls: dict[tuple[str, str], int] = defaultdict(int)
    microseconds: dict[tuple[str, str], float] = defaultdict(float)
    for event in profiler.events():
        operator = place(event)
        calls[operator] += 1
        microseconds[operator] += event.self_cpu_time_total
    times = [
        OperatorTime(*operator, calls[operator] / passes, microseconds[operator] / 1e3 / passes)
        for operator in calls
    ]
    return sorted(times, key=lambda time: -time.milliseconds)


def by_kind(times: list[OperatorTime]) -> dict[str, float]:
    """Milliseconds by kind."""
    total: dict[str, float] = defaultdict(float)
    for time in times:
        total[time.kind] += time.milliseconds
    return {kind: total[kind] for kind in KINDS}
