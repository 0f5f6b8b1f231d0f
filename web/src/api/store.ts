// What this page knows of the yard, as signals. Filled by live.ts; read by every page.
//
// Promises: `jobs` holds exactly the live jobs. Nodes and devices are the live line's (liveMoment.ts).

import { batch, computed, signal } from '@preact/signals';

import type { NodeRow } from './liveMoment';
import { newest as newestMoment } from './liveSocket';
import type { JobView, Overview, ProjectView, Top } from './types';
import { LIVE_PHASES } from './types';

export type Connection = 'wait' | 'on' | 'off' | 'paused';

export const connection = signal<Connection>('wait');
export const loggedOut = signal(false);
export const overview = signal<Overview | null>(null);
export const nodes = computed<readonly NodeRow[] | null>(
  () => newestMoment.value?.places.nodes ?? null,
);
export const jobs = signal<ReadonlyMap<string, JobView> | null>(null);
export const top = signal<Top | null>(null);
export const projects = signal<readonly ProjectView[] | null>(null);
/** The newest ended jobs, newest first: what the side panel and the first page of Jobs need. */
export const endedLately = signal<readonly JobView[]>([]);
/** Waiting jobs that are in sight: why they wait is asked anew while they are. */
export const inSight = signal<readonly string[]>([]);
/** Bumped for each event of a job, so that an open job page knows to look again. */
export const touched = signal<ReadonlyMap<string, number>>(new Map());

/** Server time, so that "waits for 2 m" is right when this machine's clock is not. Ticks. */
export const nowMs = signal(Date.now());
let skewMs = 0;

export function tellServerTime(serverMs: number): void {
  skewMs = serverMs - Date.now();
  tick();
}

export function tick(): void {
  nowMs.value = Date.now() + skewMs;
}

export const isLive = (job: JobView): boolean =>
  (LIVE_PHASES as readonly string[]).includes(job.phase);

/** Highest priority first, then the order of arrival: the order in which the yard serves them. */
export function queueOrder(a: JobView, b: JobView): number {
  return b.priority - a.priority || a.submitted_ms - b.submitted_ms || a.n - b.n;
}

export const waiting = computed(() =>
  [...(jobs.value?.values() ?? [])].filter((job) => job.phase === 'waiting').sort(queueOrder),
);

export const holding = computed(() =>
  [...(jobs.value?.values() ?? [])].filter((job) => job.phase !== 'waiting'),
);

/** GPUs a job asks for, of all its members. */
export const gpusOf = (job: JobView): number => job.members * job.gpus;

export function setAll(live: readonly JobView[]): void {
  jobs.value = new Map(live.map((job) => [job.id, job]));
}

/** Fold changed jobs in: live ones stay, ended ones leave. */
export function setJobs(changed: readonly JobView[], gone: readonly string[] = []): void {
  if (!changed.length && !gone.length) return;
  const known = new Map(jobs.value ?? []);
  const counts = new Map(touched.value);
  const ended: JobView[] = [];
  for (const job of changed) {
    counts.set(job.id, (counts.get(job.id) ?? 0) + 1);
    if (isLive(job)) known.set(job.id, withReason(job, known.get(job.id)));
    else {
      known.delete(job.id);
      ended.push(job);
    }
  }
  for (const id of gone) known.delete(id);
  batch(() => {
    jobs.value = known;
    touched.value = counts;
    if (ended.length) endedLately.value = newest(ended, endedLately.value);
  });
}

/** A list says why only of the first in the queue: what was known of the others stays. */
function withReason(job: JobView, before: JobView | undefined): JobView {
  if (job.phase !== 'waiting' || job.waits || !before?.waits) return job;
  return { ...job, waits: before.waits };
}

const ENDED_KEPT_MAX = 100;

function newest(more: readonly JobView[], known: readonly JobView[]): JobView[] {
  const all = new Map([...more, ...known].map((job) => [job.id, job]));
  for (const job of more) all.set(job.id, job);
  return [...all.values()].sort((a, b) => b.ended_ms - a.ended_ms).slice(0, ENDED_KEPT_MAX);
}
