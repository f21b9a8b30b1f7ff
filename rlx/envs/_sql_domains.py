"""The eight domains of world `four_acts`: what their tables and columns mean, what they may be called, how they are filled.

Six domains are trained on, `hotel` and `museum` are never seen. A database draws one of two names for each table and column.
"""

import datetime
import random
from collections.abc import Sequence
from typing import NamedTuple

from rlx.envs.sql_data import Column, Database, Table


class Field(NamedTuple):
  """A column's concept: the first of its names."""
  names: tuple[str, ...]
  kind: str                       # 'name' | 'number' | 'category' | 'date' | 'key'
  noun: str                       # what questions call it
  # name: pool; number: low, high, unit; category: values; key: the entity; date: first and last year, or None and how many
  # days after the date before at most
  values: tuple = ()
  null: float = 0.                # share of rows without it


class Entity(NamedTuple):
  """A table's concept: its plural."""
  names: tuple[str, ...]
  one: str
  many: str
  rows: tuple[int, int]
  fields: tuple[Field, ...]

  def kind(self, *kinds: str) -> list[Field]:
    return [f for f in self.fields if f.kind in kinds]


def name(names, pool, noun='name'):
  return Field(tuple(names.split()), 'name', noun, (pool,))


def number(names, noun, low, high, unit=1, null=0.):
  return Field(tuple(names.split()), 'number', noun, (low, high, unit), null)


def category(names, noun, values, null=0.):
  return Field(tuple(names.split()), 'category', noun, tuple(values.split()), null)


def date(names, noun, first, last, null=0.):
  return Field(tuple(names.split()), 'date', noun, (first, last), null)


def later(names, noun, days, null=0.):
  return Field(tuple(names.split()), 'date', noun, (None, days), null)


def key(names, to, null=0.):
  return Field(tuple(names.split()), 'key', to, (to,), null)


def entity(names, one, rows, *fields):
  names = tuple(names.split())
  return Entity(names, one, names[0], rows, fields)


PARENT, CHILD = (12, 24), (40, 70)
CITIES = 'paris rome oslo lima cairo delhi'
LANDS = 'france italy norway peru egypt india'

DOMAINS: dict[str, tuple[Entity, ...]] = dict(
    clinic=(
        entity('doctors physicians', 'doctor', PARENT, name('name full_name', 'person'),
               category('specialty field', 'specialty', 'surgery cardiology radiology pediatrics'),
               date('hired start_date', 'hiring date', 2005, 2022), number('salary pay', 'salary', 60, 190)),
        entity('patients clients', 'patient', PARENT, name('name full_name', 'person'),
               date('born birth_date', 'birth date', 1940, 2015), category('city town', 'city', CITIES, 0.15)),
        entity('visits appointments', 'visit', CHILD, key('patient_id client_id', 'patients'),
               key('doctor_id physician_id', 'doctors', 0.1), date('day visit_date', 'date', 2020, 2023),
               number('cost fee', 'cost', 20, 400, 0.5, 0.12))),
    library=(
        entity('authors writers', 'author', PARENT, name('name full_name', 'person'),
               category('country nation', 'country', LANDS), date('born birth_date', 'birth date', 1920, 1990, 0.1)),
        entity('books volumes', 'book', PARENT, name('title label', 'title', 'title'),
               key('author_id writer_id', 'authors', 0.1), category('genre kind', 'genre', 'novel poetry science history'),
               number('pages length', 'number of pages', 80, 700),
               date('published release_date', 'publication date', 1990, 2022)),
        entity('loans checkouts', 'loan', CHILD, key('book_id volume_id', 'books'),
               date('taken loan_date', 'loan date', 2021, 2023),
               later('returned return_date', 'return date', 60, 0.3), number('fine penalty', 'fine', 1, 200, 0.5, 0.4))),
    shop=(
        entity('customers buyers', 'customer', PARENT, name('name full_name', 'person'),
               category('city town', 'city', CITIES, 0.1), date('joined signup_date', 'joining date', 2015, 2022)),
        entity('products items', 'product', PARENT, name('title label', 'thing', 'title'),
               category('category kind', 'category', 'kitchen garden office sport'),
               number('price amount', 'price', 5, 300, 0.5),
               number('stock available', 'stock', 10, 500, 1, 0.12)),
        entity('orders purchases', 'order', CHILD, key('customer_id buyer_id', 'customers'),
               key('product_id item_id', 'products'), date('placed order_date', 'order date', 2021, 2023),
               later('delivered delivery_date', 'delivery date', 30, 0.25),
               number('quantity units', 'quantity', 1, 90))),
    flights=(
        entity('airlines carriers', 'airline', PARENT, name('name brand', 'thing'),
               category('country nation', 'country', LANDS), number('fleet planes', 'fleet size', 8, 300)),
        entity('airports hubs', 'airport', PARENT, name('name label', 'title'), category('city town', 'city', CITIES),
               number('elevation height', 'elevation', 1, 900, 1, 0.12)),
        entity('flights departures', 'flight', CHILD, key('airline_id carrier_id', 'airlines'),
               key('airport_id hub_id', 'airports', 0.1), date('day flight_date', 'date', 2021, 2023),
               number('seats capacity', 'number of seats', 60, 320),
               number('delay minutes_late', 'delay', 1, 180, 1, 0.3))),
    school=(
        entity('teachers instructors', 'teacher', PARENT, name('name full_name', 'person'),
               category('subject course', 'subject', 'math music biology history'),
               date('hired start_date', 'hiring date', 2000, 2022, 0.1)),
        entity('students pupils', 'student', PARENT, name('name full_name', 'person'),
               date('born birth_date', 'birth date', 2004, 2012),
               category('club team', 'club', 'chess drama robotics choir', 0.25)),
        entity('exams tests', 'exam', CHILD, key('student_id pupil_id', 'students'),
               key('teacher_id instructor_id', 'teachers', 0.1), date('day exam_date', 'date', 2021, 2023),
               number('points score', 'number of points', 1, 100, 1, 0.12))),
    music=(
        entity('artists musicians', 'artist', PARENT, name('name stage_name', 'person'),
               category('country nation', 'country', LANDS, 0.1), date('debut first_show', 'debut date', 1970, 2018)),
        entity('albums records', 'album', PARENT, name('title label', 'title', 'title'),
               key('artist_id musician_id', 'artists'), category('genre style', 'genre', 'jazz rock folk techno'),
               date('released release_date', 'release date', 1980, 2023)),
        entity('tracks songs', 'track', CHILD, key('album_id record_id', 'albums', 0.1),
               number('seconds duration', 'duration', 90, 600),
               number('plays streams', 'number of plays', 100, 9000, 10, 0.15))),
    hotel=(
        entity('guests visitors', 'guest', PARENT, name('name full_name', 'person'),
               category('country nation', 'country', LANDS, 0.1), date('born birth_date', 'birth date', 1940, 2004)),
        entity('rooms suites', 'room', PARENT, name('name label', 'title'),
               category('size format', 'size', 'single double family royal'), number('rate nightly', 'rate', 40, 400, 0.5)),
        entity('bookings stays', 'booking', CHILD, key('guest_id visitor_id', 'guests'),
               key('room_id suite_id', 'rooms', 0.1), date('arrived arrival_date', 'arrival date', 2021, 2023),
               number('nights duration', 'number of nights', 1, 90),
               number('rating stars', 'rating', 1, 100, 0.5, 0.3))),
    museum=(
        entity('curators keepers', 'curator', PARENT, name('name full_name', 'person'),
               category('section wing', 'section', 'antique modern asian nature'),
               date('hired start_date', 'hiring date', 1995, 2022)),
        entity('works exhibits', 'work', PARENT, name('title label', 'title', 'title'),
               key('curator_id keeper_id', 'curators', 0.15),
               category('material medium', 'material', 'oil bronze marble paper'),
               number('value worth', 'value', 100, 9000, 10)),
        entity('transfers shipments', 'transfer', CHILD, key('work_id exhibit_id', 'works'),
               category('city town', 'city', CITIES), date('sent ship_date', 'sending date', 2019, 2023),
               later('back return_date', 'return date', 300, 0.3),
               number('cost fee', 'cost', 50, 900, 0.5, 0.12))),
)
HELD = ('hotel', 'museum')

