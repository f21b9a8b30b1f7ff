"""The quickstart and its controls: `python -m rlx.table --config configs/tables/quickstart.py`.

More imitation for the time RL takes, advantages given to the wrong steps, GiGPO and RLOO beside GRPO.
"""


def get_config():
  quick = 'configs/quickstart.py'
  return dict(
      seeds=(0, 1, 2),     # two minutes a cell, half an hour in all
      minutes=10,
      columns=('warm_start', 'held_out_questions', 'held_out_databases', 'explored', 'wall_s'),
      rows=(
          dict(name='GRPO', config=quick),
          dict(name='GiGPO', config='configs/gigpo.py'),
          dict(name='RLOO', config='configs/rloo.py'),
          dict(name='more imitation', config='configs/quickstart_imitation.py'),
          dict(name='permuted advantages', config=quick,
               overrides={'tracks.main.estimator': (dict(name='grpo', std=False), 'permuted')})),
      claims='GRPO, GiGPO and RLOO rise; more imitation and permuted advantages do not rise by more than 5 points.')
