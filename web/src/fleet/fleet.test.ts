import { describe, expect, test } from 'vitest';

import type { Field, JobRow, Moment, NodeRow } from '../api/liveMoment';
import { placesOf } from '../api/liveMoment';
import { shortened } from './Labels';
import { DIM, paint, PATTERN, categoriesOf, type Palette } from './paint';
import { nearest } from './replay';
import {
  coarse,
  coarseBytes,
  coarseUnits,
  groupUnits,
  matching,
  ranged,
  rangesOf,
  specOf,
  terms,
  toggled,
  type GroupBy,
} from './spec';
import {
  CODE,
  countStates,
  jobAt,
  MISSING,
  readingAt,
  rowOf,
  stateAt,
  STATES,
  unitsOf,
  type State,
  type Units,
} from './units';

interface Job {
  id: string;
  project?: string;
  owner?: string;
  rows: number[];
}

/** Nodes of two devices each, `held` by jobs; `states` overrides what that makes of a row. */
function fleet(
  ids: readonly string[],
  held: readonly Job[] = [],
  states: Record<number, State> = {},
  more: Partial<NodeRow> = {},
): Units {
  const n = ids.length;
  const fill = (value: number): number[] => new Array<number>(n).fill(value);
  const places = placesOf({
    version: 1,
    states: ['ready', 'cordoned', 'lost'],
    id: [...ids],
    gpus: fill(2),
    state: fill(0),
    models: [more.model ?? 'H100'],
    model: fill(0),
    groups: ['g'],
    group: fill(0),
    paths: [['block-0'], ['block-1']],
    path: ids.map((_, i) => i % 2),
    cpus: fill(8),
    memory_mib: fill(1000),
    gpu_memory_mib: fill(80_000),
    limit_w: fill(700),
  });
  const state = new Uint8Array(places.count).fill(CODE.free);
  const job = new Uint8Array(3 * places.count);
  const jobs: (JobRow | undefined)[] = [];
  held.forEach((one, i) => {
    const project = one.project ?? 'p';
    const owner = one.owner ?? 'o';
    jobs[i + 1] = { id: one.id, project, owner, n: i + 1, members: 1, category: 'training' };
    for (const row of one.rows) {
      state[row] = CODE.running;
      job[row] = i + 1;
    }
  });
  for (const [row, name] of Object.entries(states)) state[Number(row)] = CODE[name];
  const columns = new Map([
    ['state', state],
    ['job', job],
  ]);
  const moment: Moment = { tick: 1, atMs: 0, seq: 0, places, columns, jobs };
  return unitsOf(moment);
}

const UTIL: Field = {
  id: 3,
  name: 'util',
  text: 'utilization',
  unit: '%',
  low: 0,
  step: 1,
  width: 1,
  missing: MISSING,
  shown: [0, 100],
  words: [],
};
const FIELDS = new Map([['util', UTIL]]);
const util = (...bytes: number[]) => ({
  bytes: new Map([['util', Uint8Array.from(bytes)]]),
  fields: FIELDS,
});

describe('units', () => {
  test('a row knows its node, its job and its state', () => {
    const units = fleet(['a', 'b'], [{ id: 'x-1', rows: [1, 2] }], { 3: 'faulty' });

    expect([0, 1, 2, 3].map((row) => jobAt(units, row))).toEqual([null, 'x-1', 'x-1', null]);
    expect([0, 1, 2, 3].map((row) => stateAt(units, row))).toEqual([
      'free',
      'running',
      'running',
      'faulty',
    ]);
    expect(rowOf(units.places, 'b', 1)).toBe(3);
    expect(rowOf(units.places, 'b', 2)).toBe(-1);
    expect(countStates(units)).toMatchObject({ running: 2, free: 1, faulty: 1, lost: 0 });
  });

  test('a missing reading is missing, not zero', () => {
    const { bytes } = util(0, MISSING);

    expect(readingAt(bytes, UTIL, 0)).toBe(0);
    expect(readingAt(bytes, UTIL, 1)).toBeNaN();
    expect(readingAt(bytes, undefined, 0)).toBeNaN();
  });
});

