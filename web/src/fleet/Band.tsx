// The last day at the bottom: how much of the fleet worked, idled and was broken. Dragging replays.

import { useEffect, useRef, useState } from 'preact/hooks';

import { nowMs } from '../api/store';
import { clock, percent } from '../format';
import { t } from '../i18n';
import { query } from '../router';
import { moment, paused, togglePause } from './moment';
import { day, followReplay, lookAt, nearest, stepInTime, watchDay, type Day } from './replay';
import { STATES, type State } from './units';

const HEIGHT = 44;
const DAY_MS = 24 * 3_600_000;
const TICK_MS = 3 * 3_600_000;
/** From the bottom: what works, what is held for nothing, and from the top what is broken. */
const UP: readonly State[] = ['running', 'starting', 'idle'];
const DOWN: readonly State[] = ['lost', 'faulty', 'repairing', 'draining'];

let followed = false;

export function Band() {
  const host = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    watchDay();
    if (!followed) followReplay();
    followed = true;
    const watch = new ResizeObserver(() => setWidth(host.current?.clientWidth ?? 0));
    watch.observe(host.current!);
    return () => watch.disconnect();
  }, []);
  const known = day.value;
  const toMs = nowMs.value;
  const fromMs = toMs - DAY_MS;
  const x = (atMs: number): number => ((atMs - fromMs) / DAY_MS) * width;
  const at = query.value.get('at');
  const shownMs = at === null ? toMs : Number(at) * 1000;
  const seek = (event: PointerEvent): void => {
    const box = host.current!.getBoundingClientRect();
    lookAt(fromMs + ((event.clientX - box.left) / box.width) * DAY_MS);
  };
  const key = (event: KeyboardEvent): void => {
    const steps: Record<string, number> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      PageUp: -30,
      PageDown: 30,
    };
    const step = steps[event.key];
    if (step === undefined && event.key !== 'End') return;
    if (step === undefined) lookAt(null);
    else stepInTime(step);
    event.preventDefault();
  };
  const words = t('band.at', { time: clock(shownMs, toMs) });
  return (
    <section class={`band ${at === null ? '' : 'past'}`} aria-label={t('band.title')}>
      <div class="band-head">
        <span>{t('band.title')}</span>
        <BandText known={known} at={at} shownMs={shownMs} />
        <span class="grow" />
        <button
          type="button"
          class="band-live"
          onClick={togglePause}
          aria-pressed={paused.value !== null}
        >
          {paused.value ? t('band.resume') : t('band.pause')} <kbd>{t('band.space')}</kbd>
        </button>
        {at !== null && (
          <button type="button" class="band-live" onClick={() => lookAt(null)}>
            {t('band.live')}
          </button>
        )}
      </div>
      <div
        ref={host}
        class="band-plot"
        role="slider"
        tabIndex={0}
        aria-label={t('band.title')}
        aria-valuemin={Math.round(fromMs)}
        aria-valuemax={Math.round(toMs)}
        aria-valuenow={Math.round(shownMs)}
        aria-valuetext={words}
        onKeyDown={key}
        onPointerDown={(event) => {
          (event.currentTarget as Element).setPointerCapture(event.pointerId);
          seek(event);
        }}
        onPointerMove={(event) => {
          if (event.buttons & 1) seek(event);
        }}
      >
        {width > 0 && known && <Areas known={known} width={width} x={x} />}
        <Ticks fromMs={fromMs} toMs={toMs} x={x} width={width} />
        <i class="band-hand" style={{ left: `${Math.min(width, x(shownMs)) - 1}px` }} />
      </div>
    </section>
  );
}

/** What the hand points at, in words. */
function BandText(props: { known: Day | null; at: string | null; shownMs: number }) {
  const { known, at, shownMs } = props;
  if (!known?.times.length) return <em>{t('band.none')}</em>;
  if (at === null) {
    return paused.value ? (
      <em>{t('band.paused', { time: clock(moment.value?.atMs ?? 0, nowMs.value) })}</em>
    ) : (
      <em>{t('band.drag')}</em>
    );
  }
  const i = nearest(known.times, shownMs);
  const total = STATES.reduce((sum, state) => sum + known.counts[state][i]!, 0);
  const util = known.util[i];
  return (
    <em class="band-past">
      {t('band.then', {
        time: clock(known.times[i]!, nowMs.value),
        running: percent(total ? known.counts.running[i]! / total : 0),
      })}
      {util !== null && util !== undefined && `, ${t('band.util', { util: Math.round(util) })}`}
    </em>
  );
}

interface AreasProps {
  known: Day;
  width: number;
  x: (atMs: number) => number;
}

const GAP_MS = 15 * 60_000; // a longer silence is one: nothing is drawn over it

function Areas({ known, width, x }: AreasProps) {
  const { times, counts } = known;
  const total = times.map((_, i) => STATES.reduce((sum, state) => sum + counts[state][i]!, 0));
  const base = new Float64Array(times.length);
  const top = new Float64Array(times.length);
  const area = (state: State, from: Float64Array, down: boolean) => {
    const before = from.slice();
    counts[state].forEach((count, i) => (from[i]! += total[i] ? count / total[i] : 0));
    if (!counts[state].some((count) => count > 0)) return null;
    const y = (share: number): number => (down ? share : 1 - share) * HEIGHT;
    const d = runs(times).map(([start, end]) => {
      const rows = Array.from({ length: end - start }, (_, i) => start + i);
      const point = (of: Float64Array, i: number): string =>
        `${x(times[i]!).toFixed(1)} ${y(of[i]!).toFixed(1)}`;
      const there = rows.map((i) => point(from, i)).join('L');
      const back = rows
        .reverse()
        .map((i) => point(before, i))
        .join('L');
      return `M${there}L${back}Z`;
    });
    return <path key={state} class={`band-${state}`} d={d.join('')} />;
  };
  return (
    <svg width={width} height={HEIGHT} aria-hidden="true">
      <defs>
        <pattern
          id="band-stripes"
          width="5"
          height="5"
          patternUnits="userSpaceOnUse"
          patternTransform="rotate(45)"
        >
          <rect width="5" height="5" class="band-stripe-back" />
          <rect width="2.4" height="5" class="band-stripe" />
        </pattern>
      </defs>
      {UP.map((state) => area(state, base, false))}
      {DOWN.map((state) => area(state, top, true))}
    </svg>
  );
}

/** [start, end) of moments without a silence between them. */
function runs(times: readonly number[]): [number, number][] {
  const found: [number, number][] = [];
  let start = 0;
  for (let i = 1; i <= times.length; i++) {
    if (i < times.length && times[i]! - times[i - 1]! <= GAP_MS) continue;
    found.push([start, i]);
    start = i;
  }
  return found;
}

function Ticks(props: {
  fromMs: number;
  toMs: number;
  x: (atMs: number) => number;
  width: number;
}) {
  const { fromMs, toMs, x, width } = props;
  const zone = new Date(toMs).getTimezoneOffset() * 60_000;
  const first = Math.ceil((fromMs - zone) / TICK_MS) * TICK_MS + zone;
  const times = [];
  for (let atMs = first; atMs < toMs; atMs += TICK_MS) times.push(atMs);
  return (
    <div class="band-ticks" aria-hidden="true">
      {times
        .filter((atMs) => x(atMs) > 16 && x(atMs) < width - 90)
        .map((atMs) => (
          <span key={atMs} style={{ left: `${x(atMs)}px` }}>
            {clock(atMs, atMs).slice(0, 5)}
          </span>
        ))}
      <b>{t('band.now', { time: clock(toMs, toMs).slice(0, 5) })}</b>
    </div>
  );
}
