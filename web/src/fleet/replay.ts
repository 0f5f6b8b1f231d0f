// The last day, to be dragged through: which moments there are, and the one that is looked at.
//
// The URL's `at` (Unix seconds) decides; without it the page is live. A moment is one message of the
// live line, read back by the same code. A few are kept, so that stepping back and forth is at once.

import { effect, signal } from '@preact/signals';

import { Columns, type Moment } from '../api/liveMoment';
import { newest, schema } from '../api/liveSocket';
import { query, setQuery } from '../router';
import { replayed } from './moment';
import type { State } from './units';

export interface Day {
  times: number[];
  counts: Record<State, number[]>;
  util: (number | null)[];
}

export const day = signal<Day | null>(null);

const DAY_MS = 24 * 3_600_000;
const DAY_STALE_MS = 60_000;
const KEPT_MAX = 24;
const kept = new Map<number, Promise<Moment>>();
let wanted = 0;

async function bytesOf(path: string): Promise<Response> {
  const answer = await fetch(`/v1/live/${path}`, { credentials: 'same-origin' });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

export async function loadDay(nowMs: number): Promise<void> {
  try {
    const answer = await bytesOf(`history?from=${Math.max(0, Math.round(nowMs - DAY_MS))}`);
    day.value = (await answer.json()) as Day;
  } catch {
    // Without a history the band says so; the next look tries again.
  }
}

/** The index of the moment nearest to a time, or -1. */
export function nearest(times: readonly number[], atMs: number): number {
  let low = 0;
  let high = times.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle]! < atMs) low = middle + 1;
    else high = middle;
  }
  if (low > 0 && atMs - times[low - 1]! < times[low]! - atMs) low--;
  return times.length ? low : -1;
}

function momentOf(atMs: number): Promise<Moment> {
  const known = kept.get(atMs);
  if (known) return known;
  const made = bytesOf(`moment?at=${atMs}`)
    .then((answer) => answer.arrayBuffer())
    .then(async (message) => (await new Columns(schema.peek()).take(message)).moment);
  made.catch(() => kept.delete(atMs));
  kept.set(atMs, made);
  const oldest = kept.keys().next().value;
  if (kept.size > KEPT_MAX && oldest !== undefined) kept.delete(oldest);
  return made;
}

/** Show the moment nearest to a time; at or beyond the last one the page is live again. */
export function lookAt(atMs: number | null): void {
  const times = day.peek()?.times ?? [];
  const at = atMs === null ? -1 : nearest(times, atMs);
  const live = atMs === null || at < 0 || atMs > times.at(-1)! + DAY_STALE_MS / 2;
  setQuery({ at: live ? null : String(Math.round(times[at]! / 1000)) });
}

/** `[` and `]`. */
export function stepInTime(steps: number): void {
  const times = day.peek()?.times ?? [];
  const now = query.peek().get('at');
  const at = now === null ? times.length : nearest(times, Number(now) * 1000);
  const next = at + steps;
  lookAt(next >= times.length ? null : (times[Math.max(0, next)] ?? null));
}

export function followReplay(): void {
  effect(() => {
    const at = query.value.get('at');
    const times = day.value?.times;
    const mine = ++wanted;
    if (at === null || !times || !schema.value.length) {
      if (at === null) replayed.value = null;
      return;
    }
    const found = nearest(times, Number(at) * 1000);
    if (found < 0) return;
    momentOf(times[found]!)
      .then((moment) => {
        if (mine !== wanted) return; // someone dragged on
        const now = newest.peek();
        // The same devices as now: squares need not move.
        const same = now && sameIds(now, moment);
        replayed.value = same ? { ...moment, places: { ...moment.places, ...still(now) } } : moment;
      })
      .catch(() => undefined);
  });
}

function sameIds(a: Moment, b: Moment): boolean {
  const [now, then] = [a.places.nodes, b.places.nodes];
  return (
    now.length === then.length &&
    now.every((node, row) => node.id === then[row]!.id && node.gpus === then[row]!.gpus)
  );
}

const still = ({ places }: Moment) => ({
  version: places.version,
  node: places.node,
  slot: places.slot,
});

let watching = false;

/** Keep the day as the band shows it, while someone looks. */
export function watchDay(): void {
  if (watching) return;
  watching = true;
  let loadedMs = 0;
  effect(() => {
    const now = newest.value;
    if (!now || now.atMs - loadedMs < DAY_STALE_MS) return;
    loadedMs = now.atMs;
    void loadDay(now.atMs);
  });
}
