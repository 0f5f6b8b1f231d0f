// The fleet page's data, derived from the moment it shows: units, readings, what is idle since when.
//
// Everything here follows identities: a tick in which no state moved makes no new units, and one in
// which no reading moved repaints nothing.

import { computed, effect, signal } from '@preact/signals';

import type { Field, JobRow } from '../api/liveMoment';
import { newest, schema } from '../api/liveSocket';
import { moment } from './moment';
import {
  countStates,
  hasReading,
  jobAt,
  MISSING,
  NO_UNITS,
  numbers,
  unitsOf,
  type Bytes,
  type Units,
} from './units';

const NO_COLUMNS: Bytes = new Map();

let known: Units = NO_UNITS;
/** The same object as before while no device, state or holder changed. */
export const units = computed<Units>(() => {
  const now = moment.value;
  if (!now) return NO_UNITS;
  const made = unitsOf(now);
  const same =
    known.places === made.places &&
    known.state === made.state &&
    known.job === made.job &&
    known.jobs === made.jobs;
  if (!same) known = made;
  return known;
});

export const columns = computed<Bytes>(() => moment.value?.columns ?? NO_COLUMNS);
export const fields = computed<ReadonlyMap<string, Field>>(
  () => new Map(schema.value.map((field) => [field.name, field])),
);
export const states = computed(() => countStates(units.value));

/** Jobs that hold devices, by id. */
export type Jobs = ReadonlyMap<string, JobRow>;
export const knownJobs = computed<Jobs>(() => {
  const found = new Map<string, JobRow>();
  for (const job of units.value.jobs) if (job) found.set(job.id, job);
  return found;
});

const column = (name: string) => computed(() => columns.value.get(name));
const util = column('util');
const idle = column('idle');

/** The newest numbers of a few fields, for pages that compute with them; shares, not percent. */
export const readings = computed(() => {
  const all = fields.value;
  const { count } = units.value;
  const of = (name: string, per: number): Float32Array =>
    numbers(columns.value, all.get(name), count, per);
  return {
    util: of('util', 0.01),
    memory: of('memory', 0.01),
    temperature_c: of('temperature', 1),
    power: of('power', 0.01),
  };
});

/** True iff any device has a reading of the field, or the field was not asked for yet. */
export function hasSensor(name: string): boolean {
  const known = columns.value.get(name);
  return known === undefined ? fields.value.has(name) : hasReading(known);
}

/** What the pointer rests on elsewhere on the page: shown on the map as if selected. */
export const hint = signal('');

/** Mean utilization of the devices that are held and say how busy they are; NaN if none does. */
export const busy = computed(() => {
  const all = units.value;
  const bytes = util.value;
  let sum = 0;
  let seen = 0;
  if (!bytes) return NaN;
  for (let row = 0; row < all.count; row++) {
    if (all.job[row]! < 0 || bytes[row] === MISSING) continue;
    sum += bytes[row]!;
    seen++;
  }
  return seen ? sum / seen / 100 : NaN;
});

export function meanOf(rows: readonly number[], values: Float32Array): number {
  let sum = 0;
  let seen = 0;
  for (const row of rows) {
    if (Number.isNaN(values[row]!)) continue;
    sum += values[row]!;
    seen++;
  }
  return seen ? sum / seen : NaN;
}

export function rowsOfJob(all: Units, id: string): number[] {
  const at = all.jobs.findIndex((job) => job?.id === id);
  const rows = [];
  if (at >= 0) for (let row = 0; row < all.count; row++) if (all.job[row] === at) rows.push(row);
  return rows;
}

// -- history: what this page has seen of each device's utilization, a few minutes -------------------

const SAMPLES_MAX = 90; // columns never change once made: keeping one costs its bytes and no copy
let seen: Uint8Array[] = [];
let seenOf = 0;

export function historyOf(rows: readonly number[]): number[] {
  return seen.map((sample) => {
    let sum = 0;
    let n = 0;
    for (const row of rows) {
      if (sample[row] === MISSING || sample[row] === undefined) continue;
      sum += sample[row];
      n++;
    }
    return n ? sum / n / 100 : NaN;
  });
}

export function watchSensors(): void {
  effect(() => {
    const now = newest.value;
    const sample = now?.columns.get('util');
    if (!now || !sample || seen.at(-1) === sample) return;
    if (seenOf !== now.places.version) seen = [];
    seenOf = now.places.version;
    seen.push(sample);
    if (seen.length > SAMPLES_MAX) seen.shift();
  });
}

/** Jobs with devices held idle: how many, and since when the first of them. */
export const idleJobs = computed(() => {
  const found = new Map<string, { units: number; sinceMs: number }>();
  const minutes = idle.value;
  const atMs = moment.value?.atMs ?? 0;
  if (!minutes) return found;
  const all = units.value;
  for (let row = 0; row < all.count; row++) {
    if (minutes[row] === MISSING) continue;
    const id = jobAt(all, row);
    if (id === null) continue;
    const known = found.get(id);
    const sinceMs = atMs - minutes[row]! * 60_000;
    found.set(id, {
      units: (known?.units ?? 0) + 1,
      sinceMs: Math.min(known?.sinceMs ?? Infinity, sinceMs),
    });
  }
  return found;
});
