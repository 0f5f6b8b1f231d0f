// The fleet as columns: one row per device, in the order in which the daemon lists nodes.
//
// Pure. A row's index is its identity while `places.version` stays. Readings are bytes as they came;
// `valueOf` makes numbers of them, NaN where there is no sensor: missing is not zero.

import type { Field, JobRow, Moment, NodeRow, Places } from '../api/liveMoment';
import { numbersOf } from '../api/liveMoment';

export const STATES = [
  'running',
  'idle',
  'starting',
  'free',
  'reserved',
  'draining',
  'repairing',
  'faulty',
  'lost',
] as const;
export type State = (typeof STATES)[number];
export const CODE = Object.fromEntries(STATES.map((state, code) => [state, code])) as Record<
  State,
  number
>;
export const MISSING = 255;

export interface Units {
  count: number;
  places: Places;
  nodes: readonly NodeRow[];
  /** Row of the device's node. */
  node: Int32Array;
  /** The device's index on its node. */
  slot: Int32Array;
  /** Code of the state, see STATES. */
  state: Uint8Array;
  /** Index into `jobs` of the job that holds most of it, or -1. */
  job: Int32Array;
  jobs: readonly (JobRow | undefined)[];
  isSlots: boolean;
  /** Each row stands for so many devices; null: one each. */
  weight: Int32Array | null;
}

const holders = new WeakMap<Uint8Array, Int32Array>();

const NO_PLACES: Places = {
  version: 0,
  count: 0,
  nodes: [],
  node: new Int32Array(),
  slot: new Int32Array(),
  isSlots: false,
};

export const NO_UNITS: Units = unitsOf({
  tick: -1,
  atMs: 0,
  seq: 0,
  places: NO_PLACES,
  columns: new Map(),
  jobs: [],
});

export function unitsOf(moment: Moment): Units {
  const { places, columns, jobs } = moment;
  const planes = columns.get('job') ?? new Uint8Array(3 * places.count);
  let job = holders.get(planes);
  if (!job) {
    job = numbersOf(planes, 3);
    for (let row = 0; row < job.length; row++) if (!jobs[job[row]!]) job[row] = -1;
    holders.set(planes, job);
  }
  return {
    count: places.count,
    places,
    nodes: places.nodes,
    node: places.node,
    slot: places.slot,
    state: columns.get('state') ?? new Uint8Array(places.count).fill(CODE.free),
    job,
    jobs,
    isSlots: places.isSlots,
    weight: null,
  };
}

export function countStates(units: Units): Record<State, number> {
  const counts = new Array<number>(STATES.length).fill(0);
  for (let row = 0; row < units.count; row++)
    counts[units.state[row]!]! += units.weight?.[row] ?? 1;
  return Object.fromEntries(STATES.map((state, code) => [state, counts[code] ?? 0])) as Record<
    State,
    number
  >;
}

export const stateAt = (units: Units, row: number): State => STATES[units.state[row]!] ?? 'free';
export const jobRowAt = (units: Units, row: number): JobRow | null =>
  units.jobs[units.job[row]!] ?? null;
export const jobAt = (units: Units, row: number): string | null => jobRowAt(units, row)?.id ?? null;
export const nodeAt = (units: Units, row: number): NodeRow => units.nodes[units.node[row]!]!;
export const keyAt = (units: Units, row: number): string =>
  `${nodeAt(units, row).id}/${units.slot[row]!}`;

/** The row of a device of the whole fleet (not of a coarse picture), or -1. */
export function rowOf(places: Places, node: string, slot: number): number {
  const found = places.nodes.find((one) => one.id === node);
  return found && slot < found.gpus ? found.first + slot : -1;
}

/** True iff both have the same devices in the same rows. */
export const sameRows = (a: Units, b: Units): boolean =>
  a.places.version === b.places.version && a.node === b.node && a.slot === b.slot;

// -- readings ---------------------------------------------------------------------------------------

/** Columns of bytes by the field's name; of a coarse picture, means over each row's devices. */
export interface Bytes {
  get: (name: string) => Uint8Array | undefined;
}

export const valueOf = (field: Field, byte: number | undefined): number =>
  byte === undefined || byte === field.missing ? NaN : field.low + field.step * byte;

/** The row's reading, NaN if nobody knows. */
export const readingAt = (bytes: Bytes, field: Field | undefined, row: number): number =>
  field ? valueOf(field, bytes.get(field.name)?.[row]) : NaN;

/** A whole column as numbers, for those who compute with them. */
export function numbers(bytes: Bytes, field: Field | undefined, count: number, per = 1) {
  const out = new Float32Array(count).fill(NaN);
  const column = field && bytes.get(field.name);
  if (!field || !column) return out;
  for (let row = 0; row < count; row++) out[row] = valueOf(field, column[row]) * per;
  return out;
}

export const hasReading = (column: Uint8Array | undefined): boolean =>
  column?.some((byte) => byte !== MISSING) ?? false;
