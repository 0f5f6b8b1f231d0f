// One metric of many GPUs: a line of cells for each, time to the right, colour for the value.
//
// The canvas is painted when readings, order, size or theme change; the cursor is an element above
// it, shared by all strips of a page. Dragging chooses a time, which goes into the URL.

import { effect, signal } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { Heat, Line } from '../api/series';
import { palette } from '../fleet/paint';
import { clock } from '../format';
import { t } from '../i18n';
import { setQuery } from '../router';
import { shown as theme } from '../ui/theme';
import {
  ordered,
  placeRows,
  raster,
  rowAt,
  scaleOf,
  thinnedRows,
  type Order,
  type RowPlace,
} from './heat';
import { quantity } from './quantity';
import type { Span } from './span';

/** Where the pointer or the keys are, on any strip or scatter of the page. */
export const cursor = signal<{ key: string; atMs: number } | null>(null);

const DRAG_MIN = 5;

export const lineText = ({ node, gpu, key, rank }: Line): string => {
  const place = node ? (gpu ? `${node} · gpu${gpu}` : node) : key;
  return rank >= 0 ? `${t('heat.rank', { rank })}, ${place}` : place;
};

interface Props {
  title: string;
  heat: Heat;
  order: Order;
  /** At most; a job with few GPUs takes less. */
  height: number;
  span: Span;
  /** Room on the left for nodes' names. */
  gutter?: number;
}

interface Drawn {
  shown: Int32Array;
  place: RowPlace;
}

export function HeatStrip({ title, heat, order, height, span, gutter = 0 }: Props) {
  const drawn = useMemo<Drawn>(() => {
    const { rows, apart } = ordered(heat, order);
    const shown = thinnedRows(heat, rows, height);
    const isBreak = (at: number): boolean => apart(shown[at - 1]!, shown[at]!);
    return { shown, place: placeRows(shown.length, height, isBreak) };
  }, [heat, order, height]);
  const label = t('heat.label', { metric: title, n: heat.lines.length });
  const bunch = Math.ceil(heat.lines.length / Math.max(1, drawn.shown.length));
  return (
    <>
      <div class="heat" style={{ paddingLeft: `${gutter}px` }}>
        {gutter > 0 && <Gutter heat={heat} drawn={drawn} width={gutter} order={order} />}
        <div class="heat-body" style={{ height: `${drawn.place.total}px` }}>
          <Cells heat={heat} drawn={drawn} label={label} />
          <Pointer heat={heat} drawn={drawn} label={label} span={span} />
          <Cursor heat={heat} drawn={drawn} />
        </div>
      </div>
      {bunch > 1 && <p class="heat-note">{t('heat.thinned', { n: bunch })}</p>}
    </>
  );
}

interface PartProps {
  heat: Heat;
  drawn: Drawn;
}

function Cells({ heat, drawn, label }: PartProps & { label: string }) {
  const ref = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const canvas = ref.current!;
    const paint = (): void => draw(canvas, heat, drawn, theme.value);
    const stop = effect(paint);
    const watch = new ResizeObserver(() => paint());
    watch.observe(canvas.parentElement!);
    return () => {
      stop();
      watch.disconnect();
    };
  }, [heat, drawn]);
  return <canvas ref={ref} class="heat-cells" role="img" aria-label={label} />;
}

function draw(canvas: HTMLCanvasElement, heat: Heat, drawn: Drawn, look: 'dark' | 'light'): void {
  const { shown, place } = drawn;
  const columns = heat.times.length;
  const ratio = window.devicePixelRatio;
  const width = canvas.parentElement!.clientWidth;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(place.total * ratio));
  const context = canvas.getContext('2d');
  if (!context || !columns || !shown.length) return;
  const small = new OffscreenCanvas(columns, shown.length);
  const pixels = raster(heat, shown, palette(look).ramp, scaleOf(heat));
  small.getContext('2d')!.putImageData(new ImageData(pixels, columns, shown.length), 0, 0);
  context.imageSmoothingEnabled = false;
  const high = Math.max(1, Math.round(place.height * ratio));
  for (let i = 0; i < shown.length; i++) {
    const y = Math.round(place.top[i]! * ratio);
    context.drawImage(small, 0, i, columns, 1, 0, y, canvas.width, high);
  }
}

const RUN_MIN = 13;

/** Names of nodes beside their lines, where neighbours share one and there is room. */
function Gutter({ heat, drawn, width, order }: PartProps & { width: number; order: Order }) {
  const { shown, place } = drawn;
  const runs: { node: string; top: number; height: number }[] = [];
  let lastBottom = -RUN_MIN;
  for (let i = 0; i < shown.length;) {
    const { node } = heat.lines[shown[i]!]!;
    let j = i;
    while (j + 1 < shown.length && heat.lines[shown[j + 1]!]!.node === node) j++;
    const top = place.top[i]!;
    const height = place.top[j]! + place.height - top;
    const fits = height >= RUN_MIN || (order === 'likeness' && top >= lastBottom + RUN_MIN);
    if (fits && node) {
      runs.push({ node, top, height: Math.max(height, RUN_MIN) });
      lastBottom = top;
    }
    i = j + 1;
  }
  return (
    <div class="heat-gutter mono" style={{ width: `${width}px` }} aria-hidden="true">
      {runs.map(({ node, top }) => (
        <span key={`${node} ${top}`} style={{ top: `${top}px` }} title={node}>
          {node}
        </span>
      ))}
    </div>
  );
}

