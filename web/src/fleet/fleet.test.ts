import { describe, expect, test } from 'vitest';

import { reseated } from '../api/store';
import type { JobView, NodeView, Phase } from '../api/types';
import { DIM, paint, PATTERN, categoriesOf, type Palette } from './paint';
import { groupUnits, matching, nodesAsUnits, specOf, terms, toggled } from './spec';
import {
  IDLE_AFTER_MS,
  IdleWatch,
  readingsOf,
  stateAt,
  stateOf,
  STATES,
  unitsOf,
  withIdle,
} from './units';

function node(id: string, gpus = 2, more: Partial<NodeView> = {}): NodeView {
  const one = (index: number) => ({
    index,
    healthy: true,
    free_milli: 1000,
    jobs: [],
    model: 'H100',
    memory_mib: 80_000,
  });
  const base = {
    id,
    state: 'ready' as const,
    model: 'H100',
    group: 'g',
    domains: ['block-1'],
    cpus: 8,
    memory_mib: 1000,
  };
  return { ...base, gpus: Array.from({ length: gpus }, (_, i) => one(i)), ...more };
}

function job(
  id: string,
  phase: Phase,
  seats: [string, number[]][],
  more: Partial<JobView> = {},
): JobView {
  const seated = seats.map(([at, gpus], rank) => ({
    rank,
    node: at,
    gpus,
    started: true,
    exit: null,
  }));
  return {
    id,
    n: Number(id.split('-').at(-1)),
    phase,
    seats: seated,
    gpus: 1,
    project: 'p',
    owner: 'o',
    ...more,
  } as JobView;
}

const known = (...jobs: JobView[]): Map<string, JobView> =>
  new Map(jobs.map((one) => [one.id, one]));

describe('reseated', () => {
  const nodes = [node('a'), node('b')];

  test('a started job sits on its devices, and other nodes stay the same objects', () => {
    const after = reseated(nodes, [job('x-1', 'running', [['a', [1]]])]);

    expect(after[0]!.gpus[1]!.jobs).toEqual([{ job: 'x-1', member: 0, milli: 1000 }]);
    expect(after[0]!.gpus[1]!.free_milli).toBe(0);
    expect(after[1]).toBe(nodes[1]);
  });

  test('an ended job leaves, and so does an ended member of a live one', () => {
    const held = reseated(nodes, [
      job('x-1', 'running', [
        ['a', [0]],
        ['b', [0]],
      ]),
    ]);
    const half = job('x-1', 'running', [
      ['a', [0]],
      ['b', [0]],
    ]);
    half.seats[0]!.exit = { code: 0, signal: 0, lost: false };

    expect(reseated(held, [half]).map((one) => one.gpus[0]!.jobs.length)).toEqual([0, 1]);
    const ended = reseated(held, [
      job('x-1', 'succeeded', [
        ['a', [0]],
        ['b', [0]],
      ]),
    ]);
    expect(ended.flatMap((one) => one.gpus.flatMap((gpu) => gpu.jobs))).toEqual([]);
    expect(ended[0]!.gpus[0]!.free_milli).toBe(1000);
  });

  test('shares of one device add up', () => {
    const first = reseated(nodes, [job('x-1', 'running', [['a', [0]]], { gpus: 0.25 })]);
    const both = reseated(first, [job('y-2', 'running', [['a', [0]]], { gpus: 0.5 })]);

    expect(both[0]!.gpus[0]!.free_milli).toBe(250);
    expect(both[0]!.gpus[0]!.jobs.map((held) => held.job)).toEqual(['x-1', 'y-2']);
  });

  test('a job the daemon no longer knows leaves', () => {
    const held = reseated(nodes, [job('x-1', 'running', [['a', [0]]])]);

    expect(reseated(held, [], ['x-1'])[0]!.gpus[0]!.jobs).toEqual([]);
  });
});

