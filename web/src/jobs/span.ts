// Which time a page shows, as the URL writes it: ?last=1h follows the present, ?from=&to= stands still.

export const LASTS = ['15m', '1h', '6h', '24h', 'all'] as const;
export type Last = (typeof LASTS)[number];

const M = 60_000;
const LAST_MS: Record<Last, number> = {
  '15m': 15 * M,
  '1h': 60 * M,
  '6h': 360 * M,
  '24h': 1440 * M,
  all: Infinity,
};
const STEPS_MS = [10_000, 30_000, M, 2 * M, 5 * M, 10 * M, 30 * M, 60 * M, 360 * M, 1440 * M];
const COLUMNS_MAX = 240;
const SPAN_MS_MIN = 2 * M;

export interface Span {
  fromMs: number;
  toMs: number;
  stepMs: number;
  /** It ends at the present, and moves on with it. */
  follows: boolean;
  last: Last;
}

/** What was there between `beginMs` and `endMs`, as far as the URL asks for it. */
export function spanOf(
  query: URLSearchParams,
  beginMs: number,
  endMs: number,
  live: boolean,
): Span {
  const asked = query.get('last');
  const last = LASTS.find((one) => one === asked) ?? (live ? '1h' : 'all');
  const from = Number(query.get('from'));
  const to = Number(query.get('to'));
  const stands = from > 0 && to > from;
  const toMs = stands ? Math.min(to, endMs) : endMs;
  const fromMs = stands ? from : Math.max(beginMs, toMs - LAST_MS[last]);
  return { ...stepped(fromMs, toMs), follows: live && !stands, last };
}

/** On whole steps, so that the same question is asked until a step has passed. */
function stepped(fromMs: number, toMs: number): { fromMs: number; toMs: number; stepMs: number } {
  const length = Math.max(SPAN_MS_MIN, toMs - fromMs);
  const stepMs = STEPS_MS.find((step) => length / step <= COLUMNS_MAX) ?? STEPS_MS.at(-1)!;
  const end = Math.ceil(toMs / stepMs) * stepMs;
  return { fromMs: Math.floor((end - length) / stepMs) * stepMs, toMs: end, stepMs };
}

/** The span moved by half its length, within the job's time: what `[` and `]` do. */
export function moved(
  span: Span,
  direction: -1 | 1,
  beginMs: number,
  endMs: number,
): { fromMs: number; toMs: number; isLast: boolean } {
  const { stepMs } = span;
  const length = span.toMs - span.fromMs;
  const by = Math.round(length / 2 / stepMs) * stepMs * direction;
  const last = Math.ceil(endMs / stepMs) * stepMs - length;
  const wanted = Math.max(Math.min(beginMs, span.fromMs), span.fromMs + by);
  const fromMs = Math.min(wanted, last);
  return { fromMs, toMs: fromMs + length, isLast: wanted >= last };
}

/** Times on a clock's marks, for an axis with room for `most` of them. */
export function marks(fromMs: number, toMs: number, most: number): number[] {
  const steps = [
    M,
    2 * M,
    5 * M,
    10 * M,
    15 * M,
    30 * M,
    60 * M,
    120 * M,
    180 * M,
    360 * M,
    720 * M,
  ];
  const days = [1440 * M, 2880 * M, 7 * 1440 * M, 28 * 1440 * M];
  const step = [...steps, ...days].find((one) => (toMs - fromMs) / one <= most) ?? days.at(-1)!;
  const zone = new Date(fromMs).getTimezoneOffset() * M;
  const first = Math.ceil((fromMs - zone) / step) * step + zone;
  const found = [];
  for (let at = first; at <= toMs; at += step) found.push(at);
  return found;
}