describe('query', () => {
  const atlas = { id: 'atlas-1', project: 'llm', owner: 'jiwoo', rows: [0, 1] };
  const units = fleet(['a-1', 'b-2'], [atlas], { 2: 'lost', 3: 'lost' });

  test.each([
    ['state:lost', [0, 0, 1, 1]],
    ['state:lost state:running', [1, 1, 1, 1]],
    ['atlas', [1, 1, 0, 0]],
    ['node:b', [0, 0, 1, 1]],
    ['project:llm state:lost', [0, 0, 0, 0]],
    ['owner:ji', [1, 1, 0, 0]],
    ['block:block-1', [0, 0, 1, 1]],
    ['job:atlas-1', [1, 1, 0, 0]],
    ['job:atlas', [0, 0, 0, 0]],
    ['JIWOO h100', [1, 1, 0, 0]],
    ['unknown:thing', [0, 0, 0, 0]],
    ['util:50-100', [0, 1, 1, 0]],
    ['util:50-100 state:running', [0, 1, 0, 0]],
    ['util:99-99', [0, 0, 1, 0]],
  ])('%s matches', (where, rows) => {
    expect([...matching(units, where, util(10, 50, 99, MISSING))!]).toEqual(rows);
  });

  test('nothing asked is no filter', () => {
    expect(matching(units, '  ')).toBeNull();
    expect(terms('')).toEqual([]);
  });

  test('a term is switched on and off', () => {
    expect(toggled('a', 'state:lost')).toBe('a state:lost');
    expect(toggled('a state:lost', 'state:lost')).toBe('a');
  });

  test('a field has one range, and it goes again', () => {
    const once = ranged('atlas', 'util', { name: 'util', low: 0, high: 20 });
    expect(once).toBe('atlas util:0-20');
    expect(ranged(once, 'util', { name: 'util', low: 5, high: 9 })).toBe('atlas util:5-9');
    expect(ranged(once, 'util', null)).toBe('atlas');
    expect(rangesOf('node:0-20 util:5-9.5')).toEqual([{ name: 'util', low: 5, high: 9.5 }]);
  });

  test('what the URL does not know is the default', () => {
    expect(specOf(new URLSearchParams('group=nonsense&color=power&view=table'))).toEqual({
      group: 'block',
      color: 'power',
      where: '',
      view: 'table',
    });
    expect(specOf(new URLSearchParams('color=<script>')).color).toBe('util');
  });
});

