"""Questions of world `four_acts`: thirteen families over annotated tables, each with its SQL."""

import collections
import random
import re

from rlx.envs._sql_domains import DOMAINS
from rlx.envs.sql_data import Database, Question

# A family gives text and SQL, or None where the table has not what it takes or the answer would be empty (a wrong query's
# often is). In the SQL, [table] and [table.column] stand for names.

def _column(table, field):
  i = table.at(field.names[0])
  return [row[i] for row in table.rows]


def _label(e):
  named = e.kind('name')
  return (named[0].names[0], named[0].noun) if named else ('id', 'id')


def _pick(rng, fields):
  return rng.choice(fields) if fields else None


def _value(rng, table, field):
  return rng.choice([v for v in _column(table, field) if v is not None])


def _listed(rng, e, tables):
  label, noun = _label(e)
  if (c := _pick(rng, e.kind('category'))) is None:
    return None
  v = _value(rng, tables[e.many], c)
  return (f"list the {noun} of {e.many} with {c.noun} '{v}'",
          f"SELECT [{e.many}.{label}] FROM [{e.many}] WHERE [{e.many}.{c.names[0]}] = '{v}'")


def _counted(rng, e, tables):
  if (d := _pick(rng, e.kind('date'))) is None:
    return None
  v, (word, op) = _value(rng, tables[e.many], d), rng.choice((('after', '>'), ('before', '<')))
  return (f"how many {e.many} with {d.noun} {word} '{v}'",
          f"SELECT COUNT( * ) FROM [{e.many}] WHERE [{e.many}.{d.names[0]}] {op} '{v}'")


def _in_year(rng, e, tables):
  if (d := _pick(rng, e.kind('date'))) is None:
    return None
  label, noun = _label(e)
  year = _value(rng, tables[e.many], d)[:4]
  return (f"list the {noun} of {e.many} with {d.noun} in '{year}'",
          f"SELECT [{e.many}.{label}] FROM [{e.many}] WHERE [{e.many}.{d.names[0]}] BETWEEN '{year}-01-01' AND '{year}-12-31'")


def _missing(rng, e, tables):
  fields = [f for f in e.fields if None in _column(tables[e.many], f)]
  if (f := _pick(rng, fields)) is None:
    return None
  label, noun = _label(e)
  what = next(x.one for d in DOMAINS.values() for x in d if x.many == f.noun) if f.kind == 'key' else f.noun
  return (f'list the {noun} of {e.many} with no {what}',
          f'SELECT [{e.many}.{label}] FROM [{e.many}] WHERE [{e.many}.{f.names[0]}] IS NULL')


def _aggregated(rng, e, tables):
  if (n := _pick(rng, e.kind('number'))) is None:
    return None
  word, fn = rng.choice((('average', 'AVG'), ('total', 'SUM'), ('highest', 'MAX'), ('lowest', 'MIN')))
  text, sql = f'what is the {word} {n.noun} of {e.many}', f'SELECT {fn}( [{e.many}.{n.names[0]}] ) FROM [{e.many}]'
  if (c := _pick(rng, e.kind('category'))) is not None:
    known = [v for v, x in zip(_column(tables[e.many], c), _column(tables[e.many], n)) if None not in (v, x)]
    v = rng.choice(known)
    text, sql = f"{text} with {c.noun} '{v}'", f"{sql} WHERE [{e.many}.{c.names[0]}] = '{v}'"
  return text, sql


def _extreme(rng, e, tables):
  if (n := _pick(rng, e.kind('number'))) is None:
    return None
  label, noun = _label(e)
  word, way = rng.choice((('highest', 'DESC'), ('lowest', 'ASC')))
  column = f'[{e.many}.{n.names[0]}]'
  some = f' WHERE {column} IS NOT NULL' if None in _column(tables[e.many], n) else ''   # NULL sorts first
  return (f'what is the {noun} of the {e.one} with the {word} {n.noun}',
          f'SELECT [{e.many}.{label}] FROM [{e.many}]{some} ORDER BY {column} {way} LIMIT 1')


def _grouped(rng, e, tables):
  if (c := _pick(rng, e.kind('category'))) is None:
    return None
  column = f'[{e.many}.{c.names[0]}]'
  return f'how many {e.many} for each {c.noun}', f'SELECT {column} , COUNT( * ) FROM [{e.many}] GROUP BY {column}'


def _having(rng, e, tables):
  if (c := _pick(rng, e.kind('category'))) is None:
    return None
  counts = sorted(collections.Counter(_column(tables[e.many], c)).values())
  k = min(max(1, rng.choice(counts) - 1), counts[-1] - 1)
  column = f'[{e.many}.{c.names[0]}]'
  return (f'which {c.noun} has more than {k} {e.many}',
          f'SELECT {column} FROM [{e.many}] GROUP BY {column} HAVING COUNT( * ) > {k}')


