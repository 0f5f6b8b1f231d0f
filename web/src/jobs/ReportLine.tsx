// One reported number under the strips, on their time axis to the pixel.

import { useMemo } from 'preact/hooks';

import { figure } from '../format';
import { t } from '../i18n';
import { cursor } from './HeatStrip';
import { thinned, type Points } from './series';
import type { Span } from './span';

const HEIGHT = 72;
const BUCKETS = 300;

export function ReportLine(props: { points: Points; span: Span; title: string }) {
  const { points, span, title } = props;
  const drawn = useMemo(() => pathOf(points, span), [points, span]);
  const at = cursor.value?.atMs ?? null;
  const share = at === null ? NaN : (at - span.fromMs) / (span.toMs - span.fromMs);
  if (!drawn) return <p class="quiet">{t('diagnose.noneThen')}</p>;
  return (
    <div class="report-line" style={{ height: `${HEIGHT}px` }}>
      <svg
        viewBox={`0 0 1000 ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={t('diagnose.line', {
          name: title,
          low: figure(drawn.low),
          high: figure(drawn.high),
        })}
      >
        <path d={drawn.path} vector-effect="non-scaling-stroke" />
      </svg>
      <span class="report-high">{figure(drawn.high)}</span>
      <span class="report-low">{figure(drawn.low)}</span>
      {share >= 0 && share <= 1 && <i class="heat-now" style={{ left: `${share * 100}%` }} />}
    </div>
  );
}

function pathOf(
  points: Points,
  { fromMs, toMs }: Span,
): { path: string; low: number; high: number } | null {
  const inside: Points = { x: [], y: [] };
  points.x.forEach((x, i) => {
    if (x * 1000 < fromMs || x * 1000 > toMs) return;
    inside.x.push(x * 1000);
    inside.y.push(points.y[i]!);
  });
  if (inside.x.length < 2) return null;
  const thin = thinned(inside, BUCKETS);
  let [low, high] = [Infinity, -Infinity];
  for (const y of thin.y) [low, high] = [Math.min(low, y), Math.max(high, y)];
  const room = high - low || 1;
  const path = thin.x.map((x, i) => {
    const px = ((x - fromMs) / (toMs - fromMs)) * 1000;
    const py = HEIGHT - 4 - ((thin.y[i]! - low) / room) * (HEIGHT - 8);
    return `${i ? 'L' : 'M'}${px.toFixed(1)} ${py.toFixed(1)}`;
  });
  return { path: path.join(''), low, high };
}
