// Reports of members as series to draw. Pure: in go reports, out come aligned columns.
//
// Bounds: a member keeps REPORTS_MAX reports (the oldest go first, and are counted); a drawn line has
// at most about two points per pixel, each bucket giving its lowest and highest, so that a spike of
// one step is never smoothed away by drawing.

import type { Report } from '../api/types';

export const REPORTS_MAX = 50_000;
export type Axis = 'step' | 'time';

export interface Points {
  x: number[];
  y: number[];
}

const OURS = new Set(['t_ms', 'step']);

/** One member's reports, as they came. */
export class MemberSeries {
  private reports: Report[] = [];
  dropped = 0;

  add(more: readonly Report[]): void {
    this.reports.push(...more);
    const over = this.reports.length - REPORTS_MAX;
    if (over <= 0) return;
    this.reports.splice(0, over);
    this.dropped += over;
  }

  get count(): number {
    return this.reports.length;
  }

  /** Names of everything numeric, in the order of first report. */
  keys(): string[] {
    const found = new Set<string>();
    for (const report of this.reports) {
      for (const [key, value] of Object.entries(report)) {
        if (!OURS.has(key) && typeof value === 'number') found.add(key);
      }
    }
    return [...found];
  }

  /** Points of one key. Without a step, a report's place in the order stands in for it. */
  points(key: string, axis: Axis): Points {
    const points: Points = { x: [], y: [] };
    this.reports.forEach((report, i) => {
      const y = report[key];
      if (typeof y !== 'number' || !Number.isFinite(y)) return;
      const x = axis === 'time' ? (report.t_ms ?? 0) / 1000 : (report.step ?? this.dropped + i);
      points.x.push(x);
      points.y.push(y);
    });
    return points;
  }
}

/** Exponential mean with a half-life of `half` points; 0 leaves the points alone. */
export function smoothed({ x, y }: Points, half: number): Points {
  if (!half || !y.length) return { x, y };
  const keep = 0.5 ** (1 / half);
  let mean = y[0]!;
  return { x, y: y.map((value) => (mean = mean * keep + value * (1 - keep))) };
}

/** At most `buckets` pairs of lowest and highest, in the order of x. First and last are kept. */
export function thinned(points: Points, buckets: number): Points {
  const { x, y } = points;
  if (y.length <= 2 * buckets) return points;
  const out: Points = { x: [], y: [] };
  const push = (i: number): void => {
    out.x.push(x[i]!);
    out.y.push(y[i]!);
  };
  for (let bucket = 0; bucket < buckets; bucket++) {
    const first = Math.floor((bucket * y.length) / buckets);
    const end = Math.floor(((bucket + 1) * y.length) / buckets);
    let low = first;
    let high = first;
    for (let i = first; i < end; i++) {
      if (y[i]! < y[low]!) low = i;
      if (y[i]! > y[high]!) high = i;
    }
    if (bucket === 0 && Math.min(low, high) !== 0) push(0);
    push(Math.min(low, high));
    if (low !== high) push(Math.max(low, high));
    if (bucket === buckets - 1 && Math.max(low, high) !== y.length - 1) push(y.length - 1);
  }
  return out;
}

/** Several lines on one x axis, as uPlot wants them: x, then one column per line, null where none. */
export function aligned(lines: readonly Points[]): [number[], ...(number | null)[][]] {
  if (lines.length === 1) return [lines[0]!.x, lines[0]!.y];
  const all = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const at = new Map(all.map((x, i) => [x, i]));
  const columns = lines.map((line) => {
    const column = new Array<number | null>(all.length).fill(null);
    line.x.forEach((x, i) => (column[at.get(x)!] = line.y[i]!));
    return column;
  });
  return [all, ...columns];
}
