// Readings over time (GET /v1/series, /v1/metrics/names), packed as they arrive:
// a thousand GPUs over an hour are one Float32Array, and the JSON they came in is let go at once.

import { get } from './client';

export interface MetricName {
  name: string;
  unit: string;
  subject: 'gpu' | 'node' | 'member' | 'port';
  text: string;
}

export interface Line {
  /** `node/gpu` of a device, a node's name, or a rank: what tells it apart for ever. */
  key: string;
  node: string;
  gpu: string;
  /** -1 where the line is of no member. */
  rank: number;
}

/** One metric of many lines; row after row, NaN where there was no reading. */
export interface Heat {
  metric: string;
  unit: string;
  times: readonly number[];
  lines: readonly Line[];
  values: Float32Array;
  /** Of every reading since the attempt began, not only of what is shown. */
  since: Quantiles | null;
}

export interface Quantiles {
  count: number;
  p5: number | null;
  p25: number | null;
  p50: number | null;
  p75: number | null;
  p95: number | null;
}

interface RawSeries {
  metric: string;
  unit: string;
  times: number[];
  series: {
    key: string;
    node?: string | null;
    gpu?: string | number | null;
    rank?: number | null;
    values: (number | null)[];
  }[];
  quantiles?: Quantiles | null;
}

export interface SeriesQuery {
  job: string;
  attempt: number;
  metric: string;
  fromMs: number;
  toMs: number;
  stepMs: number;
  how: 'mean' | 'max' | 'min';
}

export function seriesPath(query: SeriesQuery, format = ''): string {
  const words = new URLSearchParams({
    metric: query.metric,
    job: query.job,
    attempt: String(query.attempt),
    from: String(query.fromMs),
    to: String(query.toMs),
    step: `${query.stepMs}ms`,
    how: query.how,
    ...(format ? { format } : {}),
  });
  return `/series?${words.toString()}`;
}

export async function fetchSeries(query: SeriesQuery, signal: AbortSignal): Promise<Heat> {
  return packed(await get<RawSeries>(seriesPath(query), signal));
}

export function packed(raw: RawSeries): Heat {
  const columns = raw.times.length;
  const values = new Float32Array(raw.series.length * columns).fill(NaN);
  raw.series.forEach((line, row) => {
    for (let at = 0; at < columns; at++) {
      const value = line.values[at];
      if (typeof value === 'number') values[row * columns + at] = value;
    }
  });
  const lines = raw.series.map((line) => ({
    key: line.key,
    node: line.node ?? '',
    gpu: line.gpu === null || line.gpu === undefined ? '' : String(line.gpu),
    rank: line.rank ?? -1,
  }));
  const since = raw.quantiles ?? null;
  return { metric: raw.metric, unit: raw.unit, times: raw.times, lines, values, since };
}

let names: Promise<readonly MetricName[]> | null = null;

/** The table of metrics; asked for once. */
export function metricNames(): Promise<readonly MetricName[]> {
  names ??= get<{ metrics: MetricName[] }>('/metrics/names').then(
    (found) => found.metrics,
    (error: unknown) => {
      names = null;
      throw error;
    },
  );
  return names;
}
