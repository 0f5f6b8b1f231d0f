// What a heat strip shows, computed: the order of its lines, the scale of its colours, and which
// lines stand for the others where there are more lines than pixels. Pure.
//
// Promises: every order is a permutation of the rows and the same for the same numbers; a strip that
// is thinned keeps of each bunch the line farthest from the rest, so that no outlier is averaged away.

import type { Heat } from '../api/series';

export const ORDERS = ['likeness', 'rank', 'node'] as const;
export type Order = (typeof ORDERS)[number];

const APART = 3; // sixteenths of the range
const TURNS = 24; // of the power iteration: enough for an order, not for eigenvalues

const collator = new Intl.Collator('en', { numeric: true });

export interface Ordered {
  rows: Int32Array;
  /** Whether a new bunch begins with row `b`, after row `a`: another node, or another behaviour. */
  apart: (a: number, b: number) => boolean;
}

export function ordered(heat: Heat, order: Order): Ordered {
  const rows = Int32Array.from(heat.lines, (_, row) => row);
  const { lines } = heat;
  const byPlace = (a: number, b: number): number =>
    collator.compare(lines[a]!.node, lines[b]!.node) ||
    collator.compare(lines[a]!.gpu, lines[b]!.gpu) ||
    a - b;
  const byRank = (a: number, b: number): number => lines[a]!.rank - lines[b]!.rank || byPlace(a, b);
  const otherNode = (a: number, b: number): boolean => lines[a]!.node !== lines[b]!.node;
  if (order === 'node') return { rows: rows.sort(byPlace), apart: otherNode };
  rows.sort(byRank);
  if (order === 'rank') return { rows, apart: otherNode };
  const score = likeness(heat);
  // Ranks that behave alike stay in the order of rank: the sort is stable.
  rows.sort((a, b) => score[b]! - score[a]!);
  return { rows, apart: (a, b) => Math.abs(score[a]! - score[b]!) >= APART };
}

/** The median of each column, over the lines that have a reading there. */
export function columnMedians({ values, times, lines }: Heat): Float32Array {
  const found = new Float32Array(times.length).fill(NaN);
  const column = new Float32Array(lines.length);
  for (let at = 0; at < times.length; at++) {
    let n = 0;
    for (let row = 0; row < lines.length; row++) {
      const value = values[row * times.length + at]!;
      if (!Number.isNaN(value)) column[n++] = value;
    }
    if (n) found[at] = column.subarray(0, n).sort()[n >> 1]!;
  }
  return found;
}

/**
 * One number per line: how far it goes along the direction in which the lines differ most (the first
 * principal component of what is left when each column's median is taken away). The end that is
 * farther from the middle is positive, so that what is unusual comes first. Within 1/16 of
 * the range lines count as alike, and stay in the order of rank.
 */
export function likeness(heat: Heat): Float32Array {
  const { values, times, lines } = heat;
  const [n, columns] = [lines.length, times.length];
  const medians = columnMedians(heat);
  const rest = new Float32Array(n * columns);
  for (let row = 0; row < n; row++) {
    for (let at = 0; at < columns; at++) {
      const value = values[row * columns + at]!;
      rest[row * columns + at] = Number.isNaN(value) ? 0 : value - medians[at]!;
    }
  }
  let axis = new Float32Array(columns);
  for (let at = 0; at < columns; at++) axis[at] = 1 + (at % 3) / 8; // orthogonal to nothing likely
  const score = new Float32Array(n);
  for (let turn = 0; turn < TURNS; turn++) {
    const next = new Float32Array(columns);
    for (let row = 0; row < n; row++) {
      let sum = 0;
      for (let at = 0; at < columns; at++) sum += rest[row * columns + at]! * axis[at]!;
      score[row] = sum;
      for (let at = 0; at < columns; at++) next[at]! += sum * rest[row * columns + at]!;
    }
    const size = Math.hypot(...next);
    if (!size) return score.fill(0);
    axis = next.map((value) => value / size);
  }
  return stepped(score);
}

function stepped(score: Float32Array): Float32Array {
  let low = Infinity;
  let high = -Infinity;
  for (const value of score) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const sign = Math.abs(low) > Math.abs(high) ? -1 : 1;
  const step = (high - low) / 16 || 1;
  return score.map((value) => Math.round((sign * value) / step));
}

/** At most `most` lines of the order: of each bunch the one farthest from the columns' medians. */
export function thinnedRows(heat: Heat, order: Int32Array, most: number): Int32Array {
  if (order.length <= most) return order;
  const { values, times } = heat;
  const medians = columnMedians(heat);
  const bunch = Math.ceil(order.length / most);
  const kept: number[] = [];
  for (let first = 0; first < order.length; first += bunch) {
    let best = order[first]!;
    let farthest = -1;
    for (const row of order.subarray(first, first + bunch)) {
      let far = 0;
      for (let at = 0; at < times.length; at++) {
        const off = values[row * times.length + at]! - medians[at]!;
        if (!Number.isNaN(off)) far += off * off;
      }
      if (far > farthest) [best, farthest] = [row, far];
    }
    kept.push(best);
  }
  return Int32Array.from(kept);
}

