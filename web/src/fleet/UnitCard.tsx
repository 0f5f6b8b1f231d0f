// The card beside the square under the pointer: what it is, whose, how it does.

import { figure, percent } from '../format';
import { t } from '../i18n';
import { Sparkline } from '../ui/parts';
import { Swatch } from './Legend';
import { historyOf, knownJobs, units as allUnits } from './state';
import { gpuAt, jobAt, nodeAt, stateAt, type Readings, type Units } from './units';

const WIDTH = 268;
const HEIGHT = 190;
const HOT_C = 85;

interface Props {
  units: Units;
  readings: Readings;
  row: number;
  coarse: boolean;
  at: { x: number; y: number; unit: number };
  room: { width: number; height: number };
}

function names(units: Units, row: number): { title: string; line: string; id: string | null } {
  const gpu = gpuAt(units, row);
  const title = `${nodeAt(units, row).id} · ${units.isSlots ? 'slot' : 'gpu'}${gpu.index}`;
  const id = jobAt(units, row);
  const state = t(`state.${stateAt(units, row)}`);
  if (id === null) return { title, line: `${state}, ${gpu.model}`, id };
  const job = knownJobs.value.get(id);
  const member = gpu.jobs.find((held) => held.job === id)?.member ?? 0;
  const rank = job && job.members > 1 ? t('tip.rank', { rank: member, members: job.members }) : '';
  return { title, line: [state, rank, job?.project].filter(Boolean).join(', '), id };
}

/** The same in one sentence, for ears. */
export function unitWords(units: Units, readings: Readings, row: number): string {
  const { title, line, id } = names(units, row);
  const util = readings.util[row]!;
  const busy = Number.isNaN(util) ? '' : `, ${t('tip.util')} ${percent(util)}`;
  return `${title}, ${id ?? ''} ${line}${busy}`;
}

export function UnitCard({ units, readings, row, coarse, at, room }: Props) {
  const { title, line, id } = names(units, row);
  const gpu = gpuAt(units, row);
  const left = at.x + at.unit + 12;
  const x = left + WIDTH > room.width ? Math.max(4, at.x - WIDTH - 12) : left;
  const y = Math.max(4, Math.min(at.y + at.unit / 2 - 30, Math.max(room.height, HEIGHT) - HEIGHT));
  const temperature = readings.temperature_c[row]!;
  const known: [string, number, string, boolean][] = [
    [t('tip.util'), readings.util[row]!, percent(readings.util[row]!), false],
    [t('tip.memory'), readings.memory[row]!, percent(readings.memory[row]!), false],
    [t('tip.temperature'), temperature, `${figure(temperature)} °C`, temperature >= HOT_C],
    [
      t('tip.power'),
      readings.power_w[row]!,
      `${figure(Math.round(readings.power_w[row]!))} W`,
      false,
    ],
  ];
  const sensors = known.filter(([, value]) => !Number.isNaN(value));
  const history = coarse || units !== allUnits.value ? [] : historyOf([row]);
  return (
    <div class="card" style={{ left: `${x}px`, top: `${y}px`, width: `${WIDTH}px` }}>
      <div class="card-title">
        <Swatch state={stateAt(units, row)} />
        <span class="mono">{coarse ? nodeAt(units, row).id : title}</span>
      </div>
      {id && <div class="card-job mono">{id}</div>}
      <div class="card-line">
        {line}
        {gpu.jobs.length > 1 && `, ${t('tip.shares', { n: gpu.jobs.length })}`}
      </div>
      {sensors.length > 0 && (
        <dl class="card-sensors">
          {sensors.map(([name, , text, hot]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd class={hot ? 'bad' : ''}>{text}</dd>
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
