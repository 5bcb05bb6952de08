"""Reading configs of mmdet and mmseg, and of this project."""

import importlib
from collections.abc import Iterator
from types import TracebackType

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import is_installed

from mmnat.config_files import FRAMEWORKS, find_config
from mmnat.config_tree import walk
from mmnat.errors import UserError

# Fields that a runnable config has since mmdet 3.0 and mmseg 1.0, and those that it had before.
_FIELDS = ('train_dataloader', 'test_dataloader', 'optim_wrapper')
_FORMER_FIELDS = (
    *('data', 'optimizer', 'optimizer_config', 'lr_config', 'runner', 'total_epochs'),
    *('checkpoint_config', 'evaluation', 'model.pretrained'),
)


def read_config(path: str) -> Config:
    """Read a config file and register the modules of its framework.

    Args:
        path: The config, as :func:`mmnat.config_files.find_config` takes it.

    Returns:
        The config.
    """
    cfg = parse_config(path)
    _check_generation(cfg)
    _register_modules(cfg)
    return cfg


def parse_config(path: str, import_custom_modules: bool = True) -> Config:
    """Read a config file and those that it inherits from.

    Args:
        path: The config, as :func:`mmnat.config_files.find_config` takes it.
        import_custom_modules: Import what its ``custom_imports`` name. Without, neither torch nor a
            framework is imported, which takes many seconds.

    Returns:
        The config.

    Raises:
        UserError: If the file does not exist or does not load.
    """
    path = find_config(path)
    _let_configs_be_inherited()
    try:
        cfg = Config.fromfile(path, import_custom_modules=import_custom_modules)
    except ImportError as error:
        # mmengine appends sys.path to its message, one entry a line.
        raise UserError(
            f'config {path} does not load: {str(error.__cause__ or error).splitlines()[0]}',
            'install the package, or add its directory to PYTHONPATH',
        ) from error
    except Exception as error:
        place, reason = _locate(path, error)
        raise UserError(f'config {place} does not load: {reason}', 'correct it') from error
    _drop_own_scope(cfg)
    return cfg


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


def leaf_datasets(dataset: dict) -> Iterator[dict]:
    """Give the configs of the data sets inside wrappers, such as that of ConcatDataset."""
    if 'dataset' not in dataset and 'datasets' not in dataset:
        yield dataset
        return
    for inner in [dataset.get('dataset'), *(dataset.get('datasets') or [])]:
        if isinstance(inner, dict):
            yield from leaf_datasets(inner)


def complete_palette(meta: dict) -> dict:
    """Replace a palette of fewer colours than there are classes, with which mmdet cannot draw.

    Args:
        meta: What a data set knows of its classes.

    Returns:
        The same, with colours that mmdet chooses.
    """
    palette, classes = meta.get('palette'), meta.get('classes') or ()
    is_short = isinstance(palette, (list, tuple)) and len(palette) < len(classes)
    return {**meta, 'palette': 'random'} if is_short else meta


def test_pipeline(cfg: Config) -> list[dict]:
    """Return the pipeline that images go through in a test; raises UserError if there is none."""
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        if dataset.get('pipeline'):
            return dataset['pipeline']
    raise UserError(f'config {cfg.filename} lacks test_dataloader.dataset.pipeline', 'define it')


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
        'take the same model from `mmnat configs`; `mmnat convert` converts weights',
    )


def _register_modules(cfg: Config) -> None:
    scope = cfg.get('default_scope')
    if scope not in FRAMEWORKS:
        raise UserError(
            f'config {cfg.filename} has default_scope = {scope!r}',
            f'set it to one of {", ".join(map(repr, FRAMEWORKS))}, or inherit a '
            'default_runtime.py of the framework through _base_',
        )
    register_modules(scope)


def register_modules(framework: str) -> None:
    """Import the modules of mmdet or mmseg, which register its models, data sets and all else."""
    importlib.import_module(f'{framework}.utils').register_all_modules(init_default_scope=True)


def _let_configs_be_inherited() -> None:
    """Have mmengine find ``_base_ = 'mmnat::...'`` and ``'mmseg::...'``."""
    MODULE2PACKAGE['mmnat'] = 'mmnat'
    # mmengine looks for mmseg under the name of the original distribution. Another one, such as
    # onedl-mmsegmentation, it finds by the name of the module.
    if not is_installed('mmsegmentation'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def _drop_own_scope(cfg: Config) -> None:
    """Remove ``_scope_ = 'mmnat'`` from all that a config inherits from ``mmnat::``.

    mmengine adds the package as the scope, and looks there for the types. Ours are those of the framework.
    """
    for _, part in walk(cfg._cfg_dict):
        if part.get('_scope_') == 'mmnat':
            del part['_scope_']


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
