// The same query as the map, as a table: for screen readers, for copying, for exact numbers.

import { useMemo } from 'preact/hooks';

import { byName, figure, percent } from '../format';
import { t } from '../i18n';
import { query } from '../router';
import { VirtualTable, type Column } from '../ui/VirtualTable';
import { Swatch } from './Legend';
import { matching, type Spec } from './spec';
import { knownJobs, readings, units } from './state';
import { gpuAt, jobAt, nodeAt, stateAt } from './units';

const dash = '–';
const known = (value: number, text: (value: number) => string): string =>
  Number.isNaN(value) ? dash : text(value);

function columns(): Column<number>[] {
  const all = units.value;
  const now = readings.value;
  const project = (row: number): string =>
    knownJobs.value.get(jobAt(all, row) ?? '')?.project ?? '';
  return [
    {
      key: 'node',
      title: t('col.node'),
      width: '132px',
      cell: (row) => <code>{nodeAt(all, row).id}</code>,
    },
    {
      key: 'gpu',
      title: t('col.device'),
      width: '72px',
      number: true,
      cell: (row) => gpuAt(all, row).index,
    },
    {
      key: 'state',
      title: t('col.state'),
      width: '132px',
      cell: (row) => (
        <span class="with-swatch">
          <Swatch state={stateAt(all, row)} />
          {t(`state.${stateAt(all, row)}`)}
        </span>
      ),
    },
    {
      key: 'job',
      title: t('col.job'),
      cell: (row) => {
        const id = jobAt(all, row);
        return (
          id && (
            <a href={`/jobs/${encodeURIComponent(id)}`} class="mono">
              {id}
            </a>
          )
        );
      },
    },
    { key: 'project', title: t('col.project'), cell: project },
    {
      key: 'model',
      title: t('col.model'),
      width: '88px',
      cell: (row) => gpuAt(all, row).model,
    },
    {
      key: 'util',
      title: t('col.util'),
      width: '64px',
      number: true,
      cell: (row) => known(now.util[row]!, percent),
    },
    {
      key: 'memory',
      title: t('col.memory'),
      width: '76px',
      number: true,
      cell: (row) => known(now.memory[row]!, percent),
    },
    {
      key: 'temperature',
      title: t('col.temperature'),
      width: '76px',
      number: true,
      cell: (row) => known(now.temperature_c[row]!, (value) => `${figure(value)} °C`),
    },
    {
      key: 'power',
      title: t('col.power'),
      width: '76px',
      number: true,
      cell: (row) => known(now.power_w[row]!, (value) => `${figure(Math.round(value))} W`),
    },
  ];
}

export function FleetTable({ spec }: { spec: Spec }) {
  const all = units.value;
  const selected = query.value.get('select') ?? '';
  const rows = useMemo(() => {
    const lit = matching(all, knownJobs.value, `${spec.where} ${selected}`);
    const shown = [];
    for (let row = 0; row < all.count; row++) if (!lit || lit[row]) shown.push(row);
    const by = (row: number): string => {
      if (spec.group === 'job') return jobAt(all, row) ?? '\uffff';
      if (spec.group === 'state') return String(all.state[row]);
      if (spec.group === 'model') return gpuAt(all, row).model;
      if (spec.group === 'project') {
        return knownJobs.value.get(jobAt(all, row) ?? '')?.project ?? '\uffff';
      }
      return '';
    };
    return spec.group === 'block' ? shown : shown.sort((a, b) => byName(by(a), by(b)) || a - b);
  }, [all, spec.where, spec.group, selected]);
  return (
    <VirtualTable
      label={t('fleet.matched', { n: rows.length, total: all.count })}
      rows={rows}
      columns={columns()}
      rowHeight={32}
      keyOf={(row) => all.keys[row]!}
      foot={rows.length === 0 && <p class="map-note">{t('fleet.nothingMatches')}</p>}
    />
  );
}
