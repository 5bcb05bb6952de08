"""The GPU's figures in the documentation are those of the results."""

import json
from pathlib import Path

import gpu_tables
import pytest

from mmnat.errors import UserError


def test_the_documentation_has_the_figures_of_the_results():
    figures = gpu_tables.Figures(gpu_tables.RESULTS)
    speed = (gpu_tables.ROOT / 'docs/speed.md').read_text()
    assert f'<!-- gpu -->\n{gpu_tables.table(figures)}\n<!-- end of gpu -->' in speed
    readme = ' '.join((gpu_tables.ROOT / 'README.md').read_text().split())
    assert gpu_tables.sentence(figures) in readme


def test_a_table_has_every_map_and_the_share_of_the_copy():
    table = gpu_tables.table(gpu_tables.Figures(gpu_tables.RESULTS)).splitlines()
    lines = [line for line in table if line.startswith('| ') and 'forward' in line]
    assert len(lines) == 8
    assert lines[0].startswith('| 200x304 x 2 | forward | **219** | 54 % | 2779 |')


def test_an_unfinished_report_is_refused(tmp_path: Path):
    path = tmp_path / 'times.jsonl'
    lines = gpu_tables.RESULTS.read_text().splitlines()
    own = [line for line in lines if json.loads(line).get('implementation') != 'swin-sdpa']
    path.write_text('\n'.join(own))
    with pytest.raises(UserError, match=r"no row with .*'swin-sdpa'.*run benchmarks/gpu_report.sh"):
        gpu_tables.table(gpu_tables.Figures(path))
