// The first page: is anything wrong, and where. Everything one sees is in the URL.

import { useEffect } from 'preact/hooks';

import { liveSocket } from '../api/liveSocket';
import { connection, holding, nowMs, overview, waiting, gpusOf } from '../api/store';
import { duration, percent } from '../format';
import { t } from '../i18n';
import { query, setQuery } from '../router';
import { Empty, Kpi, Segmented } from '../ui/parts';
import { devices } from '../words';
import { Attention } from './Attention';
import { FleetTable } from './FleetTable';
import { Band } from './Band';
import { fieldText } from './fieldText';
import { Legend, StateBar } from './Legend';
import { MapView } from './MapView';
import { moment } from './moment';
import { COLORS, GROUPS, isKind, KINDS, specOf, type ColorBy } from './spec';
import { busy, fields, hasSensor, units } from './state';

export function FleetPage() {
  const spec = specOf(query.value);
  useEffect(() => {
    if (!isKind(spec.color)) liveSocket.want([spec.color]);
  }, [spec.color]);
  if (!moment.value) return <main id="content" class="content" aria-busy="true" />;
  if (!units.value.count) {
    return (
      <main id="content" class="content center">
        {connection.value !== 'off' && (
          <Empty title={t('fleet.empty')}>
            <p>{t('fleet.emptyText')}</p>
          </Empty>
        )}
      </main>
    );
  }
  return (
    <>
      <main id="content" class="content fleet">
        <Kpis />
        <StateBar where={spec.where} view={spec.view} />
        <div class="toolbar">
          <Segmented
            label={t('fleet.group')}
            value={spec.group}
            options={GROUPS.map((value) => ({ value, text: t(`group.${value}`) }))}
            choose={(group) => setQuery({ group: group === 'block' ? null : group })}
          />
          <ColorChoice color={spec.color} />
          <span class="grow" />
          <Legend color={spec.color} where={spec.where} />
        </div>
        {spec.view === 'table' ? <FleetTable spec={spec} /> : <MapView spec={spec} />}
        <Band />
      </main>
      <Attention />
    </>
  );
}

/** The usual colours side by side, and every other field that the daemon has in a list. */
function ColorChoice({ color }: { color: ColorBy }) {
  const choose = (next: string): void => setQuery({ color: next === 'util' ? null : next });
  const usual: readonly string[] = COLORS;
  const off = (name: string): string | undefined =>
    isKind(name) || hasSensor(name) ? undefined : t('color.none');
  const more = [
    ...KINDS.filter((name) => !usual.includes(name)).map((name) => ({
      name: name,
      text: t(`color.${name}`),
    })),
    ...[...fields.value.values()]
      .filter((field) => field.unit && !usual.includes(field.name))
      .map((field) => ({ name: field.name, text: fieldText(field) })),
  ];
  return (
    <div class="color-choice">
      <Segmented
        label={t('fleet.color')}
        value={color}
        options={COLORS.map((value) => ({
          value: value,
          text: t(`color.${value}`),
          off: off(value),
        }))}
        choose={choose}
      />
      <select
        class={`more ${more.some((one) => one.name === color) ? 'chosen' : ''}`}
        aria-label={t('color.more')}
        value={more.some((one) => one.name === color) ? color : ''}
        onChange={(event) => choose(event.currentTarget.value || 'util')}
      >
        <option value="">{t('color.more')}</option>
        {more.map(({ name, text }) => (
          <option key={name} value={name} disabled={off(name) !== undefined}>
            {text}
          </option>
        ))}
      </select>
    </div>
  );
}

function Kpis() {
  const now = overview.value;
  const total = now?.gpus.total ?? units.value.count;
  const held = now?.gpus.held ?? 0;
  const queue = waiting.value;
  const asked = queue.reduce((sum, job) => sum + gpusOf(job), 0);
  const running = holding.value;
  const runningGpus = running.reduce((sum, job) => sum + gpusOf(job), 0);
  const longest = queue.reduce((oldest, job) => Math.min(oldest, job.submitted_ms), Infinity);
  const head = queue.find((job) => job.submitted_ms === longest);
  return (
    <div class="kpis">
      <Kpi
        label={t('kpi.allocated')}
        value={percent(total ? held / total : 0, total >= 1000 ? 1 : 0)}
        note={`${held.toLocaleString()} ${t('kpi.ofTotal', { units: devices(total) })}`}
      />
      {!Number.isNaN(busy.value) && (
        <Kpi
          label={t('kpi.busy')}
          value={percent(busy.value, total >= 1000 ? 1 : 0)}
          note={t('kpi.busyNote')}
        />
      )}
      <Kpi
        label={t('kpi.running')}
        value={running.length.toLocaleString()}
        note={t('kpi.jobsOn', { n: running.length, units: devices(runningGpus) })}
      />
      <Kpi
        label={t('kpi.waiting')}
        value={queue.length.toLocaleString()}
        note={
          queue.length
            ? t('kpi.jobsFor', { n: queue.length, units: devices(asked) })
            : t('kpi.nobody')
        }
      />
      {head && (
        <Kpi
          label={t('kpi.longest')}
          value={duration(nowMs.value - longest)}
          note={<a href={`/jobs/${encodeURIComponent(head.id)}`}>{head.id}</a>}
        />
      )}
    </div>
  );
}
