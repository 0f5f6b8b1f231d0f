// The unit map: one device is one square. The canvas draws squares; names, contours and the card
// beside the pointer are ordinary elements above and below it.

import { effect } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { projects } from '../api/store';
import { t } from '../i18n';
import { go, query, setQuery } from '../router';
import { shown } from '../ui/theme';
import { devices } from '../words';
import { UnitCard, unitWords } from './UnitCard';
import { HitGrid, neighbour, type Direction } from './hit';
import { Labels } from './Labels';
import { layout, type Layout } from './layout';
import { paint, palette } from './paint';
import { RunningNow } from './RunningNow';
import { groupUnits, matching, nodeReadings, nodesAsUnits, type Grouping, type Spec } from './spec';
import { Stage } from './stage';
import { hint, knownJobs, readings, units } from './state';
import { jobAt, nodeAt, sameRows, type Readings, type Units } from './units';

const MARGIN = 6; // so that contours at the edge are whole
const LIST_HEIGHT_MIN = 190; // room below a small fleet is used for its jobs
const UNIT_MIN = 3;

interface Drawn {
  units: Units;
  readings: Readings;
  grouping: Grouping;
  made: Layout;
  grid: HitGrid;
  coarse: boolean;
}

/** Layout depends on groups and the box only, so states and readings never move a square. */
function useDrawn(spec: Spec, width: number, height: number): Drawn | null {
  const all = units.value;
  const known = knownJobs.value;
  const quotas = projects.value;
  const laid = useMemo(() => {
    if (width < 50) return null;
    const box = { width: width - 2 * MARGIN, height: height - 2 * MARGIN, grain: grain() };
    const of = (project: string): number | null =>
      quotas?.find((one) => one.id === project)?.quota_gpus ?? null;
    const group = (rows: Units): { grouping: Grouping; made: Layout } => {
      const grouping = groupUnits(rows, known, spec.group, { of });
      return { grouping, made: layout(grouping.groups, grouping.shape, rows.count, box) };
    };
    const fine = group(all);
    if (fine.made.unit > UNIT_MIN || fine.made.height <= box.height || spec.group !== 'block') {
      return { units: all, coarse: false, grid: new HitGrid(fine.made), ...fine };
    }
    const many = nodesAsUnits(all);
    const rough = group(many);
    return { units: many, coarse: true, grid: new HitGrid(rough.made), ...rough };
  }, [all, known, quotas, spec.group, width, height]);
  if (!laid) return null;
  const values = laid.coarse ? nodeReadings(all, readings.value, laid.units) : readings.value;
  return { ...laid, readings: values };
}

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
    const watch = new ResizeObserver(() => {
      const { clientWidth, clientHeight } = node.parentElement!;
      setSize({ width: clientWidth, height: clientHeight });
    });
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
  }, [drawn?.made, size.width]);

  const lit = useMemo(
    () => (drawn ? litRows(drawn.units, spec.where, selected) : null),
    [drawn?.units, spec.where, selected, knownJobs.value],
  );
  useEffect(() => {
    if (!drawn) return;
    return effect(() => {
      const colors = palette(shown.value); // painted anew in the other theme
      const look = { color: spec.color, lit };
      const bytes = paint(drawn.units, drawn.readings, knownJobs.peek(), colors, look);
      stage.current?.paint(bytes, colors.background);
    });
  }, [drawn?.units, drawn?.readings, drawn?.made, spec.color, lit]);

  const roomBelow = drawn ? size.height - drawn.made.height - 2 * MARGIN : 0;
  return (
    <div class="map-room">
      <div
        ref={host}
        class={`map ${moving ? 'moving' : ''}`}
        style={{ height: drawn ? `${drawn.made.height + 2 * MARGIN}px` : '100%' }}
      >
        {drawn && <Contour drawn={drawn} selected={selected} />}
        <div class="map-canvas" />
        {drawn && <Labels drawn={drawn} margin={MARGIN} readings={drawn.readings} />}
        {drawn && <Pointer drawn={drawn} hover={hover} setHover={setHover} spec={spec} />}
        {drawn && !moving && <Card drawn={drawn} row={hover} room={size} />}
      </div>
      {drawn?.coarse && <p class="map-note">{t('fleet.eachNode')}</p>}
      {lit && !lit.includes(1) && <p class="map-note">{t('fleet.nothingMatches')}</p>}
      {roomBelow > LIST_HEIGHT_MIN && <RunningNow />}
    </div>
  );
}

interface CardProps {
  drawn: Drawn;
  row: number;
  room: { width: number; height: number };
}

function Card({ drawn, row, room }: CardProps) {
  const { units: all, made, coarse } = drawn;
  if (row < 0 || row >= all.count) return null;
  const at = { x: made.x[row]! + MARGIN, y: made.y[row]! + MARGIN, unit: made.unit };
  return (
    <UnitCard units={all} readings={drawn.readings} row={row} coarse={coarse} at={at} room={room} />
  );
}

const moved = (a: Layout, b: Layout): boolean =>
  a.unit !== b.unit || a.x.some((x, i) => x !== b.x[i]) || a.y.some((y, i) => y !== b.y[i]);

function litRows(all: Units, where: string, selected: string): Uint8Array | null {
  const found = matching(all, knownJobs.value, where);
  const chosen = selected ? matching(all, knownJobs.value, selected) : null;
  if (!chosen || !chosen.includes(1)) return found;
  return found ? chosen.map((on, i) => on & found[i]!) : chosen;
}

/** One contour round what is selected, under the squares: a wide line, then its inside again. */
function Contour({ drawn, selected }: { drawn: Drawn; selected: string }) {
  const path = useMemo(() => {
    if (!selected) return '';
    const chosen = matching(drawn.units, knownJobs.value, selected);
    const { unit, x, y } = drawn.made;
    // Wide enough to join the devices of a node and neighbouring nodes into one shape.
    const reach = Math.min(MARGIN - 1.5, Math.max(2, unit * 0.24));
    let path = '';
    chosen?.forEach((on, row) => {
      if (!on || Number.isNaN(x[row]!)) return;
      const side = unit + 2 * reach;
      const [left, top] = [x[row]! + MARGIN - reach, y[row]! + MARGIN - reach];
      path += `M${left} ${top}h${side}v${side}h${-side}z`;
    });
    return path;
  }, [drawn.made, drawn.units, selected]);
  if (!path) return null;
  return (
    <svg class="contour" aria-hidden="true">
      <path class="contour-line" d={path} />
      <path class="contour-inside" d={path} />
    </svg>
  );
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
    else if (event.key === ' ') select(hover);
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
      }}
      onPointerLeave={() => setHover(-1)}
      onClick={(event) => select(at(event))}
      onDblClick={(event) => open(at(event))}
      onKeyDown={key}
      onBlur={() => setHover(-1)}
    >
      <span class="hidden" aria-live="polite">
        {hover >= 0 && hover < drawn.units.count
          ? unitWords(drawn.units, drawn.readings, hover)
          : ''}
      </span>
    </div>
  );
}

const firstOf = (made: Layout): number => made.x.findIndex((x) => !Number.isNaN(x));
