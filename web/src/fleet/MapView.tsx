// The unit map: one device is one square. The canvas draws squares; names, contours and the card
// beside the pointer are ordinary elements above and below it.

import { effect } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { liveSocket } from '../api/liveSocket';
import { projects } from '../api/store';
import { t } from '../i18n';
import { go, query, setQuery } from '../router';
import { shown } from '../ui/theme';
import { devices } from '../words';
import { CARD_COLUMNS, UnitCard, unitWords } from './UnitCard';
import { HitGrid, neighbour, type Direction } from './hit';
import { Labels } from './Labels';
import { layout, type Box, type Layout } from './layout';
import { Contours } from './Contours';
import { paint, palette } from './paint';
import { RunningNow } from './RunningNow';
import {
  coarse,
  coarseBytes,
  coarseUnits,
  groupUnits,
  isStill,
  matching,
  rangesOf,
  type Behind,
  type Grouping,
  type Spec,
} from './spec';
import { Stage } from './stage';
import { columns, fields, hint, units } from './state';
import { jobAt, nodeAt, sameRows, type Bytes, type Units } from './units';

const MARGIN = 6; // so that contours at the edge are whole
const LIST_HEIGHT_MIN = 190; // room below a small fleet is used for its jobs
const UNIT_MIN = 3;

export interface Drawn {
  units: Units;
  bytes: Bytes;
  grouping: Grouping;
  made: Layout;
  grid: HitGrid;
  /** The devices behind each square, where a square is more than one; null: it is one. */
  rows: Behind | null;
}

/** Layout depends on groups and the box only, so states and readings never move a square. */
function useDrawn(spec: Spec, width: number, height: number): Drawn | null {
  const all = units.value;
  const quotas = projects.value;
  const bytes = columns.value;
  const still = isStill(spec.group); // these lie where they lie, whatever their devices do
  const laid = useMemo(() => {
    if (width < 50) return null;
    const box = { width: width - 2 * MARGIN, height: height - 2 * MARGIN, grain: grain() };
    const of = (project: string): number | null =>
      quotas?.find((one) => one.id === project)?.quota_gpus ?? null;
    const fine = groupUnits(all, spec.group, { of });
    const place = (grouping: Grouping, count: number): Omit<Drawn, 'units' | 'bytes' | 'rows'> => {
      const made = layout(grouping.groups, grouping.shape, count, box);
      return { grouping, made, grid: new HitGrid(made) };
    };
    if (fits(fine, all.count, box)) {
      const drawn = place(fine, all.count);
      if (drawn.made.unit > UNIT_MIN || drawn.made.height <= box.height)
        return { ...drawn, rows: null };
    }
    const { grouping, rows } = coarse(all, fine);
    return { ...place(grouping, rows.length), rows };
  }, [still ? all.places.version : all, still ? null : quotas, spec.group, width, height]);
  const rows = laid?.rows ?? null;
  const shown = useMemo(() => (rows ? coarseUnits(all, rows) : all), [rows, all]);
  const values = useMemo(() => (rows ? coarseBytes(all, bytes, rows) : bytes), [rows, bytes]);
  return laid && { ...laid, units: shown, bytes: values };
}

/** False where even the smallest squares, without any gaps, are more than the box. */
const fits = (grouping: Grouping, count: number, box: Box): boolean =>
  count * UNIT_MIN * UNIT_MIN <= box.width * box.height || grouping.groups.length === 0;

const grain = (): number => 1 / Math.max(1, Math.round(window.devicePixelRatio));

export function MapView({ spec }: { spec: Spec }) {
  const host = useRef<HTMLDivElement>(null);
  const stage = useRef<Stage | null>(null);
  const before = useRef<{ units: Units; made: Layout } | null>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [moving, setMoving] = useState(false);
  const [hover, setHover] = useState(-1);
  const drawn = useDrawn(spec, size.width, size.height);
  const selected = query.value.get('select') ?? hint.value;

  useEffect(() => {
    const node = host.current!;
    const made = new Stage(node.querySelector<HTMLElement>('.map-canvas')!, setMoving);
    stage.current = made;
    const measure = (): void => {
      const { clientWidth, clientHeight } = node.parentElement!;
      setSize({ width: clientWidth, height: clientHeight });
    };
    measure(); // the observer's first word comes a frame later
    const watch = new ResizeObserver(measure);
    watch.observe(node.parentElement!);
    return () => {
      watch.disconnect();
      made.destroy();
      stage.current = null;
    };
  }, []);

  useEffect(() => {
    if (!drawn || !stage.current) return;
    const { made } = drawn;
    const same = before.current && sameRows(before.current.units, drawn.units);
    const height = Math.max(made.height, 1) + 2 * MARGIN;
    stage.current.resize(size.width, height, window.devicePixelRatio);
    if (before.current?.made !== made) {
      const shift = (values: Float32Array): Float32Array => values.map((at) => at + MARGIN);
      const scene = { unit: made.unit, x: shift(made.x), y: shift(made.y) };
      stage.current.show(scene, Boolean(same) && moved(before.current!.made, made));
    }
    before.current = { units: drawn.units, made };
  }, [drawn?.made, drawn?.units, size.width]);

  const lit = useLit(drawn, spec.where, selected);
  const painted = drawn?.bytes.get(spec.color);
  useEffect(() => {
    if (!drawn) return;
    return effect(() => {
      const colors = palette(shown.value); // painted anew in the other theme
      const look = { color: spec.color, lit };
      const readings = { bytes: drawn.bytes, fields: fields.value };
      stage.current?.paint(paint(drawn.units, readings, colors, look), colors);
    });
  }, [drawn?.units, painted, drawn?.made, spec.color, lit]);

  const above = drawn && (
    <>
      <Labels drawn={drawn} margin={MARGIN} />
      <Pointer drawn={drawn} hover={hover} setHover={setHover} spec={spec} />
      {!moving && <Card drawn={drawn} row={hover} room={size} />}
    </>
  );
  return (
    <div class="map-room">
      <div
        ref={host}
        class={`map ${moving ? 'moving' : ''}`}
        style={{ height: drawn ? `${drawn.made.height + 2 * MARGIN}px` : '100%' }}
      >
        {drawn && <Contours drawn={drawn} selected={selected} margin={MARGIN} />}
        <div class="map-canvas" />
        {above}
      </div>
      {drawn && <Below drawn={drawn} lit={lit} height={size.height} />}
    </div>
  );
}

