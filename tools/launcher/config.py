"""Loading a config and applying the options of the command line to it."""

import argparse
import os
import os.path as osp
from types import TracebackType

from mmengine.config import Config, DictAction
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed
from user_errors import UserError

FRAMEWORKS = ('mmdet', 'mmseg')
# Fields that a runnable config has since mmdet 3.0 and mmseg 1.0, and those that it had before.
_FIELDS = ('train_dataloader', 'test_dataloader', 'optim_wrapper')
_FORMER_FIELDS = (
    *('data', 'optimizer', 'optimizer_config', 'lr_config', 'runner', 'total_epochs'),
    *('checkpoint_config', 'evaluation', 'model.pretrained'),
)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument('--work-dir', help='the directory to save logs and results in')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config, as key=value pairs, for example '
        'train_dataloader.batch_size=2 or key="[(a,b),(c,d)]" without white space',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run are started',
    )
    # torch.distributed.launch passes --local-rank, before torch 2.0 --local_rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Load the config of a training or a test run.

    Args:
        args (argparse.Namespace): Parsed options, see :func:`add_config_options`.

    Returns:
        Config: The config with ``work_dir`` and ``launcher`` set.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    if args.cfg_options:
        _merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    # The command line comes before the config, the config before its file name.
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    return cfg


def read_config(path: str) -> Config:
    """Read a config file and register the modules of its framework.

    Args:
        path (str): The config file.

    Returns:
        Config: The config.
    """
    cfg = parse_config(path)
    _check_generation(cfg)
    _register_modules(cfg)
    return cfg


def parse_config(path: str, import_custom_modules: bool = True) -> Config:
    """Read a config file and those that it inherits from.

    Args:
        path (str): The config file.
        import_custom_modules (bool): Import what its ``custom_imports`` name. Without, neither torch nor a
            framework is imported, which takes many seconds.

    Returns:
        Config: The config.

    Raises:
        UserError: The file does not exist or does not load.
    """
    if not osp.isfile(path):
        raise UserError(f'config {path} does not exist', 'check the path')
    _find_mmseg_configs()
    try:
        return Config.fromfile(path, import_custom_modules=import_custom_modules)
    except ImportError as error:
        # mmengine appends sys.path to its message, one entry a line.
        raise UserError(
            f'config {path} does not load: {str(error.__cause__ or error).splitlines()[0]}',
            'install the package, or add its directory to PYTHONPATH',
        ) from error
    except Exception as error:
        place, reason = _locate(path, error)
        raise UserError(f'config {place} does not load: {reason}', 'correct it') from error


def framework(cfg: Config) -> str:
    """Return the framework of a config, ``'mmdet'`` or ``'mmseg'``."""
    return cfg.default_scope


def require_fields(cfg: Config, *names: str) -> None:
    """Raise :class:`UserError` if a top-level field of the config is missing or None."""
    missing = [name for name in names if cfg.get(name) is None]
    if missing:
        raise UserError(
            f'config {cfg.filename} lacks {", ".join(missing)}',
            'define them, or inherit them through _base_',
        )


def _check_generation(cfg: Config) -> None:
    """Raise :class:`UserError` for a config of mmdet 2.x or mmseg 0.x."""
    model = cfg.get('model')
    names = [*cfg, *(f'model.{name}' for name in (model if isinstance(model, dict) else ()))]
    former = [name for name in _FORMER_FIELDS if name in names]
    # mmseg still has model.pretrained.
    if former in ([], ['model.pretrained']) or any(name in names for name in _FIELDS):
        return
    raise UserError(
        f'config {cfg.filename} is of mmdet 2.x or mmseg 0.x: it has {", ".join(former)}, and not'
        f' {", ".join(_FIELDS)}',
        'take the same model from configs/; tools/convert_checkpoint.py converts weights',
    )


def _register_modules(cfg: Config) -> None:
    scope = cfg.get('default_scope')
    if scope not in FRAMEWORKS:
        raise UserError(
            f'config {cfg.filename} has default_scope = {scope!r}',
            f'set it to one of {", ".join(map(repr, FRAMEWORKS))}, or inherit a '
            'default_runtime.py of the framework through _base_',
        )
    if scope == 'mmdet':
        from mmdet.utils import register_all_modules
    else:
        from mmseg.utils import register_all_modules
    register_all_modules(init_default_scope=True)


def _find_mmseg_configs() -> None:
    # mmengine looks for the configs in `mmseg::` under the name of the original distribution.
    # Another one, such as onedl-mmsegmentation, it finds by the name of the module.
    if not is_installed('mmsegmentation'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def _merge_options(cfg: Config, options: dict) -> None:
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip('"').splitlines()[0]
        raise UserError(
            f'--cfg-options does not fit config {cfg.filename}: {reason}', 'correct the keys'
        ) from error


def _locate(path: str, error: Exception) -> tuple[str, str]:
    """Find the file and line of the config, or of one of its bases, that an error is about."""
    files = _config_files(path, error.__traceback__)
    line = error.lineno if isinstance(error, SyntaxError) else None
    place = files[-1]
    traceback = error.__traceback__
    while line is None and traceback is not None:
        if traceback.tb_frame.f_code.co_filename in files:
            place, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next
    reason = f'{type(error).__name__}: {getattr(error, "msg", None) or error}'.splitlines()[0]
    return (place if line is None else f'{place}, line {line},'), reason


def _config_files(path: str, traceback: TracebackType | None) -> list[str]:
    """List the config files being read when an error was raised, the innermost last."""
    files = [path]
    while traceback is not None:
        frame = traceback.tb_frame
        # mmengine executes a temporary copy; the name of the original is a local of its frame.
        if frame.f_code.co_name == '_file2dict' and 'filename' in frame.f_locals:
            files.append(frame.f_locals['filename'])
        traceback = traceback.tb_next
    return files