interface PointerProps extends PartProps {
  label: string;
  span: Span;
}

function Pointer({ heat, drawn, label, span }: PointerProps) {
  const [drag, setDrag] = useState<{ from: number; to: number } | null>(null);
  const at = (event: PointerEvent): { i: number; column: number; x: number } => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const x = Math.min(box.width, Math.max(0, event.clientX - box.left));
    const column = Math.min(heat.times.length - 1, Math.floor((x / box.width) * heat.times.length));
    return { i: rowAt(drawn.place, event.clientY - box.top), column, x: x / box.width };
  };
  const point = (i: number, column: number): void => {
    const line = heat.lines[drawn.shown[i] ?? -1];
    const atMs = heat.times[column];
    cursor.value = line && atMs !== undefined ? { key: line.key, atMs } : null;
  };
  const choose = (from: number, to: number): void => {
    const length = span.toMs - span.fromMs;
    const ms = (share: number): string => String(Math.round(span.fromMs + share * length));
    setQuery({ from: ms(Math.min(from, to)), to: ms(Math.max(from, to)) });
  };
  const key = (event: KeyboardEvent): void => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[
      event.key
    ];
    if (!step) return;
    const now = cursor.peek();
    const row = drawn.shown.findIndex((one) => heat.lines[one]!.key === now?.key);
    const column = heat.times.indexOf(now?.atMs ?? -1);
    const clamp = (value: number, count: number): number => Math.min(count - 1, Math.max(0, value));
    point(
      clamp(row + step[0]!, drawn.shown.length),
      clamp(column < 0 ? 0 : column + step[1]!, heat.times.length),
    );
    event.preventDefault();
  };
  return (
    <div
      class="heat-pointer"
      role="application"
      tabIndex={0}
      aria-label={`${label}. ${t('heat.keys')}`}
      onKeyDown={key}
      onBlur={() => (cursor.value = null)}
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        const { x } = at(event);
        setDrag({ from: x, to: x });
      }}
      onPointerMove={(event) => {
        const { i, column, x } = at(event);
        if (drag) setDrag({ ...drag, to: x });
        point(i, column);
      }}
      onPointerUp={(event) => {
        const wide = drag ? Math.abs(drag.to - drag.from) * event.currentTarget.clientWidth : 0;
        if (drag && wide >= DRAG_MIN) choose(drag.from, drag.to);
        setDrag(null);
      }}
      onPointerCancel={() => setDrag(null)}
      onPointerLeave={() => !drag && (cursor.value = null)}
    >
      {drag && (
        <i
          class="heat-drag"
          style={{
            left: `${Math.min(drag.from, drag.to) * 100}%`,
            width: `${Math.abs(drag.to - drag.from) * 100}%`,
          }}
        />
      )}
    </div>
  );
}

/** The line and the moment under the cursor, and what was read there. */
function Cursor({ heat, drawn }: PartProps) {
  const now = cursor.value;
  if (!now) return null;
  const i = drawn.shown.findIndex((row) => heat.lines[row]!.key === now.key);
  const column = nearest(heat.times, now.atMs);
  if (column < 0) return null;
  const x = ((column + 0.5) / heat.times.length) * 100;
  const row = drawn.shown[i];
  const value = row === undefined ? NaN : heat.values[row * heat.times.length + column]!;
  return (
    <div class="heat-cursor" aria-live="polite">
      <i class="heat-now" style={{ left: `${x}%` }} />
      {row !== undefined && (
        <>
          <i
            class="heat-line"
            style={{ top: `${drawn.place.top[i]!}px`, height: `${drawn.place.height}px` }}
          />
          <div
            class={`heat-tip ${x > 60 ? 'left' : ''}`}
            style={{ left: `${x}%`, top: `${drawn.place.top[i]!}px` }}
          >
            <b>{quantity(value, heat.unit)}</b>
            <span class="mono">{lineText(heat.lines[row]!)}</span>
            <span>{clock(heat.times[column]!, heat.times.at(-1)!)}</span>
          </div>
        </>
      )}
    </div>
  );
}

function nearest(times: readonly number[], atMs: number): number {
  if (!times.length || atMs < times[0]! || atMs > times.at(-1)!) return -1;
  let best = 0;
  for (let at = 1; at < times.length; at++) {
    if (Math.abs(times[at]! - atMs) < Math.abs(times[best]! - atMs)) best = at;
  }
  return best;
}
