// Readings of a job for the time that is shown; what was shown stays until the next is there.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { ApiError } from '../api/client';
import { fetchSeries, metricNames, type Heat, type MetricName } from '../api/series';
import { isLive, nowMs } from '../api/store';
import type { JobView } from '../api/types';
import { timeKeys } from '../keys';
import { query, setQuery } from '../router';
import { moved, spanOf, type Span } from './span';

/** `?attempt=2`: an earlier one; default the newest. */
export function attemptOf(job: JobView): number {
  const asked = Number(query.value.get('attempt'));
  return Number.isInteger(asked) && asked > 0 && asked <= job.attempt ? asked : job.attempt;
}

/** From when to when there is something to see of an attempt, and whether it goes on. */
function boundsOf(job: JobView, attempt: number, now: number): [number, number, boolean] {
  const newest = attempt === job.attempt;
  const beginMs = (newest && job.running_ms) || job.submitted_ms;
  return [beginMs, job.ended_ms || now, isLive(job) && newest];
}

/** The time shown; the same object until another is asked for. */
export function useSpan(job: JobView): Span {
  const span = spanOf(query.value, ...boundsOf(job, attemptOf(job), nowMs.value));
  return useMemo(() => span, [span.fromMs, span.toMs, span.stepMs, span.follows, span.last]);
}

export interface Feed {
  heat: Heat | null;
  /** The daemon's words when it has no such readings. */
  problem: string;
}

export function useHeat(
  job: JobView,
  metric: string,
  span: Span,
  how: 'mean' | 'max' | 'min',
): Feed {
  const [feed, setFeed] = useState<Feed>({ heat: null, problem: '' });
  const attempt = attemptOf(job);
  const asked = useRef('');
  useEffect(() => {
    if (!metric) return;
    const stop = new AbortController();
    const name = `${job.id} ${attempt} ${metric} ${how}`;
    if (asked.current !== name) setFeed({ heat: null, problem: '' });
    asked.current = name;
    const { fromMs, toMs, stepMs } = span;
    fetchSeries({ job: job.id, attempt, metric, fromMs, toMs, stepMs, how }, stop.signal).then(
      (heat) => setFeed({ heat, problem: '' }),
      (error: unknown) => {
        if (stop.signal.aborted) return;
        // A daemon that is away says so elsewhere, and the old picture stays.
        if (error instanceof ApiError && error.status !== 0)
          setFeed({ heat: null, problem: error.message });
      },
    );
    return () => stop.abort();
  }, [job.id, attempt, metric, how, span]);
  return feed;
}

export function useMetricNames(): readonly MetricName[] {
  const [names, setNames] = useState<readonly MetricName[]>([]);
  useEffect(() => {
    let here = true;
    metricNames().then(
      (found) => here && setNames(found),
      () => undefined,
    );
    return () => {
      here = false;
    };
  }, []);
  return names;
}

/** `[` and `]` move through the time shown, Space stops at the present or follows it again. */
export function useTimeKeys(job: JobView): void {
  const attempt = attemptOf(job);
  useEffect(() => {
    // Reckoned when a key is pressed: two quick presses are two steps, drawn or not.
    const now = (): Span => spanOf(query.peek(), ...boundsOf(job, attempt, nowMs.peek()));
    const show = (to: { fromMs: number; toMs: number } | null): void =>
      setQuery({ from: to ? String(to.fromMs) : null, to: to ? String(to.toMs) : null });
    timeKeys.value = {
      step: (direction) => {
        const [beginMs, endMs, live] = boundsOf(job, attempt, nowMs.peek());
        const to = moved(now(), direction, beginMs, endMs);
        show(live && to.isLast ? null : to);
      },
      toggleLive: () => show(now().follows ? now() : null),
    };
    return () => {
      timeKeys.value = null;
    };
  }, [job, attempt]);
}