describe('state of a device', () => {
  const held = (phase: Phase) => {
    const one = job('x-1', phase, [['a', [0]]]);
    return { at: reseated([node('a')], [one])[0]!, jobs: known(one) };
  };

  test.each([
    ['running', 'running'],
    ['starting', 'starting'],
    ['stopping', 'draining'],
  ] as const)('of a %s job is %s', (phase, state) => {
    const { at, jobs } = held(phase);

    expect(stateOf(at, at.gpus[0]!, jobs)).toBe(state);
    expect(stateOf(at, at.gpus[1]!, jobs)).toBe('free');
  });

  test('a broken device says so before anything else', () => {
    const { at, jobs } = held('running');

    expect(stateOf({ ...at, state: 'lost' }, at.gpus[0]!, jobs)).toBe('lost');
    expect(stateOf(at, { ...at.gpus[0]!, healthy: false }, jobs)).toBe('faulty');
    expect(stateOf({ ...at, state: 'cordoned' }, at.gpus[1]!, jobs)).toBe('draining');
  });
});

describe('readings', () => {
  const units = unitsOf([node('a'), node('b')], new Map());
  const gpu = (index: number, util: number | null) => ({
    index,
    util_percent: util,
    memory_used_mib: 40_000,
    power_w: null,
    temperature_c: 60,
  });

  test('missing sensors are missing, not zero', () => {
    const top = {
      members: [],
      nodes: [{ id: 'b', cpu_percent: 1, memory_used_mib: 1, gpus: [gpu(1, 50), gpu(0, null)] }],
    };
    const found = readingsOf(units, top);

    expect([...found.util]).toEqual([NaN, NaN, NaN, 0.5]);
    expect([...found.memory]).toEqual([NaN, NaN, 0.5, 0.5]);
    expect([...found.power_w].every(Number.isNaN)).toBe(true);
  });

  test('a device is held idle after a minute without work, and not before', () => {
    const one = job('x-1', 'running', [['a', [0]]]);
    const rows = unitsOf(reseated([node('a')], [one]), known(one));
    const idle = { id: 'a', cpu_percent: 1, memory_used_mib: 1, gpus: [gpu(0, 0), gpu(1, 0)] };
    const seen = readingsOf(rows, { members: [], nodes: [idle] });
    const watch = new IdleWatch();

    expect(watch.look(rows, seen, 0).size).toBe(0);
    expect(watch.look(rows, seen, IDLE_AFTER_MS - 1).size).toBe(0);
    const found = watch.look(rows, seen, IDLE_AFTER_MS);
    expect([...found]).toEqual([[0, 0]]);
    expect(stateAt(withIdle(rows, found), 0)).toBe('idle');
    const busy = { ...seen, util: Float32Array.of(0.9, NaN) };
    expect(watch.look(rows, busy, IDLE_AFTER_MS + 1).size).toBe(0);
    expect(watch.look(rows, seen, IDLE_AFTER_MS + 2).size).toBe(0);
  });
});

describe('query', () => {
  const one = job('atlas-1', 'running', [['a-1', [0, 1]]], { project: 'llm', owner: 'jiwoo' });
  const jobs = known(one);
  const units = unitsOf(reseated([node('a-1'), node('b-2', 2, { state: 'lost' })], [one]), jobs);

  test.each([
    ['state:lost', [0, 0, 1, 1]],
    ['state:lost state:running', [1, 1, 1, 1]],
    ['atlas', [1, 1, 0, 0]],
    ['node:b', [0, 0, 1, 1]],
    ['project:llm state:lost', [0, 0, 0, 0]],
    ['job:atlas-1', [1, 1, 0, 0]],
    ['job:atlas', [0, 0, 0, 0]],
    ['JIWOO h100', [1, 1, 0, 0]],
    ['unknown:thing', [0, 0, 0, 0]],
  ])('%s matches', (where, rows) => {
    expect([...matching(units, jobs, where)!]).toEqual(rows);
  });

  test('nothing asked is no filter', () => {
    expect(matching(units, jobs, '  ')).toBeNull();
    expect(terms('')).toEqual([]);
  });

  test('a term is switched on and off', () => {
    expect(toggled('a', 'state:lost')).toBe('a state:lost');
    expect(toggled('a state:lost', 'state:lost')).toBe('a');
  });

  test('what the URL does not know is the default', () => {
    expect(specOf(new URLSearchParams('group=nonsense&color=power&view=table'))).toEqual({
      group: 'block',
      color: 'power',
      where: '',
      view: 'table',
    });
  });
});

