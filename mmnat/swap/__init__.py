"""Swaps the backbone of any mmdet or mmseg config for NAT, DiNAT or DiNAT_s.

Users call ``swap_backbone`` and ``swapped`` of mmdet_nat or mmseg_nat, which know the framework.
"""

from .editor import ConfigEditor
from .framework import Framework, load_framework
from .inherit import swapped_fields
from .refusal import SwapRefused
from .report import Change, Report
from .rewrite import swap, swap_and_log
from .variants import NAMES

__all__ = [
    'NAMES',
    'Change',
    'ConfigEditor',
    'Framework',
    'Report',
    'SwapRefused',
    'load_framework',
    'swap',
    'swap_and_log',
    'swapped_fields',
]
