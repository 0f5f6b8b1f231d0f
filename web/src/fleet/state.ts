// The fleet page's data, derived: columns, readings, what is idle since when, a short history.

import { computed, effect, signal } from '@preact/signals';

import { jobs, nodes, nowMs, top } from '../api/store';
import {
  countStates,
  IdleWatch,
  jobAt,
  readingsOf,
  sameRows,
  unitsOf,
  withIdle,
  type Jobs,
  type Readings,
  type Units,
} from './units';

const NO_JOBS: Jobs = new Map();
export const knownJobs = computed<Jobs>(() => jobs.value ?? NO_JOBS);
const plain = computed(() => unitsOf(nodes.value ?? [], knownJobs.value));

export const readings = computed<Readings>(() => readingsOf(plain.value, top.value));

const watch = new IdleWatch();
/** Row → since when it is held idle. */
export const idleSince = signal<ReadonlyMap<number, number>>(new Map());

export const units = computed<Units>(() => withIdle(plain.value, idleSince.value));
export const states = computed(() => countStates(units.value));

/** True iff any device reports utilization: without, there is nothing to colour by. */
export const hasSensor = computed(() => {
  const { util, memory, temperature_c, power_w } = readings.value;
  const some = (values: Float32Array): boolean => values.some((value) => !Number.isNaN(value));
  return {
    util: some(util),
    memory: some(memory),
    temperature: some(temperature_c),
    power: some(power_w),
  };
});

/** What the pointer rests on elsewhere on the page: shown on the map as if selected. */
export const hint = signal('');

/** Mean utilization of the devices that are held and say how busy they are; NaN if none does. */
export const busy = computed(() => meanOf(heldRows(units.value), readings.value.util));

function heldRows(all: Units): number[] {
  const rows = [];
  for (let row = 0; row < all.count; row++) if (all.job[row]! >= 0) rows.push(row);
  return rows;
}

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
  const at = all.jobs.indexOf(id);
  const rows = [];
  if (at >= 0) for (let row = 0; row < all.count; row++) if (all.job[row] === at) rows.push(row);
  return rows;
}

// -- history: what this page has seen of each device's utilization, a few minutes -------------------

const SAMPLES_MAX = 90; // 3 minutes of polls; 100,000 devices are 9 MB
const NONE = 255;
let seen: Uint8Array[] = [];
let seenOf: Units | null = null;

export function historyOf(rows: readonly number[]): number[] {
  return seen.map((sample) => {
    let sum = 0;
    let n = 0;
    for (const row of rows) {
      if (sample[row] === NONE || sample[row] === undefined) continue;
      sum += sample[row];
      n++;
    }
    return n ? sum / n / 250 : NaN;
  });
}

export function watchSensors(): void {
  effect(() => {
    if (!top.value) return;
    const all = plain.peek();
    const now = readings.peek();
    idleSince.value = watch.look(all, now, nowMs.peek());
    if (seenOf && !sameRows(seenOf, all)) seen = [];
    seenOf = all;
    const sample = Uint8Array.from(now.util, (value) =>
      Number.isNaN(value) ? NONE : Math.round(Math.min(1, Math.max(0, value)) * 250),
    );
    seen = [...seen.slice(1 - SAMPLES_MAX), sample];
  });
}

/** Jobs with devices held idle: how many, and since when the first of them. */
export const idleJobs = computed(() => {
  const found = new Map<string, { units: number; sinceMs: number }>();
  for (const [row, sinceMs] of idleSince.value) {
    const id = jobAt(units.value, row);
    if (id === null) continue;
    const known = found.get(id);
    found.set(id, {
      units: (known?.units ?? 0) + 1,
      sinceMs: Math.min(known?.sinceMs ?? Infinity, sinceMs),
    });
  }
  return found;
});
