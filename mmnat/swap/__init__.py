"""Swaps the backbone of any mmdet or mmseg config for NAT, DiNAT or DiNAT_s.

What a user calls is in mmdet_nat and in mmseg_nat, which know the framework.
"""

from .calls import calls_for
from .framework import Framework, load_framework
from .refusal import SwapRefused
from .report import Change, Report
from .rewrite import swap
from .variants import NAMES

__all__ = ['NAMES', 'Change', 'Framework', 'Report', 'SwapRefused', 'calls_for', 'load_framework', 'swap']
