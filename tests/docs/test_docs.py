"""The documentation: that it builds, and that what it says of commands, configs and arguments is so."""

import ast
import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip('mkdocs')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from hooks import ROOT, content_of, help_of, parser_of, table_of

from mmnat.__main__ import NAMES
from mmnat.config_files import find_config
from mmnat.models.arguments import refuse_unknown
from mmnat.models.published import CLASSIFIERS
from mmnat.zoo import metafiles, published_models

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding='utf-8') for path in (ROOT / 'docs').rglob('*.md')
}
#: Also the texts that are read in the repository.
TEXTS = PAGES | {
    str(path.relative_to(ROOT)): path.read_text(encoding='utf-8')
    for path in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'configs').rglob('README.md'))
}
CODE = re.compile(r'^```(\w+)[^\n]*\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def code(language):
    """Each piece of code of a language, with the page it is on."""
    for page, text in TEXTS.items():
        for found, content in CODE.findall(text):
            if found == language:
                yield page, content


def commands():
    """Each command line with mmnat, with the page it is on."""
    for page, content in code('bash'):
        for line in content.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ['torchrun'] and 'mmnat' in words:
                words = words[words.index('mmnat') :]
            if words[:1] == ['mmnat']:
                yield page, words[1:]


COMMANDS = list(commands())


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site, built with warnings as errors."""
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', out]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def test_site_has_every_page(site):
    for page in PAGES:
        name = page.removeprefix('docs/').removesuffix('.md')
        path = f'{name}.html' if name.endswith('index') else f'{name}/index.html'
        assert (site / path).is_file(), page


def test_site_asks_no_other_server(site):
    """Neither fonts nor scripts nor styles."""
    for page in site.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="?https?:', text), page
        assert not re.findall(r'<link[^>]+rel="?stylesheet"?[^>]+href="?https?:', text), page


def test_requests_are_answered(site):
    for page in site.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        assert not re.findall(r'<!-- (?:help|table|include): |:(?:func|class|data):', text), page
    assert 'usage: mmnat train' in (site / 'commands/train/index.html').read_text(encoding='utf-8')


@pytest.mark.parametrize('name', NAMES)
def test_every_command_has_a_page(name):
    assert f'<!-- help: {name} -->' in PAGES[f'docs/commands/{name}.md']
    assert f'({name}.md)' in PAGES['docs/commands/index.md']
    assert f'usage: mmnat {name}' in help_of(name)


def test_pages_show_every_command():
    assert {words[0] for _, words in COMMANDS if not words[0].startswith('-')} == set(NAMES)


@pytest.mark.parametrize(
    ('page', 'words'), COMMANDS, ids=[f'{page}: {shlex.join(w)}' for page, w in COMMANDS]
)
def test_command_line_parses(page, words):
    if words != ['--version']:
        parser_of(words[0]).parse_args(words[1:])


def test_a_wrong_command_line_does_not_parse(capsys):
    with pytest.raises(SystemExit):
        parser_of('train').parse_args(['config.py', '--worker-dir', 'x'])


def test_configs_exist():
    named = set()
    for text in TEXTS.values():
        named |= set(re.findall(r'\bmm(?:nat|det|seg)::[\w/.-]+\.py', text))
        named |= set(re.findall(r'[`\s]([a-z][\w-]+(?:_coco|_ade20k-|_fruits-|_demo-)[\w-]*)[`\s]', text))
    absent = {'mask-rcnn_nat-mini_fpn_3x_coco'}  # of a quoted message
    assert len(named - absent) > 15
    for name in named - absent:
        assert find_config(name)


@pytest.mark.parametrize('name', sorted(TEXTS.keys() - PAGES.keys()))
def test_links_lead_to_files(name):
    for link in re.findall(r'\]\((?!https?://|#)([^)#]+)', TEXTS[name]):
        assert (ROOT / name).parent.joinpath(link).exists(), link


def test_python_compiles():
    pieces = list(code('python'))
    assert len(pieces) > 10
    for page, content in pieces:
        ast.parse(content, page)


@pytest.mark.parametrize('page', ['docs/operator.md', 'docs/from_natten.md'])
def test_python_of_the_operator_runs(page):
    names = {}
    for found, content in code('python'):
        if found == page:
            exec(compile(content, page, 'exec'), names)
    assert names['output'].dim() == 5


def test_zoo_has_every_published_model():
    tables = ''.join(table_of(f'{metafile.rpartition("/")[0]}/README.md') for metafile in metafiles())
    for metafile in metafiles():
        assert f'<!-- table: {metafile.rpartition("/")[0]}/README.md -->' in PAGES['docs/model_zoo.md']
    for model in published_models().values():
        assert tables.count(f'`{model.name}`') == 1
        assert model.weights in tables
    classifiers = table_of('configs/README.md')
    assert all(model.checkpoint in classifiers for model in CLASSIFIERS.values())


def test_links_of_included_files_become_text():
    text = content_of('configs/README.md')
    assert '](nat/README.md)' not in text and '`nat`' in text
    assert '](https://' in text


class Ellipsis3:
    """A value that is written as three dots."""

    def __repr__(self):
        return '...'


ARGUMENTS = re.findall(r'^\| `(\w+)` \| (.+) \|$', PAGES['docs/from_nat.md'], re.MULTILINE)


@pytest.mark.parametrize(('name', 'remedy'), ARGUMENTS)
def test_remedy_of_an_argument(name, remedy):
    with pytest.raises(TypeError) as error:
        refuse_unknown('NAT', {name: Ellipsis3()}, ['depths'])
    assert remedy.strip('`') in str(error.value)


def test_arguments_of_other_implementations_are_listed():
    assert len(ARGUMENTS) > 20
