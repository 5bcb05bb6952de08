"""Where configs are found, by path, by package and by bare name."""

from pathlib import Path

import pytest

from mmnat.commands import configs
from mmnat.config import read_config
from mmnat.config_files import check_dump, find_config, framework_folder, own_configs, project_folder
from mmnat.errors import UserError
from mmnat.zoo import published_models

NAME = 'mask-rcnn_nat-tiny_fpn_amp-ms-crop-3x_coco'
PATH = str(project_folder() / f'configs/nat/{NAME}.py')
RETINANET = 'retinanet/retinanet_r50_fpn_1x_coco.py'


@pytest.mark.parametrize('name', [PATH, NAME, f'{NAME}.py', f'mmnat::nat/{NAME}.py'])
def test_own_configs_are_found_by_path_and_name(name):
    assert find_config(name) == PATH


def test_configs_of_frameworks_are_found():
    assert find_config(f'mmdet::{RETINANET}') == str(framework_folder('mmdet') / RETINANET)


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f'{NAME}.py').touch()
    assert find_config(f'{NAME}.py') == f'{NAME}.py'
    assert find_config(NAME) == PATH


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mask-rcnn_nat-tiny_fpn_amp-ms-crop-3x_coko', rf'does not exist \(nearest: {NAME}'),
        ('absent/retina.py', 'config absent/retina.py does not exist; check the path'),
        ('mmdet::absent.py', 'config mmdet::absent.py does not exist; name one of those in '),
        ('timm::vit.py', "is of 'timm'; name one of mmdet, mmseg, mmnat"),
    ],
)
def test_absent_configs_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        find_config(name)


def test_names_are_unique():
    names = [path.stem for path in own_configs()]
    assert len(names) == len(set(names)) > len(published_models())


def test_a_config_inherits_ours_by_package(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmnat::nat/{NAME}.py'\nmodel = dict(backbone=dict(arch='mini'))")
    cfg = read_config(str(path))
    assert cfg.model.backbone.type == 'NAT' and cfg.model.backbone.arch == 'mini'


def test_list_of_configs_has_the_published_figures(capsys):
    configs.main(['nat-tiny_fpn'])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ['config', 'params', 'MACs', 'published', 'results']
    (line,) = [line for line in lines if line.startswith(f'{NAME} ')]
    model = published_models()[f'configs/nat/{NAME}.py']
    assert line.split()[1:5] == [f'{model.params:.0f}', 'M', f'{model.macs:.0f}', 'G']
    assert line.endswith('box AP 47.7, mask AP 42.6')
    assert not any('upernet' in line for line in lines)


def test_list_takes_patterns_and_refuses_what_matches_nothing(capsys):
    configs.main(['mask-rcnn*coco'])
    assert NAME in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_info:
        configs.main(['resnet'])
    assert exit_info.value.code == 2 and "no config has 'resnet' in its name" in capsys.readouterr().err


def test_only_what_mmengine_writes_is_replaced(tmp_path):
    path = tmp_path / 'config.py'
    check_dump(str(path), 'work_dir x')
    for text in (f'_base_ = {PATH!r}\n', 'a = 1  # mine\n', 'from os import path\n', 'a = (\n'):
        path.write_text(text)
        with pytest.raises(UserError, match=r'work_dir x: the run would overwrite the config .*; name'):
            check_dump(str(path), 'work_dir x')
    read_config(PATH).dump(path)
    check_dump(str(path), 'work_dir x')


def test_no_config_is_written_through_a_link(tmp_path):
    (tmp_path / 'mine.py').write_text('a = 1\n')
    for target in ('mine.py', 'gone.py'):
        link = tmp_path / f'link to {target}'
        link.symlink_to(tmp_path / target)
        with pytest.raises(
            UserError, match=f'through the symbolic link .* to .*/{target}; remove the link'
        ):
            check_dump(str(link), 'work_dir x')
