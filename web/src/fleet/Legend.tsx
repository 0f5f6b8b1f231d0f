// The legend is the histogram is the filter: one bar of states, each with its pattern and count; and
// for a reading, how many devices stand where on the ramp, with a range that can be drawn on it.

import { useMemo, useRef, useState } from 'preact/hooks';

import type { Field } from '../api/liveMoment';
import { t } from '../i18n';
import { setQuery } from '../router';
import { Segmented } from '../ui/parts';
import { breachCount, breaches } from './breaches';
import { isKind, ranged, rangesOf, toggled, type ColorBy, type Spec } from './spec';
import { columns, fields, hasSensor, knownJobs, states, units } from './state';
import { CODE, STATES, valueOf, type State } from './units';

const BINS = 30;
const WIDTH = 150;
const HEIGHT = 24;

export function Swatch({ state }: { state: State | 'rule' }) {
  return <i class={`swatch swatch-${state}`} aria-hidden="true" />;
}

const ALWAYS: readonly State[] = ['running', 'free', 'faulty'];

export function StateBar({ where, view }: { where: string; view: Spec['view'] }) {
  const counts = states.value;
  // Always shown: what a healthy fleet has. The rest appears when it exists.
  const shown = STATES.filter((state) => counts[state] > 0 || ALWAYS.includes(state));
  const chosen = new Set(where.split(/\s+/));
  const any = STATES.some((state) => chosen.has(`state:${state}`));
  const choose = (state: State): void => setQuery({ where: toggled(where, `state:${state}`) });
  return (
    <div class={`states ${any ? 'filtered' : ''}`} role="group" aria-label={t('state.bar')}>
      <div class="states-bar" aria-hidden="true">
        {shown
          .filter((state) => counts[state] > 0)
          .map((state) => (
            <span
              key={state}
              class={`swatch-${state} ${chosen.has(`state:${state}`) ? 'chosen' : ''}`}
              style={{ flexGrow: counts[state] }}
              title={`${t(`state.${state}`)} ${counts[state]}`}
              onClick={() => choose(state)}
            />
          ))}
      </div>
      <div class="states-list">
        {shown.map((state) => (
          <button
            key={state}
            type="button"
            aria-pressed={chosen.has(`state:${state}`)}
            onClick={() => choose(state)}
          >
            <Swatch state={state} />
            {t(`state.${state}`)}
            <b class={counts[state] ? '' : 'none'}>{counts[state].toLocaleString()}</b>
          </button>
        ))}
        {breaches.value && (
          <button type="button" onClick={() => setQuery({ select: breaches.value })}>
            <Swatch state="rule" />
            {t('state.rule')}
            <b>{breachCount.value.toLocaleString()}</b>
          </button>
        )}
        <span class="grow" />
        <Segmented
          label={t('fleet.view')}
          bare
          value={view}
          options={[
            { value: 'map', text: t('fleet.map') },
            { value: 'table', text: t('fleet.table') },
          ]}
          choose={(next) => setQuery({ view: next === 'map' ? null : next })}
        />
      </div>
    </div>
  );
}

export function Legend({ color, where }: { color: ColorBy; where: string }) {
  const field = fields.value.get(color);
  if (isKind(color) || !field) return null;
  if (!hasSensor(color)) {
    return knownJobs.value.size && color === 'util' ? (
      <span class="legend-none">{t('color.noSensor')}</span>
    ) : null;
  }
  return <Histogram field={field} where={where} />;
}

/** Of the devices that run: how many have which reading. */
function binned(field: Field, column: Uint8Array | undefined): { bins: number[]; most: number } {
  const bins = new Array<number>(BINS).fill(0);
  const all = units.value;
  const [low, high] = field.shown;
  const bin = Int8Array.from({ length: 256 }, (_, byte) => {
    const share = (valueOf(field, byte) - low) / (high - low);
    return Number.isNaN(share) ? -1 : Math.min(BINS - 1, Math.max(0, Math.floor(share * BINS)));
  });
  for (let row = 0; column && row < all.count; row++) {
    if (all.state[row] !== CODE.running && all.state[row] !== CODE.idle) continue;
    const at = bin[column[row]!]!;
    if (at >= 0) bins[at]!++;
  }
  return { bins, most: Math.max(1, ...bins) };
}

function Histogram({ field, where }: { field: Field; where: string }) {
  const column = columns.value.get(field.name);
  const { bins, most } = useMemo(() => binned(field, column), [field, column, units.value.state]);
  const host = useRef<SVGSVGElement>(null);
  const [from, setFrom] = useState<number | null>(null);
  const [low, high] = field.shown;
  const range = rangesOf(where).find((one) => one.name === field.name) ?? null;
  const valueAt = (event: PointerEvent): number => {
    const box = host.current!.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return Math.round(low + share * (high - low));
  };
  const choose = (a: number, b: number): void => {
    const next = { name: field.name, low: Math.min(a, b), high: Math.max(a, b) };
    const width = (high - low) / WIDTH;
    const clicked = next.high - next.low < 3 * width;
    setQuery({ where: ranged(where, field.name, clicked ? null : next) });
  };
  const x = (value: number): number =>
    Math.min(1, Math.max(0, (value - low) / (high - low))) * WIDTH;
  const unit = `${field.unit === '%' ? '' : ' '}${field.unit}`;
  const label = t('legend.range', { low: range?.low ?? low, high: range?.high ?? high, unit });
  return (
    <div class="legend">
      <span>{`${low}${unit}`}</span>
      <svg
        ref={host}
        width={WIDTH}
        height={HEIGHT + 6}
        role="img"
        aria-label={label}
        onPointerDown={(event) => {
          (event.currentTarget as Element).setPointerCapture(event.pointerId);
          setFrom(valueAt(event));
        }}
        onPointerMove={(event) => {
          if (from !== null) choose(from, valueAt(event));
        }}
        onPointerUp={(event) => {
          if (from !== null) choose(from, valueAt(event));
          setFrom(null);
        }}
      >
        {bins.map((count, at) => {
          // The square root: a few devices at the low end are what one looks for.
          const height = count ? Math.max(1.5, Math.sqrt(count / most) * HEIGHT) : 0;
          const inside =
            !range ||
            (low + ((at + 1) / BINS) * (high - low) > range.low &&
              low + (at / BINS) * (high - low) <= range.high);
          return (
            <rect
              key={at}
              class={`bin ${inside ? '' : 'outside'}`}
              x={(at * WIDTH) / BINS + 0.5}
              y={HEIGHT - height}
              width={WIDTH / BINS - 1}
              height={height}
              style={{ fill: `var(--ramp${Math.round((at / (BINS - 1)) * 7)})` }}
            />
          );
        })}
        <rect class="ramp" x="0" y={HEIGHT + 2} width={WIDTH} height="3" rx="1.5" />
        {range && (
          <rect
            class="brush"
            x={x(range.low)}
            y="0.5"
            width={Math.max(2, x(range.high) - x(range.low))}
            height={HEIGHT}
            rx="3"
          />
        )}
      </svg>
      <span>{`${high}${unit}`}</span>
    </div>
  );
}
