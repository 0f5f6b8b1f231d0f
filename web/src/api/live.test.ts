import { deflateRawSync } from 'node:zlib';

import { expect, test } from 'vitest';

import {
  DELTA,
  framesIn,
  JOBS_TABLE,
  NEWS_TABLE,
  NODES_TABLE,
  PATCH,
  TABLE,
  TICK,
  WHOLE,
} from './liveFrames';
import { Columns, numbersOf, type Field } from './liveMoment';

// Written here as docs/live.md says; that the daemon writes the same is tests/browser/test_real.py's.
function frame(kind: number, field: number, tick: number, body: Uint8Array): Buffer {
  const head = Buffer.alloc(10);
  head.writeUInt32LE(6 + body.length, 0);
  head.writeUInt8(kind, 4);
  head.writeUInt8(field, 5);
  head.writeUInt32LE(tick, 6);
  return Buffer.concat([head, body]);
}
const packed = (kind: number, field: number, tick: number, bytes: number[]): Buffer =>
  frame(kind, field, tick, deflateRawSync(Uint8Array.from(bytes)));
const table = (kind: number, field: number, tick: number, body: unknown): Buffer =>
  frame(kind, field, tick, deflateRawSync(Buffer.from(JSON.stringify(body))));
function end(tick: number): Buffer {
  const body = Buffer.alloc(16);
  body.writeBigUInt64LE(1_700_000_000_000n + BigInt(tick), 0);
  body.writeBigUInt64LE(BigInt(tick * 10), 8);
  return frame(TICK, 0, tick, body);
}
function message(...frames: Buffer[]): ArrayBuffer {
  const all = Buffer.concat(frames);
  return all.buffer.slice(all.byteOffset, all.byteOffset + all.length);
}

const field = (id: number, name: string, width = 1): Field => ({
  id,
  name,
  text: name,
  unit: '',
  low: 0,
  step: 1,
  width,
  missing: 255,
  shown: [0, 100],
  words: [],
});
const SCHEMA = [field(0, 'state'), field(1, 'job', 3), field(3, 'util')];
const NODES = {
  version: 1,
  states: ['ready', 'cordoned', 'lost'],
  id: ['a'],
  gpus: [2],
  state: [0],
  models: ['H100'],
  model: [0],
  groups: ['g'],
  group: [0],
  paths: [['b']],
  path: [0],
  cpus: [8],
  memory_mib: [1],
  gpu_memory_mib: [80],
  limit_w: [700],
};
const snapshot = (tick: number, util = [250, 7]): ArrayBuffer =>
  message(
    table(TABLE, NODES_TABLE, tick, NODES),
    table(TABLE, JOBS_TABLE, tick, { set: [[1, 'x-1', 'p', 'o', 1, 1, 'training']] }),
    packed(WHOLE, 0, tick, [3, 3]),
    packed(WHOLE, 1, tick, [1, 0, 0, 0, 0, 0]),
    packed(WHOLE, 3, tick, util),
    end(tick),
  );

test('a snapshot and its changes make moments, and a moment never changes afterwards', async () => {
  const columns = new Columns(SCHEMA);
  const first = (await columns.take(snapshot(5))).moment;
  const second = (await columns.take(message(packed(DELTA, 3, 6, [10, 255]), end(6)))).moment;

  expect([...first.columns.get('util')!]).toEqual([250, 7]);
  expect([...second.columns.get('util')!]).toEqual([4, 6]); // modulo 256, both ways
  expect(second.columns.get('state')).toBe(first.columns.get('state'));
  expect(second.places).toBe(first.places);
  expect([second.tick, second.atMs, second.seq]).toEqual([6, 1_700_000_000_006, 60]);
});

test('one message may hold several ticks: a client that was away misses none', async () => {
  const columns = new Columns(SCHEMA);
  await columns.take(snapshot(5, [1, 1]));
  const frames = [6, 7, 8].flatMap((tick) => [packed(DELTA, 3, tick, [1, 2]), end(tick)]);
  const { moment } = await columns.take(message(...frames));

  expect([...moment.columns.get('util')!]).toEqual([4, 7]);
  expect(columns.skipped).toBe(0);
});

test('a snapshot instead of ticks is counted, never passed over in silence', async () => {
  const columns = new Columns(SCHEMA);
  await columns.take(snapshot(5));
  await columns.take(snapshot(9));

  expect(columns.skipped).toBe(3);
});

test('a tick that does not follow the last is refused', async () => {
  const columns = new Columns(SCHEMA);
  await columns.take(snapshot(5));

  await expect(columns.take(message(end(7)))).rejects.toThrow('tick 7 came after 5');
});

test('rows of tables come, go, and change state; news name jobs', async () => {
  const columns = new Columns(SCHEMA);
  const { moment: before, news: all } = await columns.take(snapshot(1));
  const { moment, news } = await columns.take(
    message(
      table(PATCH, NODES_TABLE, 2, { state: [[0, 2]] }),
      table(PATCH, JOBS_TABLE, 2, { set: [[2, 'y-2', 'p', 'o', 2, 4, 'training']], drop: [1] }),
      table(PATCH, NEWS_TABLE, 2, { jobs: ['x-1', 'y-2'], others: true }),
      end(2),
    ),
  );

  expect(all.all).toBe(true);
  expect([news.all, [...news.jobs], news.others]).toEqual([false, ['x-1', 'y-2'], true]);
  expect(moment.jobs.map((job) => job?.id)).toEqual([undefined, undefined, 'y-2']);
  expect(before.jobs[1]!.id).toBe('x-1');
  expect([before.places.nodes[0]!.state, moment.places.nodes[0]!.state]).toEqual(['ready', 'lost']);
  expect(moment.places.version).toBe(before.places.version);
});

test.each([
  ['cut off', new Uint8Array([9, 0, 0, 0, 1]).buffer],
  ['of a wrong length', message(packed(WHOLE, 3, 1, [1]), end(1)).slice(0, 20)],
  ['of too few devices', message(table(TABLE, NODES_TABLE, 1, NODES), packed(WHOLE, 3, 1, [1]))],
  ['a change of what is not known', message(packed(DELTA, 3, 1, [1, 1]), end(1))],
  ['packed badly', message(frame(WHOLE, 3, 1, Uint8Array.of(255, 255, 255)), end(1))],
])('a message that is %s is refused', async (_, broken) => {
  await expect(new Columns(SCHEMA).take(broken)).rejects.toThrow();
});

test('a field of a newer daemon is passed over', async () => {
  const columns = new Columns(SCHEMA);
  await columns.take(snapshot(1));
  const { moment } = await columns.take(message(packed(DELTA, 99, 2, [1]), end(2)));

  expect([...moment.columns.keys()]).toEqual(['state', 'job', 'util']);
});

test('planes are numbers, lowest bytes first', () => {
  expect([...numbersOf(Uint8Array.of(1, 255, 2, 0, 0, 1), 3)]).toEqual([1 + 512, 255 + 65_536]);
});

test('frames are found where they lie', () => {
  const found = framesIn(message(frame(WHOLE, 7, 9, Uint8Array.of(1, 2)), end(9)));

  expect(found.map(({ kind, field: id, tick }) => [kind, id, tick])).toEqual([
    [WHOLE, 7, 9],
    [TICK, 0, 9],
  ]);
  expect([...found[0]!.body]).toEqual([1, 2]);
});
