// The card beside the square under the pointer: what it is, whose, how it does.

import type { Field } from '../api/liveMoment';
import { jobs } from '../api/store';
import { duration, figure } from '../format';
import { t } from '../i18n';
import { Sparkline } from '../ui/parts';
import { devices } from '../words';
import { fieldText } from './fieldText';
import { Swatch } from './Legend';
import type { Drawn } from './MapView';
import { paused, replayed } from './moment';
import { fields, historyOf } from './state';
import { jobRowAt, nodeAt, readingAt, stateAt, type Units } from './units';

const WIDTH = 268;
const HEIGHT = 200;
const HOT_C = 85;
/** Columns that are asked for once someone points at a device. */
export const CARD_COLUMNS = ['memory', 'temperature', 'power'];
const CARD_FIELDS = ['util', ...CARD_COLUMNS];

interface Props {
  drawn: Drawn;
  row: number;
  at: { x: number; y: number; unit: number };
  room: { width: number; height: number };
}

/** The rank that sits there; only the job's own record knows it. */
function rankAt(units: Units, row: number): number | null {
  const job = jobRowAt(units, row);
  const node = nodeAt(units, row).id;
  const seats = (job && jobs.peek()?.get(job.id)?.seats) ?? [];
  const seat = seats.find((one) => one.node === node && one.gpus.includes(units.slot[row]!));
  return seat?.rank ?? null;
}

function names(units: Units, row: number): { title: string; line: string; id: string | null } {
  const node = nodeAt(units, row);
  const many = units.weight?.[row] ?? 1;
  const device = `${units.isSlots ? 'slot' : 'gpu'}${units.slot[row]!}`;
  const title = many > 1 ? node.id : `${node.id} · ${device}`;
  const job = jobRowAt(units, row);
  const state = t(`state.${stateAt(units, row)}`);
  const size = many > 1 ? devices(many) : '';
  if (job === null)
    return { title, line: [state, size, node.model].filter(Boolean).join(', '), id: null };
  const rank = job.members > 1 && many === 1 ? rankAt(units, row) : null;
  const place = rank === null ? '' : t('tip.rank', { rank, members: job.members });
  const line = [state, size, place, job.project].filter(Boolean).join(', ');
  return { title, line, id: job.id };
}

/** The same in one sentence, for ears. */
export function unitWords({ units, bytes }: Drawn, row: number): string {
  const { title, line, id } = names(units, row);
  const field = fields.peek().get('util');
  const util = readingAt(bytes, field, row);
  const busy = Number.isNaN(util) ? '' : `, ${t('tip.util')} ${util}%`;
  return `${title}, ${id ?? ''} ${line}${busy}`;
}

/** Power is a share of the board's limit; people know watts. */
function reading(field: Field, value: number, limitW: number): string {
  if (field.name === 'power' && limitW) return `${figure(Math.round((value * limitW) / 100))} W`;
  return `${figure(value)}${field.unit === '%' ? '' : ' '}${field.unit}`;
}

export function UnitCard({ drawn, row, at, room }: Props) {
  const { units, bytes, rows } = drawn;
  const { title, line, id } = names(units, row);
  const left = at.x + at.unit + 12;
  const x = left + WIDTH > room.width ? Math.max(4, at.x - WIDTH - 12) : left;
  const y = Math.max(4, Math.min(at.y + at.unit / 2 - 30, Math.max(room.height, HEIGHT) - HEIGHT));
  const sensors = CARD_FIELDS.map((name) => fields.value.get(name))
    .filter((field) => field !== undefined)
    .map((field) => ({ field, value: readingAt(bytes, field, row) }))
    .filter(({ value }) => !Number.isNaN(value));
  const idle = readingAt(bytes, fields.value.get('idle'), row);
  const isNow = !paused.value && !replayed.value;
  const history = isNow ? historyOf(rows ? rows[row]! : [row]) : [];
  return (
    <div class="card" style={{ left: `${x}px`, top: `${y}px`, width: `${WIDTH}px` }}>
      <div class="card-title">
        <Swatch state={stateAt(units, row)} />
        <span class="mono">{title}</span>
      </div>
      {id && <div class="card-job mono">{id}</div>}
      <div class="card-line">
        {line}
        {!Number.isNaN(idle) && `, ${t('tip.idle', { time: duration(idle * 60_000) })}`}
      </div>
      {sensors.length > 0 && (
        <dl class="card-sensors">
          {sensors.map(({ field, value }) => (
            <div key={field.name}>
              <dt>{fieldText(field)}</dt>
              <dd class={field.name === 'temperature' && value >= HOT_C ? 'bad' : ''}>
                {reading(field, value, nodeAt(units, row).limit_w)}
              </dd>
            </div>
          ))}
        </dl>
      )}
      <Sparkline values={history} width={WIDTH - 28} height={34} />
      {id && (
        <div class="card-keys">
          <kbd>↵</kbd>
          {t('tip.open')}
        </div>
      )}
    </div>
  );
}
