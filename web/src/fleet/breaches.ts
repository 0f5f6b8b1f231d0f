// What breaks a rule now: as a filter of the map (`job:a-1 job:b-2`), and ranked for people.
//
// The daemon's rules say it of each job; the live line tells which jobs to ask about anew.

import { computed } from '@preact/signals';

import { gpusOf, jobs } from '../api/store';
import type { BrokenView, JobView, Severity } from '../api/types';

const GRAVITY: Record<Severity, number> = { critical: 2, warning: 1, info: 0 };

export interface Breach {
  job: JobView;
  /** The gravest of its rules; `more` is how many others it breaks. */
  worst: BrokenView;
  more: number;
}

/** Gravest first, then those that hold most, then the oldest. */
export function ranked(all: Iterable<JobView>): Breach[] {
  const found: Breach[] = [];
  for (const job of all) {
    const [worst, ...others] = job.broken ?? [];
    if (worst) found.push({ job, worst, more: others.length });
  }
  return found.sort(
    (a, b) =>
      GRAVITY[b.worst.severity] - GRAVITY[a.worst.severity] ||
      gpusOf(b.job) - gpusOf(a.job) ||
      a.worst.since_ms - b.worst.since_ms ||
      a.job.n - b.job.n,
  );
}

export const breachList = computed(() => ranked(jobs.value?.values() ?? []));
/** Terms as in the search box; '' while nothing breaks a rule. */
export const breaches = computed(() =>
  breachList.value.map(({ job }) => `job:${job.id}`).join(' '),
);
/** How many devices that is. */
export const breachCount = computed(() =>
  breachList.value.reduce((sum, { job }) => sum + Math.ceil(gpusOf(job)), 0),
);
