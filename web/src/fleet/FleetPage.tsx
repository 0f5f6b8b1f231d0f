// The first page: is anything wrong, and where. Everything one sees is in the URL.

import { connection, holding, nodes, nowMs, overview, waiting, gpusOf } from '../api/store';
import { duration, percent } from '../format';
import { t } from '../i18n';
import { query, setQuery } from '../router';
import { Empty, Kpi, Segmented } from '../ui/parts';
import { devices } from '../words';
import { Attention } from './Attention';
import { FleetTable } from './FleetTable';
import { Legend, StateBar } from './Legend';
import { MapView } from './MapView';
import { COLORS, GROUPS, specOf } from './spec';
import { busy, hasSensor, units } from './state';

export function FleetPage() {
  const spec = specOf(query.value);
  if (!nodes.value) return <main id="content" class="content" aria-busy="true" />;
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
  const sensor = hasSensor.value;
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
          <Segmented
            label={t('fleet.color')}
            value={spec.color}
            options={COLORS.map((value) => ({
              value,
              text: t(`color.${value}`),
              off: value === 'project' || sensor[value] ? undefined : t('color.none'),
            }))}
            choose={(color) => setQuery({ color: color === 'util' ? null : color })}
          />
          <span class="grow" />
          <Legend color={spec.color} />
        </div>
        {spec.view === 'table' ? <FleetTable spec={spec} /> : <MapView spec={spec} />}
      </main>
      <Attention />
    </>
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
