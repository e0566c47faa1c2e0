"""How commands end: one line where the user can mend it, a traceback where it is a bug."""

import ast
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS as UPSTREAM_MODELS
from mmengine.runner import Runner
from torch import nn

import mmpse
from mmpse.command import of_user, run_command
from mmpse.files import write_json
from mmpse.registry import LOOPS, MODELS
from mmpse.search.ranking import ranking_agreement
from mmpse.space import Subnet


def broken_config(folder):
    path = folder / 'config.py'
    path.write_text('model = dict(\n')
    return Config.fromfile(path)


def search_of_one_argument_more(_):
    return LOOPS.build(dict(type='mmpse.EvolutionSearchLoop', colour='red'))


def diverged(_):
    raise FloatingPointError('the loss is nan; lower the learning rate')


class Careless:
    """Of a config, but the error is its own."""

    def __init__(self, widths):
        self.widths = len(widths) + int('half')


def careless(widths):
    MODELS.register_module(module=Careless, name='Careless', force=True)
    return MODELS.build(dict(type='Careless', widths=widths))


MENDED = {
    'a file that is missing': lambda _: Subnet.load('no.json'),
    'a config that is missing': lambda _: Config.fromfile('no.py'),
    'a config that is no Python': broken_config,
    'an argument out of range': lambda _: ranking_agreement([1, 2], [1, 2]),
    'a type that nobody knows': lambda _: MODELS.build(dict(type='mmpse.SlimableResNet')),
    'an argument that is not taken': lambda _: MODELS.build(
        dict(type='mmpse.SlimmableMobileNetV2', depth=3)
    ),
    'an argument of the base class': search_of_one_argument_more,
    'an argument that is missing': lambda _: MODELS.build(dict(type='mmpse.SlimmableVGG')),
    'a folder that is a file': lambda folder: write_json(folder / 'file' / 'x.json', {}),
    'upstream complains': lambda _: UPSTREAM_MODELS.build(dict(kind='ResNet')),
    'a loss that is not finite': diverged,
    'a config that trains by half': lambda folder: Runner(
        nn.Linear(1, 1), str(folder), train_cfg=dict(max_epochs=1)
    ),
}
BUGS = {
    'text that is no number': lambda _: ranking_agreement(['a', 'b', 'c'], [1, 2, 3]),
    'a call with an argument too many': lambda _: Subnet.load('no.json', strict=True),
    'a list too short': lambda _: [][0],
    'a key that is not there': lambda _: {}['x'],
    'a type error in a constructor': lambda _: careless(3),
    'a value error in a constructor': lambda _: careless([3]),
    'a value error of nobody': lambda _: int('half'),
}


@pytest.mark.parametrize('what', MENDED)
def test_one_line_for_what_a_user_can_mend(what, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: MENDED[what](tmp_path))
    line = ended.value.code
    assert isinstance(line, str) and line.count('\n') == 0 and 20 < len(line) < 600
    assert 'that is no Python' not in what or str(tmp_path / 'config.py') in line


@pytest.mark.parametrize('what', BUGS)
def test_traceback_for_a_bug(what, tmp_path):
    with pytest.raises(Exception) as raised:
        run_command(lambda: BUGS[what](tmp_path))
    assert not isinstance(raised.value, SystemExit) and not of_user(raised.value)


def test_ctrl_c_says_how_to_go_on(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(interrupted, 'the same command with --resume goes on')
    assert ended.value.code == 130
    said = capsys.readouterr()
    assert said.err == 'interrupted; the same command with --resume goes on\n' and not said.out


def test_a_full_disk_is_told_by_the_name_of_the_file():
    """As MMEngine writes checkpoints."""

    def put(content, path):
        with open(path, 'wb') as file:
            file.write(content)

    again = 'the same command with --resume goes on'
    with pytest.raises(
        SystemExit, match=f"space left on device: '/dev/full'; free some, then {again}"
    ):
        run_command(lambda: put(bytes(10**6), '/dev/full'), again)


def test_an_argument_that_searches_do_not_take():
    with pytest.raises(SystemExit, match="TypeError: .*unexpected keyword argument 'colour'"):
        run_command(lambda: search_of_one_argument_more(None))


def test_an_error_of_many_lines_becomes_one(tmp_path):
    (tmp_path / 'config.py').write_text('raise ValueError("two\\n  lines")')
    with pytest.raises(SystemExit, match=r'^ValueError: two lines, in the config .*config.py$'):
        run_command(lambda: Config.fromfile(tmp_path / 'config.py'))


BARE = 'ValueError', 'RuntimeError', 'ImportError'


def test_what_mmpse_raises_for_its_user_is_a_user_error():
    package = Path(mmpse.__file__).parent
    bare = []
    for path in sorted(package.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            named = []
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                named = [node.exc.func]
            elif isinstance(node, ast.ClassDef):
                named = node.bases
            if any(getattr(name, 'id', '') in BARE for name in named):
                bare.append(str(path.relative_to(package)))
    assert bare == ['errors.py']
