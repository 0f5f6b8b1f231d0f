// The numbers behind strips and scatter: a row for each line, for screen readers and for copying.

import { useMemo } from 'preact/hooks';

import type { Heat } from '../api/series';
import { t } from '../i18n';
import { VirtualTable, type Column } from '../ui/VirtualTable';
import { metricText, quantity } from './quantity';

interface Row {
  key: string;
  node: string;
  gpu: string;
  rank: number;
  /** Of each metric: mean, lowest, highest. */
  figures: [number, number, number][];
}

function rowsOf(heats: readonly Heat[]): Row[] {
  const rows = new Map<string, Row>();
  heats.forEach((heat, at) => {
    heat.lines.forEach((line, i) => {
      const row = rows.get(line.key) ?? { ...line, figures: heats.map(() => [NaN, NaN, NaN]) };
      row.figures[at] = figuresOf(heat, i);
      rows.set(line.key, row);
    });
  });
  return [...rows.values()].sort((a, b) => a.rank - b.rank);
}

function figuresOf(heat: Heat, row: number): [number, number, number] {
  const columns = heat.times.length;
  let [sum, n, low, high] = [0, 0, NaN, NaN];
  for (const value of heat.values.subarray(row * columns, (row + 1) * columns)) {
    if (Number.isNaN(value)) continue;
    sum += value;
    n++;
    low = n === 1 ? value : Math.min(low, value);
    high = n === 1 ? value : Math.max(high, value);
  }
  return [n ? sum / n : NaN, low, high];
}

export function HeatTable({ heats, label }: { heats: readonly Heat[]; label: string }) {
  const rows = useMemo(() => rowsOf(heats), heats);
  const columns: Column<Row>[] = [
    {
      key: 'rank',
      title: t('col.rank'),
      width: '64px',
      cell: (row) => (row.rank < 0 ? '–' : row.rank),
    },
    { key: 'node', title: t('col.node'), cell: (row) => <code>{row.node || row.key}</code> },
    {
      key: 'gpu',
      title: t('col.device'),
      width: '76px',
      number: true,
      cell: (row) => row.gpu || '–',
    },
  ];
  heats.forEach((heat, at) => {
    const name = heats.length > 1 ? `${metricText(heat.metric).text}, ` : '';
    (['mean', 'min', 'max'] as const).forEach((how, i) => {
      columns.push({
        key: `${heat.metric} ${how}`,
        title: `${name}${t(`heat.${how}`)}`,
        number: true,
        cell: (row) => quantity(row.figures[at]![i]!, heat.unit),
      });
    });
  });
  return (
    <div class="heat-table">
      <VirtualTable
        label={label}
        rows={rows}
        columns={columns}
        rowHeight={30}
        keyOf={(row) => row.key}
      />
    </div>
  );
}
