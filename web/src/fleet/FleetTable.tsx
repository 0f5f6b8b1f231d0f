// The same query as the map, as a table: for screen readers, for copying, for exact numbers.

import { useEffect, useMemo } from 'preact/hooks';

import type { Field } from '../api/liveMoment';
import { liveSocket } from '../api/liveSocket';
import { byName, figure } from '../format';
import { t } from '../i18n';
import { query } from '../router';
import { VirtualTable, type Column } from '../ui/VirtualTable';
import { fieldText } from './fieldText';
import { Swatch } from './Legend';
import { matching, type Spec } from './spec';
import { columns as allColumns, fields, units } from './state';
import { CARD_COLUMNS } from './UnitCard';
import { jobAt, jobRowAt, keyAt, nodeAt, readingAt, stateAt } from './units';

const dash = '–';
const READINGS = ['util', ...CARD_COLUMNS];

function columns(): Column<number>[] {
  const all = units.value;
  const bytes = allColumns.value;
  const reading = (field: Field): Column<number> => ({
    key: field.name,
    title: fieldText(field),
    width: '88px',
    number: true,
    cell: (row) => {
      const value = readingAt(bytes, field, row);
      return Number.isNaN(value)
        ? dash
        : `${figure(value)}${field.unit === '%' ? '' : ' '}${field.unit}`;
    },
  });
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
      cell: (row) => all.slot[row],
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
    { key: 'project', title: t('col.project'), cell: (row) => jobRowAt(all, row)?.project },
    { key: 'owner', title: t('col.owner'), cell: (row) => jobRowAt(all, row)?.owner },
    {
      key: 'model',
      title: t('col.model'),
      width: '88px',
      cell: (row) => nodeAt(all, row).model,
    },
    ...READINGS.map((name) => fields.value.get(name))
      .filter((field) => field !== undefined)
      .map(reading),
  ];
}

export function FleetTable({ spec }: { spec: Spec }) {
  const all = units.value;
  const selected = query.value.get('select') ?? '';
  useEffect(() => liveSocket.want(CARD_COLUMNS), []);
  const rows = useMemo(() => {
    const readings = { bytes: allColumns.peek(), fields: fields.peek() };
    const lit = matching(all, `${spec.where} ${selected}`, readings);
    const shown = [];
    for (let row = 0; row < all.count; row++) if (!lit || lit[row]) shown.push(row);
    const by = (row: number): string => {
      if (spec.group === 'job') return jobAt(all, row) ?? '\uffff';
      if (spec.group === 'model') return nodeAt(all, row).model;
      if (spec.group === 'project') return jobRowAt(all, row)?.project ?? '\uffff';
      return '';
    };
    if (spec.group === 'block') return shown;
    if (spec.group === 'state') return shown.sort((a, b) => all.state[a]! - all.state[b]! || a - b);
    return shown.sort((a, b) => byName(by(a), by(b)) || a - b);
  }, [all, spec.where, spec.group, selected]);
  return (
    <VirtualTable
      label={t('fleet.matched', { n: rows.length, total: all.count })}
      rows={rows}
      columns={columns()}
      rowHeight={32}
      keyOf={(row) => keyAt(all, row)}
      foot={rows.length === 0 && <p class="map-note">{t('fleet.nothingMatches')}</p>}
    />
  );
}