describe('groups', () => {
  const quotas = { of: (project: string) => (project === 'llm' ? 8 : null) };
  const ids = Array.from({ length: 30 }, (_, i) => `n-${i}`);
  const units = fleet(ids, [
    { id: 'small-1', project: 'cv', rows: [8] },
    { id: 'big-2', project: 'llm', rows: [0, 1, 2, 3] },
  ]);
  const all: GroupBy[] = ['block', 'job', 'project', 'model', 'state'];

  test.each(all)('by %s holds each device once, and so does the coarse picture', (by) => {
    const fine = groupUnits(units, by, quotas);
    const rows = fine.groups.flatMap((group) => group.cells.flat());
    expect(rows.sort((a, b) => a - b)).toEqual([...Array(units.count).keys()]);

    const rough = coarse(units, groupUnits(units, by, quotas));
    const squares = rough.grouping.groups.flatMap((group) => group.cells.flat());
    expect(squares.sort((a, b) => a - b)).toEqual([...rough.rows.keys()]);
    expect(rough.rows.flat().sort((a, b) => a - b)).toEqual([...Array(units.count).keys()]);
  });

  test('jobs come largest first, then what is not held', () => {
    expect(groupUnits(units, 'job', quotas).groups.map((group) => group.key)).toEqual([
      'big-2',
      'small-1',
      '\u0000free',
    ]);
  });

  test('projects carry their quota', () => {
    const { groups } = groupUnits(units, 'project', quotas);
    expect(groups.map((group) => [group.key, group.quota])).toEqual([
      ['llm', 8],
      ['cv', undefined],
      ['\u0000', undefined],
    ]);
  });

  test('a fleet of few nodes shows each by name', () => {
    const grouping = groupUnits(fleet(['n-10', 'n-9']), 'block', quotas);

    expect(grouping.shape).toBe('cards');
    expect(grouping.groups.map((group) => group.key)).toEqual(['n-9', 'n-10']);
  });

  test('a node drawn as one square shows its worst state, its job and its mean', () => {
    const some = fleet(['x', 'y'], [{ id: 'j-1', rows: [1] }], { 0: 'faulty' });
    const { rows } = coarse(some, groupUnits(some, 'block', quotas));
    const many = coarseUnits(some, rows);

    expect([many.count, stateAt(many, 0), stateAt(many, 1)]).toEqual([2, 'faulty', 'free']);
    expect([jobAt(many, 0), jobAt(many, 1)]).toEqual(['j-1', null]);
    expect(countStates(many)).toMatchObject({ faulty: 2, free: 2 });
    const means = coarseBytes(some, util(10, 21, MISSING, MISSING).bytes, rows).get('util');
    expect([...means!]).toEqual([16, MISSING]);
  });

  test('a name that does not fit keeps its end, which tells it apart', () => {
    expect(shortened('atlas-two-tower-90', 500)).toBe('atlas-two-tower-90');
    expect(shortened('atlas-two-tower-90', 70)).toBe('tower-90');
    expect(shortened('atlas-two-tower-90', 1)).toBe('90');
  });
});

describe('paint', () => {
  const grey = [1, 2, 3] as const;
  const colors: Palette = {
    ramp: Array.from({ length: 33 }, (_, i) => [i, i, i] as const),
    states: Object.fromEntries(STATES.map((state) => [state, grey])) as Palette['states'],
    categories: [[9, 9, 9]],
    background: [0, 0, 0],
    edge: [0, 0, 0],
  };
  const units = fleet(['a'], [{ id: 'x-1', rows: [0] }]);

  test('every state has a pattern of its own', () => {
    expect(new Set(Object.values(PATTERN)).size).toBe(STATES.length);
  });

  test('a running device shows its value, any other its state; what does not match is dim', () => {
    const look = { color: 'util', lit: Uint8Array.of(1, 0) };
    const bytes = paint(units, util(100, MISSING), colors, look);

    expect([...bytes]).toEqual([32, 32, 32, PATTERN.running, 1, 2, 3, PATTERN.free | DIM]);
  });

  test.each([
    ['util', MISSING, grey], // nobody knows: neither end of the ramp
    ['project', 0, [9, 9, 9]],
    ['owner', 0, [9, 9, 9]],
    ['job', 0, [9, 9, 9]],
    ['state', 0, grey],
  ])('by %s of %i', (color, byte, rgb) => {
    const bytes = paint(units, util(byte, byte), colors, { color, lit: null });

    expect([...bytes.subarray(0, 3)]).toEqual([...rgb]);
  });

  test('names get colours of their own as long as there are enough', () => {
    const found = categoriesOf(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'], 8);

    expect(new Set(found.values()).size).toBe(8);
    expect(categoriesOf(['h', 'a'], 8)).toEqual(categoriesOf(['a', 'h', 'a'], 8));
  });
});

test.each([
  [[], 5, -1],
  [[10], 99, 0],
  [[10, 20, 30], 14, 0],
  [[10, 20, 30], 16, 1],
  [[10, 20, 30], 999, 2],
  [[10, 20, 30], 0, 0],
])('the moment nearest in %j to %i is %i', (times, atMs, found) => {
  expect(nearest(times, atMs)).toBe(found);
});
