// The queue's calendar, computed: what is kept, promised and expected between now and a horizon, as
// bars on lanes. Pure.

import { gpusOf } from '../api/store';
import type { HoleView, ReservationView } from '../api/tenancy';
import type { JobView } from '../api/types';

const HOUR_MS = 3_600_000;
export const HORIZONS = { '6h': 6, '24h': 24, '7d': 168 } as const;
export type Horizon = keyof typeof HORIZONS;

export const toMsOf = (horizon: Horizon, nowMs: number): number =>
  nowMs + HORIZONS[horizon] * HOUR_MS;

export interface Bar {
  key: string;
  kind: 'waiting' | 'open' | 'kept';
  title: string;
  project: string;
  gpus: number;
  held: number;
  fromMs: number;
  toMs: number;
  /** It began before, or ends after, what is shown. */
  cutLeft: boolean;
  cutRight: boolean;
}

/** Reservations and kept rooms that are not over before the calendar begins; earliest first. */
export function bars(
  reservations: readonly ReservationView[],
  holes: readonly HoleView[],
  nowMs: number,
  horizon: Horizon,
): Bar[] {
  const endMs = toMsOf(horizon, nowMs);
  const cut = (
    fromMs: number,
    toMs: number,
  ): Pick<Bar, 'fromMs' | 'toMs' | 'cutLeft' | 'cutRight'> => ({
    fromMs: Math.max(fromMs, nowMs),
    toMs: Math.min(toMs, endMs),
    cutLeft: fromMs < nowMs,
    cutRight: toMs > endMs,
  });
  const found: Bar[] = reservations
    .filter((one) => one.end_ms > nowMs && one.begin_ms < endMs)
    .map((one) => ({
      key: `reservation ${one.id}`,
      kind: one.begin_ms <= nowMs ? 'open' : 'waiting',
      title: one.id,
      project: one.project,
      gpus: one.gpus * one.members,
      held: one.held_gpus,
      ...cut(one.begin_ms, one.end_ms),
    }));
  for (const one of holes) {
    if (one.until_ms <= nowMs) continue;
    found.push({
      key: `hole ${one.id}`,
      kind: 'kept',
      title: one.id,
      project: one.project,
      gpus: one.gpus * one.members,
      held: 0,
      ...cut(nowMs, one.until_ms),
    });
  }
  return found.sort((a, b) => a.fromMs - b.fromMs || b.gpus - a.gpus || (a.key < b.key ? -1 : 1));
}

/** Bars on as few lanes as there can be without two meeting: each on the first that is free. */
export function lanes(of: readonly Bar[]): Bar[][] {
  const found: Bar[][] = [];
  for (const bar of of) {
    const lane = found.find((one) => one.at(-1)!.toMs <= bar.fromMs);
    if (lane) lane.push(bar);
    else found.push([bar]);
  }
  return found;
}

export interface Start {
  job: JobView;
  atMs: number;
}

/** Waiting jobs with a time that is known, in the order of the queue. */
export function expected(queue: readonly JobView[], nowMs: number, horizon: Horizon): Start[] {
  const endMs = toMsOf(horizon, nowMs);
  return queue
    .filter((job) => job.waits && job.waits.earliest_ms > 0 && job.waits.earliest_ms <= endMs)
    .map((job) => ({ job, atMs: Math.max(nowMs, job.waits!.earliest_ms) }));
}

/** GPUs that come back by time limits, summed in `slots` equal slots from now to the horizon. */
export function ends(
  running: readonly JobView[],
  nowMs: number,
  horizon: Horizon,
  slots: number,
): number[] {
  const found = new Array<number>(slots).fill(0);
  const length = HORIZONS[horizon] * HOUR_MS;
  for (const job of running) {
    if (!job.time_ms || !job.running_ms) continue;
    const at = Math.floor(((job.running_ms + job.time_ms - nowMs) / length) * slots);
    if (at >= 0 && at < slots) found[at]! += gpusOf(job);
  }
  return found;
}