/** What is said under the map: what a square is, that nothing matches, and who runs if there is room. */
function Below({ drawn, lit, height }: { drawn: Drawn; lit: Uint8Array | null; height: number }) {
  const room = height - drawn.made.height - 2 * MARGIN;
  return (
    <>
      {drawn.rows && <p class="map-note">{t('fleet.eachNode')}</p>}
      {lit && !lit.includes(1) && <p class="map-note">{t('fleet.nothingMatches')}</p>}
      {room > LIST_HEIGHT_MIN && <RunningNow />}
    </>
  );
}

function useLit(drawn: Drawn | null, where: string, selected: string): Uint8Array | null {
  const ranges = rangesOf(where).length > 0; // only these follow the readings
  return useMemo(
    () => (drawn ? litRows(drawn, where, selected) : null),
    [drawn?.units, ranges ? drawn?.bytes : null, where, selected],
  );
}

interface CardProps {
  drawn: Drawn;
  row: number;
  room: { width: number; height: number };
}

function Card({ drawn, row, room }: CardProps) {
  const { units: all, made } = drawn;
  if (row < 0 || row >= all.count) return null;
  const at = { x: made.x[row]! + MARGIN, y: made.y[row]! + MARGIN, unit: made.unit };
  return <UnitCard drawn={drawn} row={row} at={at} room={room} />;
}

const moved = (a: Layout, b: Layout): boolean =>
  a.unit !== b.unit || a.x.some((x, i) => x !== b.x[i]) || a.y.some((y, i) => y !== b.y[i]);

function litRows(drawn: Drawn, where: string, selected: string): Uint8Array | null {
  const readings = { bytes: drawn.bytes, fields: fields.peek() };
  const found = matching(drawn.units, where, readings);
  const chosen = selected ? matching(drawn.units, selected) : null;
  if (!chosen || !chosen.includes(1)) return found;
  return found ? chosen.map((on, i) => on & found[i]!) : chosen;
}

const ARROWS: Record<string, Direction> = {
  ArrowLeft: 'left',
  ArrowRight: 'right',
  ArrowUp: 'up',
  ArrowDown: 'down',
};

interface PointerProps {
  drawn: Drawn;
  hover: number;
  setHover: (row: number) => void;
  spec: Spec;
}

/** Takes pointer and keys for the whole map; says the unit in words for screen readers. */
function Pointer({ drawn, hover, setHover, spec }: PointerProps) {
  const { made, grid } = drawn;
  const at = (event: MouseEvent): number => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    return grid.at(event.clientX - box.left - MARGIN, event.clientY - box.top - MARGIN);
  };
  const select = (row: number): void => {
    const id = row < 0 ? null : jobAt(drawn.units, row);
    const term = id ? `job:${id}` : row < 0 ? null : `node:${nodeAt(drawn.units, row).id}`;
    setQuery({ select: term === query.value.get('select') ? null : term });
  };
  const open = (row: number, tab = ''): void => {
    const id = row < 0 ? null : jobAt(drawn.units, row);
    if (id) go(`/jobs/${encodeURIComponent(id)}${tab}`);
  };
  const key = (event: KeyboardEvent): void => {
    const direction = ARROWS[event.key];
    if (direction) {
      const next = hover < 0 ? firstOf(made) : neighbour(made, hover, direction);
      if (next >= 0) setHover(next);
    } else if (event.key === 'Enter') open(hover);
    else if (event.key === 'd' && hover >= 0) open(hover, '/diagnose');
    else if (event.key === 'Escape' && hover >= 0) setHover(-1);
    else return;
    event.preventDefault();
  };
  const label = t('fleet.mapLabel', {
    units: devices(units.value.count),
    group: t(`group.${spec.group}`),
  });
  return (
    <div
      class="map-pointer"
      role="application"
      tabIndex={0}
      aria-label={label}
      onPointerMove={(event) => {
        const row = at(event);
        if (row !== hover) setHover(row);
        if (row >= 0) liveSocket.want(CARD_COLUMNS);
      }}
      onPointerLeave={() => setHover(-1)}
      onClick={(event) => select(at(event))}
      onDblClick={(event) => open(at(event))}
      onKeyDown={key}
      onBlur={() => setHover(-1)}
    >
      <span class="hidden" aria-live="polite">
        {hover >= 0 && hover < drawn.units.count ? unitWords(drawn, hover) : ''}
      </span>
    </div>
  );
}

const firstOf = (made: Layout): number => made.x.findIndex((x) => !Number.isNaN(x));