export interface Scale {
  low: number;
  high: number;
}

/** Percentages are shown from 0 to 100; the rest from its lowest to its highest, but for 1 % each. */
export function scaleOf(heat: Heat): Scale {
  if (heat.unit === 'percent' || heat.unit === '%') return { low: 0, high: 100 };
  const known = heat.values.filter((value) => !Number.isNaN(value)).sort();
  if (!known.length) return { low: 0, high: 1 };
  const low = known[Math.floor(known.length * 0.01)]!;
  const high = known[Math.min(known.length - 1, Math.ceil(known.length * 0.99))]!;
  if (high - low > Math.abs(high) * 0.02) return { low, high };
  // What hardly moves is not blown up into a storm.
  const pad = Math.max(Math.abs(high) * 0.1, 1);
  return { low: low - pad, high: high + pad };
}

export interface Summary {
  mean: number;
  p5: number;
  p95: number;
  /** Rows with the lowest and the highest mean, -1 where nothing is known. */
  lowest: number;
  highest: number;
}

export function summaryOf(heat: Heat): Summary {
  const known = heat.values.filter((value) => !Number.isNaN(value)).sort();
  const at = (share: number): number =>
    known[Math.min(known.length - 1, Math.floor(share * known.length))] ?? NaN;
  let sum = 0;
  for (const value of known) sum += value;
  const means = rowMeans(heat);
  let [lowest, highest] = [-1, -1];
  means.forEach((mean, row) => {
    if (Number.isNaN(mean)) return;
    if (lowest < 0 || mean < means[lowest]!) lowest = row;
    if (highest < 0 || mean > means[highest]!) highest = row;
  });
  return {
    mean: known.length ? sum / known.length : NaN,
    p5: at(0.05),
    p95: at(0.95),
    lowest,
    highest,
  };
}

export function rowMeans({ values, times, lines }: Heat): Float32Array {
  return Float32Array.from(lines, (_, row) => {
    let sum = 0;
    let n = 0;
    for (const value of values.subarray(row * times.length, (row + 1) * times.length)) {
      if (Number.isNaN(value)) continue;
      sum += value;
      n++;
    }
    return n ? sum / n : NaN;
  });
}

export interface RowPlace {
  top: Float32Array;
  /** Of every line, without the gap below it. */
  height: number;
  total: number;
}

const ROW_MAX = 13;
const GAPPED_MIN = 5;
const BREAK = 4;

/** Equal lines within `height`, and a gap before those for which `isBreak` holds, if there is room. */
export function placeRows(
  n: number,
  height: number,
  isBreak: (at: number) => boolean = () => false,
): RowPlace {
  let breaks = 0;
  for (let i = 1; i < n; i++) if (isBreak(i)) breaks++;
  const roomy = n + breaks * BREAK <= height && breaks > 0;
  const pitch = Math.max(
    1,
    Math.min(ROW_MAX, Math.floor((height - (roomy ? breaks * BREAK : 0)) / Math.max(1, n))),
  );
  const gap = pitch >= GAPPED_MIN ? 1 : 0;
  const top = new Float32Array(n);
  let y = 0;
  for (let i = 0; i < n; i++) {
    if (roomy && i > 0 && isBreak(i)) y += BREAK;
    top[i] = y;
    y += pitch;
  }
  return { top, height: pitch - gap, total: Math.max(1, y - gap) };
}

/** The line at a height, or -1 between two. */
export function rowAt(place: RowPlace, y: number): number {
  let [low, high] = [0, place.top.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (place.top[middle]! <= y) low = middle;
    else high = middle - 1;
  }
  return place.top.length && y >= place.top[low]! && y < place.top[low]! + place.height + 1
    ? low
    : -1;
}

/** (rows, columns, RGBA): one pixel per reading; none is transparent. */
export function raster(
  heat: Heat,
  shown: Int32Array,
  ramp: readonly (readonly number[])[],
  { low, high }: Scale,
): Uint8ClampedArray<ArrayBuffer> {
  const columns = heat.times.length;
  const out = new Uint8ClampedArray(shown.length * columns * 4);
  const last = ramp.length - 1;
  shown.forEach((row, i) => {
    for (let at = 0; at < columns; at++) {
      const value = heat.values[row * columns + at]!;
      if (Number.isNaN(value)) continue;
      const share = Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
      out.set(ramp[Math.round(share * last)]!, (i * columns + at) * 4);
      out[(i * columns + at) * 4 + 3] = 255;
    }
  });
  return out;
}