def _above(rng, e, tables):
  if (n := _pick(rng, e.kind('number'))) is None:
    return None
  label, noun = _label(e)
  column = f'[{e.many}.{n.names[0]}]'
  return (f'list the {noun} of {e.many} with {n.noun} above the average',
          f'SELECT [{e.many}.{label}] FROM [{e.many}] WHERE {column} > ( SELECT AVG( {column} ) FROM [{e.many}] )')


def _parent(rng, e):
  """(a key of e, the entity it refers to, the join of both as SQL), or None."""
  if (k := _pick(rng, e.kind('key'))) is None:
    return None
  p = next(x for d in DOMAINS.values() for x in d if x.many == k.values[0])
  on = f'[{e.many}] . [{e.many}.{k.names[0]}] = [{p.many}] . [{p.many}.id]'
  return k, p, f'[{e.many}] JOIN [{p.many}] ON {on}'


def _join_filter(rng, e, tables):
  if (found := _parent(rng, e)) is None:
    return None
  _, p, join = found
  if (c := _pick(rng, p.kind('category'))) is None:
    return None
  v = _value(rng, tables[p.many], c)
  return (f"how many {e.many} whose {p.one} has {c.noun} '{v}'",
          f"SELECT COUNT( * ) FROM {join} WHERE [{p.many}] . [{p.many}.{c.names[0]}] = '{v}'")


def _join_group(rng, e, tables):
  if (found := _parent(rng, e)) is None:
    return None
  _, p, join = found
  label, noun = _label(p)
  column = f'[{p.many}] . [{p.many}.{label}]'
  return f'how many {e.many} for each {p.one} {noun}', f'SELECT {column} , COUNT( * ) FROM {join} GROUP BY {column}'


def _join_aggregate(rng, e, tables):
  if (found := _parent(rng, e)) is None or (n := _pick(rng, e.kind('number'))) is None:
    return None
  _, p, join = found
  label, noun = _label(p)
  word, fn = rng.choice((('highest', 'MAX'), ('total', 'SUM')))
  column = f'[{p.many}] . [{p.many}.{label}]'
  return (f'what is the {word} {n.noun} of {e.many} for each {p.one} {noun}',
          f'SELECT {column} , {fn}( [{e.many}] . [{e.many}.{n.names[0]}] ) FROM {join} GROUP BY {column}')


def _unused(rng, e, tables):
  if (found := _parent(rng, e)) is None:
    return None
  k, p, _ = found
  if len(set(_column(tables[e.many], k)) - {None}) == len(tables[p.many].rows):
    return None
  label, noun = _label(p)
  column = f'[{e.many}.{k.names[0]}]'
  return (f'list the {noun} of {p.many} without any {e.many}',
          f'SELECT [{p.many}.{label}] FROM [{p.many}] WHERE [{p.many}.id] NOT IN '
          f'( SELECT {column} FROM [{e.many}] WHERE {column} IS NOT NULL )')


FAMILIES = dict(list=_listed, count_date=_counted, year=_in_year, missing=_missing, aggregate=_aggregated, extreme=_extreme,
                group=_grouped, having=_having, above=_above, join_filter=_join_filter, join_group=_join_group,
                join_aggregate=_join_aggregate, unused=_unused)


def question(db: Database, rng: random.Random) -> Question:
  """One of thirteen families: filters, dates, NULLs, aggregates, argmax, groups, joins, subqueries."""
  entities = {e.many: e for e in DOMAINS[db.domain]}
  tables = {t.concept: t for t in db.tables}
  made = None
  while made is None:
    family, table = rng.choice(tuple(FAMILIES)), rng.choice(db.tables)
    made = FAMILIES[family](rng, entities[table.concept], tables)
  text, marked = made
  slots = list(dict.fromkeys(re.findall(r'\[(\w+)(?:\.(\w+))?\]', marked)))
  template = re.sub(r'\[(\w+)(?:\.(\w+))?\]', lambda m: f'{{{slots.index((m[1], m[2] or ""))}}}', marked)
  names, words, uses = [], [], {}
  for concept, column in slots:
    table, entity = tables[concept], entities[concept]
    used = uses.setdefault(table.name, [])
    if column:
      names.append(table.columns[table.at(column)].name)
      words.append('id' if column == 'id' else rng.choice(next(f.names for f in entity.fields if f.names[0] == column)))
      used.append(names[-1])
    else:
      names.append(table.name)
      words.append(rng.choice(entity.names))
  combo = (db.domain, family, *sorted(f'{a}.{b}' if b else a for a, b in slots))
  return Question(db.path, db.name, text, template.format(*names), family, combo, template, tuple(names), tuple(words),
                  tuple((t, *columns) for t, columns in uses.items()))