_FIRST = 'anna bob carl dora emil fay gus hana ivan june kurt lena milo nora otto pia'.split()
_LAST = 'berg costa diaz evans fischer gupta hansen ito'.split()
_LIKE = 'silent golden broken distant hidden early frozen crooked'.split()
_WHAT = 'river garden mirror harbor winter lantern forest bridge tower island'.split()
_POOLS = dict(person=[f'{a} {b}' for a in _FIRST for b in _LAST], title=[f'{a} {b}' for a in _LIKE for b in _WHAT],
              thing='amber basil cedar dune ember flint grove heath iris jade kale lark moss nova onyx pearl quartz raven '
                    'sage thorn umber vale wren yarrow zephyr'.split())
_TYPES = dict(name='TEXT', category='TEXT', date='DATE', key='INTEGER')


def database(index: int, rng: random.Random, held: bool) -> Database:
  """Database number `index`: the domains take turns, rows and names are its own.

  Numbers, names and dates do not repeat in a column; a share of the nullable ones is NULL.
  """
  domains = [d for d in DOMAINS if (d in HELD) == held]
  domain, copy = domains[index % len(domains)], index // len(domains)
  entities = DOMAINS[domain]
  size = {e.many: rng.randint(*e.rows) for e in entities}
  table = {e.many: rng.choice(e.names) for e in entities}
  tables = []
  for e in entities:
    n = size[e.many]
    columns = [Column('id', 'id', 'INTEGER')]
    values: list[Sequence] = [range(1, n + 1)]
    for f in e.fields:
      kind = _TYPES.get(f.kind) or ('INTEGER' if f.values[2] == int(f.values[2]) else 'REAL')
      columns.append(Column(f.names[0], rng.choice(f.names), kind, (table[f.values[0]], 'id') if f.kind == 'key' else None))
      filled = _filled(f, n, size, values[-1], rng)
      values.append([None if rng.random() < f.null else v for v in filled])
    tables.append(Table(e.many, table[e.many], tuple(columns), tuple(zip(*values))))
  return Database(f'{domain}{copy}', tuple(tables), domain=domain)


def _filled(f, n, size, before, rng):
  if f.kind == 'name':
    return rng.sample(_POOLS[f.values[0]], n)
  if f.kind == 'number':
    low, high, unit = f.values
    return [v * unit for v in rng.sample(range(int(low / unit), int(high / unit) + 1), n)]
  if f.kind == 'date' and f.values[0] is None:
    days = [datetime.timedelta(rng.randint(1, f.values[1])) for _ in before]
    return [(datetime.date.fromisoformat(d) + late).isoformat() for d, late in zip(before, days)]
  if f.kind == 'date':
    first, last = (datetime.date(y, 1, 1).toordinal() for y in (f.values[0], f.values[1] + 1))
    return [datetime.date.fromordinal(d).isoformat() for d in rng.sample(range(first, last), n)]
  if f.kind == 'key':
    return [rng.randint(1, size[f.values[0]]) for _ in range(n)]
  return [rng.choice(f.values) for _ in range(n)]
