"""A config that cannot work says so in one plain sentence, before anything is trained."""

import json
import re

import pytest

from rlx import assemble, config, train
from rlx.train import main

TINY = 'tests/configs/tiny.py'


def said(capsys, *argv):
  code = main(list(argv))
  lines = capsys.readouterr().err.strip().splitlines()
  assert code == 2 and len(lines) == 1, lines
  assert lines[0].startswith('error: ') and len(lines[0]) < 500
  return lines[0]


@pytest.mark.parametrize(('override', 'message'), [
    ('trakcs=1', "no key 'trakcs'.*Did you mean 'tracks'"),
    ('tracks.main.estimator[0]=grop', "no estimator 'grop'.*Did you mean 'grpo'"),
    ('tracks.main.estimator[3].ddof=0', 'there are 1 entries, not .3.'),
    ('tracks.main.estimator[0].dof=0', "estimator 'grpo' has no keyword 'dof'.*Did you mean 'ddof'"),
    ('tracks.main.loss[0]=my_lab.nowhere.loss', "'my_lab.nowhere.loss' cannot be imported"),
    ('minibatch=many', "minibatch must be a whole number of at least 1, not 'many'"),
    ('microbatch=3', 'microbatch 3 does not divide minibatch 8'),
    ("tracks.main.loss=('ppo_clip',{'name':'kl'})", "track 'main'.*reads the stream 'ref_logp', which nothing writes.*add a transform"),
    ("tracks.main.selector=({'name':'where','label':'plan'},)", "reads the label 'plan', which nothing writes.*c.labels"),
    ("tracks.main.selector=({'name':'where','role':'plan'},)", "reads the role 'plan', which nothing writes.*c.segment"),
    ('tracks.main.estimator[0].channel=style', "reward channel 'style'"),
    ('models.policy.vocab=7', "model 'policy' has a vocabulary of 7, the tokenizer one of"),
    ('tokenizer={"name":"file","path":"nowhere.json"}', "tokenizer file 'nowhere.json' does not exist"),
    ('init_from=nowhere', "init_from 'nowhere' does not exist"),
    ('env=None', 'the config has no env: set c.env'),
    ('mesh.data=64', 'c.mesh: .*needs 64 devices'),
    ('head=pallas', "head is None, 'fused', 'xla' or 'reference', not 'pallas'"),
    ('unit=rows', "unit is 'row', 'path' or 'group', not 'rows'"),
    ('sampler.turn=48', 'sampler.turn 48 leaves no room for a prompt'),
    ('sampler.lanes=3', '3 sampler.lanes do not divide'),
    ('sampler.segment=all', "sampler.segment must be a number of at least 0, it is 'all'"),
    ('sampler.on_full=stop', "sampler.on_full is 'end', 'window' or 'error'"),
    ("buckets=({'rows':8},)", 'a bucket has rows, width, nodes, prompts'),
    ("tracks.main.average={'name':'constant'}", "average 'constant' needs length"),
    ("learners={'critic':{'model':'critic','tracks':{}}}", "trains the model 'critic'; there are \\['policy'\\]"),
    ('phases[1].source=replay', "no source 'replay'"),
    ('phases[1].sampler.turn=4', "phase 'rl' changes sampler.turn, which is the whole run's"),
    ('phases[1].eval.evry=2', "no key 'eval.evry'.*Did you mean 'every'"),
    ("phases[0].source={'name':'jsonl','path':'nowhere.jsonl'}", "phase 'warm': file 'nowhere.jsonl' of its source does not exist"),
    ("tx.learning_rate={'schedule':'lineal'}", "schedule 'lineal' does not exist"),
    ('curriculum.split=nowhere', "curriculum 'uniform': no split 'nowhere'; there are train and held"),
])
def test_message(capsys, tmp_path, override, message):
  line = said(capsys, '--config', TINY, '--workdir', str(tmp_path / 'run'), f'--config.{override}')
  assert re.search(message, line), line


def test_message_of_the_command_line(capsys):
  assert 'give --config a path' in said(capsys)
  assert "config file 'nowhere.py' does not exist" in said(capsys, '--config', 'nowhere.py')
  assert 'unknown option --wrokdir' in said(capsys, '--config', TINY, '--wrokdir', 'x')
  assert "has no variants" in said(capsys, '--config', f'{TINY}:large')


def test_a_key_that_no_config_has(capsys, tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text('from tests.configs import tiny\n\ndef get_config():\n  c = tiny.get_config()\n  c.minibach = 3\n  return c\n')
  assert "sets the key 'minibach', which a config does not have" in said(capsys, '--config', str(file))


def test_a_workdir_of_another_config(capsys, tmp_path):
  c = config.load(TINY, {'workdir': str(tmp_path / 'run'), 'phases[0].steps': 1, 'phases[1].steps': 0, 'eval.splits': {}})
  train.run(c)
  capsys.readouterr()
  line = said(capsys, '--config', TINY, '--workdir', str(tmp_path / 'run'))
  assert 'holds a run of another config: eval, phases differ; give another --workdir' in line


def test_a_workdir_that_cannot_be_made(capsys, tmp_path):
  (tmp_path / 'file').write_text('')
  assert 'cannot be made' in said(capsys, '--config', TINY, '--workdir', str(tmp_path / 'file' / 'run'))


def test_check_stops_after_the_check(capsys, tmp_path):
  assert main(['--config', TINY, '--workdir', str(tmp_path / 'run'), '--check']) == 0
  out = capsys.readouterr().out
  assert "phase 'warm': 3 steps of 4 prompts from expert" in out and "phase 'rl'" in out and 'parameters' in out
  assert not (tmp_path / 'run').exists()


def test_overrides_reach_what_the_config_did_not_write():
  c = config.load(TINY, {'tracks.main.estimator[0].ddof': 0, 'phases[1].steps': 7, 'tx.b1': .5, 'context.k': 3})
  assert c.tracks.main.estimator == ({'name': 'grpo', 'ddof': 0},)
  assert c.phases[1]['steps'] == 7 and c.tx.b1 == .5 and c.context.to_dict() == {'name': 'append', 'k': 3}
  json.dumps(config.plain(c))


def test_a_phase_may_change_a_key_of_the_run_from_the_command_line():
  c = config.load(TINY, {'phases[1].eval.every': 3, 'phases[1].minibatch': 4})
  one, two = assemble.phases(c)
  assert two.eval.every == 3 and two.minibatch == 4 and one.eval.every != 3