describe('groups', () => {
  const quotas = { of: (project: string) => (project === 'llm' ? 8 : null) };
  const big = job(
    'big-2',
    'running',
    [
      ['n-0', [0, 1]],
      ['n-1', [0, 1]],
    ],
    { project: 'llm' },
  );
  const small = job('small-1', 'running', [['n-2', [0]]], { project: 'cv' });
  const jobs = known(big, small);
  const nodes = Array.from({ length: 30 }, (_, i) =>
    node(`n-${i}`, 2, { domains: [`block-${i % 2}`] }),
  );
  const units = unitsOf(reseated(nodes, [big, small]), jobs);
  const every = (by: Parameters<typeof groupUnits>[2]) => groupUnits(units, jobs, by, quotas);

  test.each(['block', 'job', 'project', 'model', 'state'] as const)(
    'by %s holds each device once',
    (by) => {
      const rows = every(by).groups.flatMap((group) => group.cells.flat());

      expect(rows.sort((a, b) => a - b)).toEqual([...Array(units.count).keys()]);
    },
  );

  test('jobs come largest first, then what is not held', () => {
    expect(every('job').groups.map((group) => group.key)).toEqual([
      'big-2',
      'small-1',
      '\u0000free',
    ]);
  });

  test('projects carry their quota', () => {
    expect(every('project').groups.map((group) => [group.key, group.quota])).toEqual([
      ['llm', 8],
      ['cv', undefined],
      ['\u0000', undefined],
    ]);
  });

  test('a fleet of few nodes shows each by name', () => {
    const few = unitsOf([node('n-10'), node('n-9')], new Map());
    const grouping = groupUnits(few, new Map(), 'block', quotas);

    expect(grouping.shape).toBe('cards');
    expect(grouping.groups.map((group) => group.key)).toEqual(['n-9', 'n-10']);
  });

  test('a node drawn as one square shows its worst state', () => {
    const broken = node('x', 2);
    broken.gpus[1] = { ...broken.gpus[1]!, healthy: false };
    const many = nodesAsUnits(unitsOf([broken, node('y')], new Map()));

    expect([many.count, stateAt(many, 0), stateAt(many, 1)]).toEqual([2, 'faulty', 'free']);
  });
});

describe('paint', () => {
  const grey = [1, 2, 3] as const;
  const colors: Palette = {
    ramp: Array.from({ length: 33 }, (_, i) => [i, i, i] as const),
    states: Object.fromEntries(STATES.map((state) => [state, grey])) as Palette['states'],
    categories: [[9, 9, 9]],
    background: [0, 0, 0],
  };

  test('every state has a pattern of its own', () => {
    expect(new Set(Object.values(PATTERN)).size).toBe(STATES.length);
  });

  test('a running device shows its value, any other its state; what does not match is dim', () => {
    const one = job('x-1', 'running', [['a', [0]]]);
    const jobs = known(one);
    const units = unitsOf(reseated([node('a')], [one]), jobs);
    const none = new Float32Array(2).fill(NaN);
    const readings = {
      util: Float32Array.of(1, NaN),
      memory: none,
      temperature_c: none,
      power_w: none,
    };
    const bytes = paint(units, readings, jobs, colors, { color: 'util', lit: Uint8Array.of(1, 0) });

    expect([...bytes]).toEqual([32, 32, 32, PATTERN.running, 1, 2, 3, PATTERN.free | DIM]);
  });

  test('names get colours of their own as long as there are enough', () => {
    const found = categoriesOf(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'], 8);

    expect(new Set(found.values()).size).toBe(8);
    expect(categoriesOf(['h', 'a'], 8)).toEqual(categoriesOf(['a', 'h', 'a'], 8));
  });
});
