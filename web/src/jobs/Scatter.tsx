// Two metrics against each other: one dot a GPU, its mean over the time that is shown.

import { effect } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';

import type { Heat } from '../api/series';
import { t } from '../i18n';
import { shown as theme } from '../ui/theme';
import { cursor, lineText } from './HeatStrip';
import { rowMeans } from './heat';
import { metricText, quantity } from './quantity';

const HEIGHT = 260;
const PAD = { left: 52, right: 14, top: 12, bottom: 30 };
const DOT = 3.5;
const REACH = 14; // px from the pointer to a dot

interface Dot {
  key: string;
  label: string;
  x: number;
  y: number;
}

interface Plot {
  dots: Dot[];
  x: { low: number; high: number };
  y: { low: number; high: number };
}

function plotOf(x: Heat, y: Heat): Plot {
  const others = rowMeans(x);
  const across = new Map(x.lines.map((line, row) => [line.key, others[row]!]));
  const means = rowMeans(y);
  const dots = y.lines
    .map((line, row) => ({
      key: line.key,
      label: lineText(line),
      x: across.get(line.key) ?? NaN,
      y: means[row]!,
    }))
    .filter((dot) => !Number.isNaN(dot.x) && !Number.isNaN(dot.y));
  return { dots, x: range(dots.map((dot) => dot.x)), y: range(dots.map((dot) => dot.y)) };
}

function range(values: readonly number[]): { low: number; high: number } {
  const low = Math.min(...values);
  const high = Math.max(...values);
  // A cloud that hardly spreads is not blown up to fill the plot.
  const pad = Math.max((high - low) * 0.12, Math.abs(high) * 0.02, 0.5);
  return { low: low - pad, high: high + pad };
}

export function Scatter({ x, y }: { x: Heat; y: Heat }) {
  const host = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const plot = useMemo(() => plotOf(x, y), [x, y]);
  const empty = !plot.dots.length;
  useEffect(() => {
    if (empty) return;
    const paint = (): void => draw(canvas.current!, plot, cursor.value?.key ?? null, theme.value);
    const stop = effect(paint);
    const watch = new ResizeObserver(paint);
    watch.observe(host.current!);
    return () => {
      stop();
      watch.disconnect();
    };
  }, [plot, empty]);
  if (empty) return <p class="quiet">{t('heat.none')}</p>;
  const nearest = (event: PointerEvent): Dot | null => {
    const box = host.current!.getBoundingClientRect();
    let best: Dot | null = null;
    let least = REACH;
    for (const dot of plot.dots) {
      const [dx, dy] = [
        left(plot, dot, box.width) - (event.clientX - box.left),
        top(plot, dot) - (event.clientY - box.top),
      ];
      const far = Math.hypot(dx, dy);
      if (far < least) [best, least] = [dot, far];
    }
    return best;
  };
  const at = plot.dots.find((dot) => dot.key === cursor.value?.key);
  const names = { x: metricText(x.metric).text, y: metricText(y.metric).text };
  return (
    <>
      <div
        class="scatter"
        ref={host}
        style={{ height: `${HEIGHT}px` }}
        onPointerMove={(event) => {
          const dot = nearest(event);
          const atMs = cursor.peek()?.atMs ?? x.times.at(-1) ?? 0;
          cursor.value = dot ? { key: dot.key, atMs } : null;
        }}
        onPointerLeave={() => (cursor.value = null)}
      >
        <canvas
          ref={canvas}
          role="img"
          aria-label={t('diagnose.scatterLabel', { ...names, n: plot.dots.length })}
        />
        <span class="scatter-y high">{quantity(plot.y.high, y.unit)}</span>
        <span class="scatter-y low">{quantity(plot.y.low, y.unit)}</span>
        <span class="scatter-x low">{quantity(plot.x.low, x.unit)}</span>
        <span class="scatter-x name">{names.x}</span>
        <span class="scatter-x high">{quantity(plot.x.high, x.unit)}</span>
      </div>
      <p class="scatter-at">
        {at && (
          <>
            <span class="mono">{at.label}</span>: {quantity(at.x, x.unit)}, {quantity(at.y, y.unit)}
          </>
        )}
      </p>
    </>
  );
}

const left = (plot: Plot, dot: Dot, width: number): number =>
  PAD.left + ((dot.x - plot.x.low) / (plot.x.high - plot.x.low)) * (width - PAD.left - PAD.right);
const top = (plot: Plot, dot: Dot): number =>
  HEIGHT -
  PAD.bottom -
  ((dot.y - plot.y.low) / (plot.y.high - plot.y.low)) * (HEIGHT - PAD.top - PAD.bottom);

function draw(canvas: HTMLCanvasElement, plot: Plot, chosen: string | null, look: string): void {
  const ratio = window.devicePixelRatio;
  const width = canvas.parentElement!.clientWidth;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.round(HEIGHT * ratio);
  canvas.dataset['theme'] = look;
  const context = canvas.getContext('2d');
  if (!context) return;
  const style = getComputedStyle(document.documentElement);
  const token = (name: string): string => style.getPropertyValue(`--${name}`).trim();
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.strokeStyle = token('line');
  context.strokeRect(
    PAD.left + 0.5,
    PAD.top + 0.5,
    width - PAD.left - PAD.right - 1,
    HEIGHT - PAD.top - PAD.bottom - 1,
  );
  context.fillStyle = token('accent');
  context.globalAlpha = plot.dots.length > 200 ? 0.45 : 0.75;
  for (const dot of plot.dots) {
    context.beginPath();
    context.arc(left(plot, dot, width), top(plot, dot), DOT, 0, 7);
    context.fill();
  }
  const at = plot.dots.find((dot) => dot.key === chosen);
  if (!at) return;
  context.globalAlpha = 1;
  context.lineWidth = 2;
  context.strokeStyle = token('text');
  context.beginPath();
  context.arc(left(plot, at, width), top(plot, at), DOT + 2.5, 0, 7);
  context.stroke();
}
