"""The logic of the demo. That its configs train is tested with the configs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmnat.commands import demo
from mmnat.config_files import find_config


@pytest.fixture
def rehearse(monkeypatch, tmp_path):
    """Run the demo with tools that only leave the files behind which the real ones would."""
    config = type('Config', (), dict(pretty_text='settings'))
    monkeypatch.setattr(demo, 'parse_config', lambda path, import_custom_modules: config)
    monkeypatch.setattr(demo, 'make_demo_data', lambda *arguments: None)
    monkeypatch.chdir(tmp_path)
    calls = []

    def rehearse(metrics, task='detection'):
        work_dir = demo.DEMOS[task].work_dir

        def run_command(name, *arguments):
            calls.append((name, *map(str, arguments)))
            if name == 'train':
                (work_dir / 'last_checkpoint').write_text('epoch_1.pth')
            if name == 'test':
                log = work_dir / 'evaluation' / 'now' / 'now.json'
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(json.dumps(metrics) + '\n')

        monkeypatch.setattr(demo, 'run_command', run_command)
        demo.main([task])
        return calls

    return rehearse


def test_prints_metrics_and_paths_and_resumes(rehearse, capsys):
    metrics = {'coco/bbox_mAP_50': 0.61, 'coco/segm_mAP_50': 0.5}
    calls = rehearse(metrics)
    assert [name for name, *_ in calls] == ['train', 'test', 'predict', 'plot']
    assert '--resume' not in calls[0]
    printed = capsys.readouterr().out
    assert 'coco/bbox_mAP_50   0.610' in printed and 'curves.png' in printed and 'predictions/' in printed
    assert '--resume' in rehearse(metrics)[4]


@pytest.mark.parametrize('metrics', [{'mIoU': 59.9}, {}, {'mIoU': float('nan')}])
def test_fails_below_what_it_should_reach(rehearse, capsys, metrics):
    with pytest.raises(SystemExit) as exit_info:
        rehearse(metrics, 'segmentation')
    assert exit_info.value.code == 2
    assert 'mIoU is lower than expected' in capsys.readouterr().err


def test_refuses_a_work_directory_of_other_settings(rehearse, capsys, monkeypatch):
    rehearse({'mIoU': 70.0}, 'segmentation')
    monkeypatch.setattr(demo, 'SEED', 1)
    with pytest.raises(SystemExit) as exit_info:
        rehearse({'mIoU': 70.0}, 'segmentation')
    assert exit_info.value.code == 2
    assert 'was trained with other settings; remove or rename it' in capsys.readouterr().err


def test_a_tool_that_fails_ends_the_demo(capsys):
    with pytest.raises(demo.UserError, match=r'mmnat train ended with exit code 2'):
        demo.run_command('train', 'absent.py')


def test_ctrl_c_leaves_no_traceback(rehearse, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, 'make_demo_data', interrupted)
    with pytest.raises(SystemExit) as exit_info:
        demo.main(['detection'])
    assert exit_info.value.code == 130
    assert capsys.readouterr().err == 'interrupted\n'


def test_configs_exist():
    assert all(Path(find_config(one.config)).is_file() for one in demo.DEMOS.values())


def test_starts_without_torch():
    program = """if True:
        import sys
        from mmnat.commands import demo
        for one in demo.DEMOS.values():
            demo.parse_config(one.config, import_custom_modules=False)
        print(*{'torch', 'mmdet', 'mmseg'} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ''), done.stderr
